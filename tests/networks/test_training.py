"""Training goes on after a kill as if there had been none."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mistakes.networks import architectures, augmentation, training

# classifier


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[architectures.Classifier, np.ndarray, np.ndarray]:
    """A small network that tells bright left halves from bright right halves."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 90, (400, 1, 8, 8)).astype(np.uint8)
    labels = rng.integers(0, 2, 400)
    images[labels == 0, :, :, :4] += 60
    images[labels == 1, :, :, 4:] += 60
    schedule = training.Schedule(3, 40, 0.05, 0.9, 1e-4, False, 0, "float32", 0)
    model = architectures.new("small_cnn", 4, 2, images, 0)
    checkpoint = tmp_path_factory.mktemp("trained") / "c.safetensors"
    training.train(model, images, labels, schedule, torch.device("cpu"), lambda *_: {}, checkpoint)
    return model.eval().requires_grad_(False), images, labels


def test_resuming_gives_the_weights_of_an_undisturbed_run(
    trained, cpu: torch.device, tmp_path
) -> None:
    _, images, labels = trained
    schedule = training.Schedule(4, 40, 0.05, 0.9, 1e-4, True, 2, "bfloat16", 0)
    whole, broken = (architectures.new("small_cnn", 4, 2, images, 0) for _ in range(2))
    training.train(whole, images, labels, schedule, cpu, lambda *_: {}, tmp_path / "a")

    def stop(epoch: int, _loss: float) -> dict[str, float]:
        if epoch == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        training.train(broken, images, labels, schedule, cpu, stop, tmp_path / "b")
    fresh = architectures.new("small_cnn", 4, 2, images, 0)
    history = training.train(fresh, images, labels, schedule, cpu, lambda *_: {}, tmp_path / "b")
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_augmentation_mirrors_half_and_moves_every_way(rng: np.random.Generator) -> None:
    image = torch.as_tensor(rng.random((1, 2, 6, 5), np.float32))
    made = augmentation.weak(
        image.expand(400, -1, -1, -1), True, 1, torch.Generator().manual_seed(0)
    )
    padded = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    possible = [
        part.flip(3) if mirror else part
        for part in (padded[:, :, dy : dy + 6, dx : dx + 5] for dy in range(3) for dx in range(3))
        for mirror in (False, True)
    ]
    counts = [int((made == part).flatten(1).all(1).sum()) for part in possible]
    assert sum(counts) == 400  # nothing else was made
    assert min(counts) > 5
    assert torch.equal(augmentation.weak(image, False, 0, torch.Generator()), image)
