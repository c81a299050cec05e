"""Adversarial images through advertorch, kept and judged as 8-bit images, since that is what a user
would receive.

An attack is evidence only where it works: ``check_growth`` and ``check_black_box`` compare the
success of two attacks on the images that both attacked, by the exact one-sided McNemar test (only
images on which one alone succeeds count).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from mistakes.artifacts import Array
from mistakes.attacks import adversaries
from mistakes.attacks.saturation import Unsaturated
from mistakes.data.pixels import to_unit
from mistakes.errors import ArgumentError
from mistakes.networks.models import Model


@dataclass(frozen=True)
class Attacked:
    """Stored adversarial images and what became of them."""

    images: Array  # uint8 (n, c, h, w)
    success: Array  # bool (n,): the stored image is misclassified
    linf: Array  # float32 (n,): largest change of a pixel, in [0, 1] pixel units
    l2: Array  # float32 (n,): Euclidean norm of the change, in [0, 1] pixel units
    gradients: int  # times the attack went backward through the model; 0: it is a black-box attack

    def summary(self) -> dict[str, float]:
        """Return counts, and the mean change of the images that it succeeded on."""
        won = self.success
        return {
            "attempted": len(won),
            "succeeded": int(won.sum()),
            "linf": float(self.linf[won].mean()) if won.any() else 0.0,
            "l2": float(self.l2[won].mean()) if won.any() else 0.0,
            "gradients": self.gradients,
        }


@dataclass(frozen=True)
class Trial:
    """What the sanity checks need to know of one attack that was run."""

    attack: str  # class of advertorch.attacks
    norm: str  # linf or l2
    eps: float | None  # None: the attack minimises the change
    black_box: bool
    origin: Array  # int64 (n,): which images were attacked
    success: Array  # bool (n,)


def initially_correct(
    model: Model,
    images: Array,
    labels: Array,
    wanted: int,
    seed: int,
    device: torch.device,
    batch_size: int,
) -> Array:
    """Return the positions, int64 (m,), of ``wanted`` correctly classified images in an order drawn
    by ``seed``.

    m is smaller where fewer are classified correctly.
    """
    right = np.flatnonzero(predict(model, images, device, batch_size) == labels)
    return np.random.default_rng(seed).permutation(right)[:wanted]


@torch.no_grad()
def predict(
    model: Model | Unsaturated, images: Array, device: torch.device, batch_size: int
) -> Array:
    """Return the predicted class, int64 (n,), of each uint8 image (n, c, h, w)."""
    parts = [
        model(to_unit(images[i : i + batch_size], device)).argmax(1)
        for i in range(0, len(images), batch_size)
    ]
    return torch.cat(parts).cpu().numpy()


def run(
    model: Model | Unsaturated,
    images: Array,
    labels: Array,
    attack: str,
    norm: str,
    arguments: Mapping[str, float],
    seed: int,
    device: torch.device,
    batch_size: int,
) -> Attacked:
    """Attack uint8 images (n, c, h, w) of which all are classified as ``labels`` (n,).

    attack, arguments : a class of advertorch.attacks and its keyword arguments, in [0, 1] pixel
    units; a targeted one aims at another class that ``seed`` draws for each image. norm : ``linf``
    or ``l2``, in which the stored image stays within ``eps`` of the clean one also after rounding.
    Raises ArgumentError for an attack or an argument that advertorch does not know.
    """
    torch.manual_seed(seed)
    adversary = adversaries.build(model, attack, arguments)
    aim = labels
    if getattr(adversary, "targeted", False):
        classes = model.classes
        aim = (labels + np.random.default_rng(seed).integers(1, classes, len(labels))) % classes
    passes: list[None] = []
    watched = model.register_forward_hook(
        lambda _model, _inputs, logits: _count_backward(logits, passes)
    )
    try:
        exact = np.concatenate(
            [
                _perturb(
                    adversary, attack, images[i : i + batch_size], aim[i : i + batch_size], device
                )
                for i in range(0, len(images), batch_size)
            ]
        )
    finally:
        watched.remove()
    stored = _store(images, exact, norm, adversaries.eps(attack, arguments))
    success = predict(model, stored, device, batch_size) != labels
    return Attacked(
        stored,
        success,
        linf(stored, images),
        np.linalg.norm(_change(stored, images), axis=1),
        len(passes),
    )


def _count_backward(logits: Tensor, passes: list[None]) -> None:
    if logits.requires_grad:
        logits.register_hook(lambda _gradient: passes.append(None))


def _perturb(
    adversary: Any, attack: str, images: Array, labels: Array, device: torch.device
) -> Array:
    with warnings.catch_warnings():  # advertorch's DDN steps its scheduler first, on purpose
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        x = to_unit(
            images, device
        ).contiguous()  # advertorch calls `view`, which channels_last refuses
        try:
            perturbed = adversary.perturb(x, torch.as_tensor(labels.copy()).to(device))
        except ArgumentError:
            raise
        except Exception as error:  # code of others, with arguments of the user's
            raise adversaries.failed(attack, error) from None
    if not torch.isfinite(perturbed).all():
        raise ArgumentError(f"attacks ({attack})", "NaN images", "an attack that converges")
    return perturbed.detach().cpu().numpy()


def _store(clean: Array, exact: Array, norm: str, eps: float | None) -> Array:
    """Round float images in [0, 1] to uint8 without leaving the ball of radius ``eps`` around
    ``clean``.
    """
    stored = (exact * 255).round().clip(0, 255).astype(np.int16)
    if norm == "linf" and eps is not None:
        reach = grey_levels(eps)
        stored = np.clip(stored, clean.astype(np.int16) - reach, clean.astype(np.int16) + reach)
    # where rounding leads out of the ball, round towards the clean image
    if norm == "l2" and eps is not None:
        outside = np.linalg.norm(_change(stored, clean), axis=1) > eps
        inwards = clean + np.trunc((exact * 255).clip(0, 255) - clean)
        stored[outside] = inwards[outside].astype(np.int16)
    return stored.astype(np.uint8)


def grey_levels(eps: float) -> int:
    """Return how many steps of an 8-bit pixel lie within ``eps``, in [0, 1] pixel units.

    Examples
    --------
    >>> grey_levels(0.5)
    127
    """
    return int(np.floor(eps * 255 + 1e-6))


def linf(stored: Array, clean: Array) -> Array:
    """Return the largest change of a pixel, float32 (n,) in [0, 1] pixel units, between uint8
    images (n, c, h, w).

    Examples
    --------
    >>> linf(np.array([[[[255]]]], np.uint8), np.array([[[[204]]]], np.uint8)).tolist()
    [0.20000000298023224]
    """
    return np.abs(_change(stored, clean)).max(1)


def _change(stored: Array, clean: Array) -> Array:
    return (stored.astype(np.float32) - clean).reshape(len(clean), -1) / 255


def checked(
    check: Callable[..., Any], *arguments: Any, sure: bool, warn: Callable[[str], None]
) -> Any:
    """Return what a check of ``arguments`` returns; of a classifier that is too sure a violation is
    a warning, {}.
    """
    try:
        return check(*arguments)
    except ArgumentError as error:
        if not sure:
            raise
        warn(
            f"{error} (a classifier that is so sure can hide from attacks: their success says"
            " little)"
        )
        return {}


def check_unbounded(name: str, made: Attacked, least: float) -> float:
    """Return the success rate of an attack with an eps at which every image can be made any other.

    Raises ArgumentError where it is below ``least``: such an attack is broken, not resisted.
    """
    rate = float(made.success.mean())
    if rate < least:
        expected = f"at least {least:g}: no classifier can resist a change this large"
        raise ArgumentError(name, f"success {rate:.3f} of {len(made.success)} images", expected)
    return rate


def advantage(weak: Trial, strong: Trial) -> tuple[float, float, float]:
    """Return both success rates, and McNemar's p-value, on the images that both attacked."""
    _, i, j = np.intersect1d(weak.origin, strong.origin, return_indices=True)
    a, b = weak.success[i], strong.success[j]
    return float(a.mean()), float(b.mean()), mcnemar(a, b)


