"""Training that survives a kill: the schedule, its steps, and the checkpoints between epochs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistakes import progress
from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.data.pixels import to_unit
from mistakes.networks.architectures import Classifier
from mistakes.networks.augmentation import weak


@dataclass(frozen=True)
class Schedule:
    """How a network is trained: SGD with Nesterov momentum, a learning rate that rises over 20 %
    and falls to 0.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    flip: bool  # mirror half of the images left to right
    shift: int  # move images by up to so many pixels, in both directions; the edge is repeated
    precision: str  # bfloat16 (autocast), float32, or auto
    seed: int


def train(
    model: Classifier,
    images: Array,
    labels: Array,
    schedule: Schedule,
    device: torch.device,
    on_epoch: Callable[[int, float], dict[str, float]],
    checkpoint: Path,
) -> list[dict[str, float]]:
    """Train in place on images (n, c, h, w), uint8, and labels (n,); the result is a function of
    ``schedule.seed``.

    Returns epoch, mean loss and what ``on_epoch(epoch, loss)`` returned, for each epoch. After
    each, ``checkpoint`` is written; where it exists, training goes on from it, and ends with the
    same weights as if it had never stopped.
    """
    model.to(device).to(memory_format=torch.channels_last)
    optimiser = make_optimizer(model, schedule)
    x, y = torch.as_tensor(images.copy()).to(device), torch.as_tensor(labels.copy()).to(device)
    history = load_checkpoint({"model": model}, optimiser, checkpoint)
    for epoch in progress.bar(range(len(history), schedule.epochs), "epochs"):
        loss = _epoch(model, optimiser, x, y, schedule, epoch)
        history.append({"epoch": epoch + 1, "loss": loss, **on_epoch(epoch + 1, loss)})
        save_checkpoint({"model": model}, optimiser, history, checkpoint)
    return history


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Return the optimiser of a schedule."""
    return torch.optim.SGD(
        model.parameters(),
        schedule.learning_rate,
        schedule.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.momentum > 0,
    )


def epoch_generator(schedule: Schedule, epoch: int) -> torch.Generator:
    """Return the generator of an epoch, counted from 0: a resumed run draws what an undisturbed one
    would.
    """
    return torch.Generator().manual_seed(schedule.seed * 1_000_003 + epoch)


def autocast(schedule: Schedule, device: torch.device) -> torch.autocast:
    """Return the context in which the network computes, in bfloat16 where the schedule says so."""
    half = schedule.precision == "bfloat16" or (
        schedule.precision == "auto" and fast_bfloat16(device)
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def set_learning_rate(
    optimiser: torch.optim.Optimizer, schedule: Schedule, progress: float
) -> None:
    """Set the learning rate at ``progress`` through the training, 0 to 1."""
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * one_cycle(progress)


def _epoch(
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    schedule: Schedule,
    epoch: int,
) -> float:
    model.train()
    generator = epoch_generator(schedule, epoch)
    batches = torch.randperm(len(x), generator=generator).split(schedule.batch_size)
    total = torch.zeros((), device=x.device)
    for i, batch in enumerate(batches):
        images = weak(to_unit(x[batch]), schedule.flip, schedule.shift, generator)
        with autocast(schedule, x.device):
            logits = model(images)
        loss = functional.cross_entropy(logits.float(), y[batch])
        set_learning_rate(optimiser, schedule, (epoch + i / len(batches)) / schedule.epochs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.detach() * len(batch)
    return float(total) / len(x)


def fast_bfloat16(device: torch.device) -> bool:
    """Say whether bfloat16 is faster than float32 here: processors without AVX-512 emulate it ten
    times slower.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def one_cycle(progress: float, peak: float = 0.2) -> float:
    """Return the share of the full learning rate: from 0.04 up to 1 at ``peak``, then straight down
    to 0 at 1.

    Examples
    --------
    >>> one_cycle(0.0), one_cycle(0.2), one_cycle(1.0)
    (0.04, 1.0, 0.0)
    """
    return max(progress / peak, 0.04) if progress < peak else (1 - progress) / (1 - peak)


def save_checkpoint(
    models: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    history: list[dict[str, float]],
    checkpoint: Path,
) -> None:
    """Write a checkpoint from which ``load_checkpoint`` goes on."""
    momenta = {
        f"momentum.{i}": state["momentum_buffer"]
        for i, state in enumerate(optimiser.state.values())
        if state
    }
    weights = {
        f"{name}.{key}": value
        for name, model in models.items()
        for key, value in model.state_dict().items()
    }
    save_tensors(checkpoint, weights | momenta, {"history": history})


def load_checkpoint(
    models: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, checkpoint: Path
) -> list[dict[str, float]]:
    """Restore models and optimiser where there is a checkpoint; return the history of the epochs
    that are done.
    """
    if not checkpoint.exists():
        return []
    tensors, description = load_tensors(checkpoint)
    for name, model in models.items():
        prefix = f"{name}."
        model.load_state_dict(
            {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        )
    for i, parameter in enumerate(optimiser.param_groups[0]["params"]):
        if f"momentum.{i}" in tensors:
            momentum = torch.empty_like(parameter).copy_(tensors[f"momentum.{i}"])
            optimiser.state[parameter]["momentum_buffer"] = momentum
    return list(description["history"])
