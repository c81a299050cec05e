"""A project of real size in the folder where one stands: JPEGs of 224 pixels, and a ResNet-18.

python -m benchmarks.images_224 IMAGES makes own/train/CLASS/*.jpg, trains torchvision's network
on them for one epoch, and writes params.yaml; benchmarks.pipeline then runs the stages.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import save_file

SIZE, CLASSES, BATCH = 224, 10, 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def picture(index: int) -> np.ndarray:
    """Return image ``index``, uint8 (h, w, 3): waves whose number and direction are its class's.

    Noise, phase and colour are the image's own, so that some are hard to tell.
    """
    rng = np.random.default_rng(index)
    angle = np.pi * (index % CLASSES) / CLASSES + rng.normal(0, 0.09)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = np.sin(40 * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 6.3))
    colour = rng.uniform(20, 60, 3)
    noise = rng.normal(0, 40, (SIZE, SIZE, 3))
    return (128 + waves[:, :, None] * colour + noise).clip(0, 255).astype(np.uint8)


def write(index: int) -> None:
    """Write image ``index`` into the folder of its class."""
    folder = Path(f"own/train/{index % CLASSES:02d}")
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(index)).save(folder / f"{index:06d}.jpg", quality=90)


def train(images: int, device: torch.device) -> torch.nn.Module:
    """Return a ResNet-18 that saw ``images`` images of its own once."""
    net = torchvision.models.resnet18(num_classes=CLASSES).to(device)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    mean, std = (torch.tensor(part, device=device)[:, None, None] for part in (MEAN, STD))
    for start in range(0, images, BATCH):
        rows = range(10**7 + start, 10**7 + start + BATCH)  # none of those in own/train
        x = torch.stack([torch.as_tensor(picture(i)) for i in rows]).to(device)
        x = (x.permute(0, 3, 1, 2) / 255 - mean) / std
        y = torch.tensor([i % CLASSES for i in rows], device=device)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.cpu().eval()


def main() -> None:
    """Make images, network and parameters."""
    images = int(sys.argv[1])
    with ProcessPoolExecutor() as pool:
        list(pool.map(write, range(images), chunksize=100))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    save_file(train(min(images, 4000), device).state_dict(), "own/resnet18.safetensors")
    params = yaml.safe_load(Path("params.yaml").read_text())
    own = yaml.safe_load(Path("experiments/own_images.yaml").read_text())["raw"]
    tenth = images // 10
    params["raw"] = own | {"train": "own/train", "size": SIZE, "corrupt": "refuse"}
    params["images"] |= {"val": tenth, "cal": tenth, "test": tenth}
    params["classifiers"] = {
        "resnet18": {
            "source": "torchvision",
            "name": "resnet18",
            "arguments": {"num_classes": CLASSES},
            "weights": "own/resnet18.safetensors",
            "layer": "avgpool",
            "early": ["layer1", "layer2", "layer3"],
            "mean": MEAN,
            "std": STD,
            "channels": 3,
            "size": None,
        }
    }
    params["detectors"]["vim_share"] = None
    params["ood"] |= {"patch": 56, "images": tenth}
    params["corruptions"]["images"] = min(500, tenth)
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


if __name__ == "__main__":
    main()
