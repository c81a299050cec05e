"""A saved classifier rebuilds itself."""

import numpy as np
import pytest
import torch

from mistakes.data.pixels import to_unit
from mistakes.errors import ArgumentError
from mistakes.networks import architectures


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(6, 6))
    return np.maximum(rng.normal(size=(600, 6)) @ mixing + 1, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "width", "features"),
    [("small_cnn", 8, 128), ("resnet9", 8, 64), ("resnet18", 64, 512)],
)
def test_saved_classifier_rebuilds_itself_with_its_features(
    name, width, features, cpu, tmp_path, rng
) -> None:
    from mistakes.networks.extraction import Extractor

    images = rng.integers(0, 256, (6, 3, 16, 16), np.uint8)
    model = architectures.new(name, width, 5, images, 0).eval()
    architectures.save(model, tmp_path / "m.safetensors")
    loaded = architectures.load(tmp_path / "m.safetensors")
    x = to_unit(images)
    assert torch.equal(model(x), loaded(x))
    batch = Extractor(loaded, "penultimate", None, cpu).whole(images, 4)
    assert batch.features.shape == (6, features)
    assert batch.logits == pytest.approx(model(x).detach().numpy(), abs=1e-4)
    head = model.net.fc if name == "resnet18" else model.net.logits
    assert head(torch.as_tensor(batch.features)).detach().numpy() == pytest.approx(
        batch.logits, abs=1e-4
    )
    with pytest.raises(
        ArgumentError, match="layer is 'nowhere', expected penultimate or one of .*net"
    ):
        Extractor(loaded, "nowhere", None, cpu)
    early = {"small_cnn": [16, 32, 64], "resnet9": [32, 64, 128], "resnet18": [128, 256, 512]}
    assert [part.shape[1] for part in batch.early] == early[name]
    with torch.no_grad():
        normalised, net = (x - model.mean) / model.std, model.net
        maps = {
            "small_cnn": lambda: net.block1(normalised),
            "resnet9": lambda: net.layer1(net.stem(normalised)),
            "resnet18": lambda: net.layer1(net.relu(net.bn1(net.conv1(normalised)))),
        }[name]()
    moments = torch.cat([maps.mean((2, 3)), maps.std((2, 3), correction=0)], dim=1)
    assert batch.early[0] == pytest.approx(moments.numpy(), abs=1e-4)