def mcnemar(weak: Array, strong: Array) -> float:
    """Return the exact one-sided p-value of bool ``strong`` (n,) succeeding at least as often as
    ``weak`` (n,).

    With b images on which ``weak`` alone succeeds, and c on which ``strong`` alone does, it is P(X
    >= b) for X from Binomial(b + c, 1/2).

    Examples
    --------
    >>> round(mcnemar(np.array([True] * 9), np.array([False] * 9)), 4)
    0.002
    """
    b, c = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    return float(stats.binomtest(b, b + c, alternative="greater").pvalue) if b + c else 1.0


def check_growth(trials: Mapping[str, Trial], significance: float) -> dict[str, float]:
    """Return, for each pair of one attack at two eps, ``SMALL.LARGE``: how much the success rate
    grows.

    Raises ArgumentError where the larger eps succeeds significantly less often.
    """
    found = {}
    for (small, a), (large, b) in combinations(
        sorted(trials.items(), key=lambda item: item[1].eps or 0), 2
    ):
        if (
            (a.attack, a.norm) != (b.attack, b.norm)
            or a.eps is None
            or b.eps is None
            or a.eps == b.eps
        ):
            continue
        before, after, p = advantage(a, b)
        if p < significance:
            shown = (
                f"success {after:.3f} at eps {b.eps:g}, {before:.3f} at eps {a.eps:g} ({small}), p"
                f" = {p:.2g}"
            )
            raise ArgumentError(f"attacks.{large}", shown, "success that grows with eps")
        found[f"{small}.{large}"] = after - before
    return found


def check_black_box(trials: Mapping[str, Trial], significance: float) -> dict[str, float]:
    """Return, for each black-box attack, ``BLACK.WHITE``: how much more the best white-box attack
    of its eps succeeds.

    Raises ArgumentError where that succeeds significantly less often (gradients that mislead:
    Athalye et al. 2018), and where there is none to compare with.
    """
    found = {}
    for name, black in trials.items():
        if not black.black_box or black.eps is None:
            continue
        rivals = {
            other: advantage(black, white)
            for other, white in trials.items()
            if not white.black_box and (white.norm, white.eps) == (black.norm, black.eps)
        }
        where = f"attacks.{name}"
        if not rivals:
            expected = (
                f"a gradient-based attack with norm {black.norm} and eps {black.eps:g} beside it"
            )
            raise ArgumentError(where, "a black-box attack alone", expected)
        best = max(rivals, key=lambda other: rivals[other][1])
        rate, rival, p = rivals[best]
        if p < significance:
            shown = (
                f"black-box success {rate:.3f}, white-box success {rival:.3f} ({best}), p = {p:.2g}"
            )
            raise ArgumentError(where, shown, "white-box attacks at least as strong")
        found[f"{name}.{best}"] = rival - rate
    return found
