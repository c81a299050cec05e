"""Semi-supervised training: few images with labels, and all the images of fit without.

A batch holds b images with labels and ratio * b without; the loss is the cross-entropy of the
former plus ``weight`` times a loss of the latter, where p is the softmax of the network that is
trained:

fixmatch : cross-entropy of strongly changed images to the class that is predicted for the same
images, weakly changed, where its probability is at least ``threshold`` (Sohn et al. 2020). The
result is the moving average of the weights. mean_teacher : mean squared difference of p from that
of the moving average of the weights, the teacher, for two weak changes of the same images;
``weight`` rises as exp(-5 (1 - t)^2) (Tarvainen, Valpola 2017). The result is the teacher.
pseudo_label : cross-entropy to the class that is predicted now, for every image; ``weight`` rises
as t (Lee 2013).

t goes from 0 to 1 over the first share ``ramp`` of the training and stays there. Weak changes are
those of the schedule, strong ones those of module augmentation.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistakes import progress
from mistakes.artifacts import Array
from mistakes.data.pixels import to_unit
from mistakes.networks import training
from mistakes.networks.architectures import Classifier
from mistakes.networks.augmentation import strong, weak
from mistakes.networks.training import Schedule


@dataclass(frozen=True)
class Method:
    """What is made of images without labels; None where a method has no such value."""

    name: str  # fixmatch, mean_teacher or pseudo_label
    ratio: int  # images without labels for each one with a label in a batch
    weight: float  # of their loss
    threshold: float | None = None  # least probability of a class that is learned
    ramp: float | None = None  # share of the training over which the weight rises
    average: float | None = None  # decay of the moving average of the weights


# of an entry of ``classifiers``, for Method
KEYS = (
    "ratio",
    "weight",
    "threshold",
    "ramp",
    "average",
)


def train(
    model: Classifier,
    images: Array,
    labels: Array,
    known: Array,
    schedule: Schedule,
    method: Method,
    device: torch.device,
    on_epoch: Callable[[int, float], dict[str, float]],
    checkpoint: Path,
) -> list[dict[str, float]]:
    """Train in place, as training.train does; labels (n,) are read at the positions ``known``
    alone.

    An epoch sees every image once without its label. With ``method.average`` the trained network is
    a copy, and ``model`` the average of its weights.
    """
    model.to(device).to(memory_format=torch.channels_last)
    student = model if method.average is None else copy.deepcopy(model)
    models = {"model": model} if student is model else {"model": model, "student": student}
    optimiser = training.make_optimizer(student, schedule)
    x, y = (
        torch.as_tensor(images.copy()).to(device),
        torch.as_tensor(labels[known].copy()).to(device),
    )
    few = torch.as_tensor(known)
    history = training.load_checkpoint(models, optimiser, checkpoint)
    for epoch in progress.bar(range(len(history), schedule.epochs), "epochs"):
        loss = _epoch(student, model, optimiser, x, (few, y), schedule, method, epoch)
        history.append({"epoch": epoch + 1, "loss": loss, **on_epoch(epoch + 1, loss)})
        training.save_checkpoint(models, optimiser, history, checkpoint)
    return history


def _epoch(
    student: Classifier,
    average: Classifier,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    known: tuple[Tensor, Tensor],
    schedule: Schedule,
    method: Method,
    epoch: int,
) -> float:
    """Return the mean loss of a batch. known : positions and labels, int64 (m,)."""
    average.eval()
    student.train()  # which may be the same network
    generator = training.epoch_generator(schedule, epoch)
    batches = torch.randperm(len(x), generator=generator).split(schedule.batch_size * method.ratio)
    drawn = _repeated(len(known[0]), schedule.batch_size * len(batches), generator).split(
        schedule.batch_size
    )
    total = torch.zeros((), device=x.device)
    for i, (some, others) in enumerate(zip(drawn, batches, strict=True)):
        progress = (epoch + i / len(batches)) / schedule.epochs
        given = weak(to_unit(x[known[0][some]]), schedule.flip, schedule.shift, generator)
        views = [
            weak(to_unit(x[others]), schedule.flip, schedule.shift, generator) for _ in range(2)
        ]
        if method.name == "fixmatch":
            views[1] = strong(views[1], generator)
        with training.autocast(schedule, x.device):
            logits, loss = _LOSSES[method.name](student, average, given, views, method)
        loss = functional.cross_entropy(logits, known[1][some]) + _weight(method, progress) * loss
        training.set_learning_rate(optimiser, schedule, progress)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if average is not student:
            update_average(average, student, method, epoch * len(batches) + i)
        total += loss.detach()
    return float(total) / len(batches)


def _repeated(n: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Return ``wanted`` positions below n: whole permutations, one after the other."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-wanted // n))])[
        :wanted
    ]


def _fixmatch(
    student: Classifier, _average: Classifier, given: Tensor, views: list[Tensor], method: Method
) -> tuple[Tensor, Tensor]:
    """Return the logits (b, k) of ``given`` (b, c, h, w) and the loss of two views (m, c, h, w), as
    the others do.

    Both kinds of images are one batch, so that batch normalisation sees one distribution; classes
    are predicted with its running moments, which are those of that batch, and are not moved by a
    batch of weak views alone.
    """
    student.eval()
    with torch.no_grad():
        confidence, predicted = student(views[0]).float().softmax(1).max(1)
    student.train()
    logits, others = (
        student(torch.cat([given, views[1]])).float().split([len(given), len(views[1])])
    )
    learned = functional.cross_entropy(others, predicted, reduction="none")
    return logits, (learned * (confidence >= method.threshold)).mean()


def _mean_teacher(
    student: Classifier, average: Classifier, given: Tensor, views: list[Tensor], _method: Method
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        taught = average(views[0]).float().softmax(1)
    logits, others = (
        student(torch.cat([given, views[1]])).float().split([len(given), len(views[1])])
    )
    return logits, functional.mse_loss(others.softmax(1), taught)


def _pseudo_label(
    student: Classifier, _average: Classifier, given: Tensor, views: list[Tensor], _method: Method
) -> tuple[Tensor, Tensor]:
    logits, others = (
        student(torch.cat([given, views[0]])).float().split([len(given), len(views[0])])
    )
    return logits, functional.cross_entropy(others, others.detach().argmax(1))


_LOSSES = {"fixmatch": _fixmatch, "mean_teacher": _mean_teacher, "pseudo_label": _pseudo_label}


def _weight(method: Method, progress: float) -> float:
    if method.ramp is None:
        return method.weight
    t = min(1.0, progress / method.ramp)
    return method.weight * (t if method.name == "pseudo_label" else math.exp(-5 * (1 - t) ** 2))


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, method: Method, step: int) -> None:
    """Move the average towards the student: weights and the moments of batch normalisation. Early
    steps weigh more.
    """
    assert method.average is not None
    decay = min(1 - 1 / (step + 1), method.average)
    for a, s in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if a.is_floating_point():
            a.lerp_(s, 1 - decay)
        else:
            a.copy_(s)
