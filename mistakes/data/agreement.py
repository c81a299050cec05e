"""Do predictions agree with the labels at all? Where they do not, the two probably number the
classes differently.

Two checks, since either can be blind. An accuracy that guessing reaches is refused, where the
inputs are enough to tell a useful classifier from that. And labels are refused where renaming the
predicted classes makes far more of them right: the renaming is found on one half of the inputs and
tried on the other, so that chance does not pass for one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mistakes.artifacts import Array
from mistakes.errors import InputError

# an accuracy is better than guessing where guessing reaches it with a smaller probability
GUESSED = 0.01
DOUBTFUL = 0.001  # and there is no doubt of it with a smaller one than this
# of the way from guessing to no error: what a classifier must reach to be told from guessing
USEFUL = 0.25
RENAMED = 0.001  # of the exact test that a renaming makes more labels right
_SHOWN = 20  # classes


def check(
    predicted: Array, labels: Array, classes: Sequence[str], where: object, remedy: str
) -> list[str]:
    """Return sentences about what is odd in predictions and labels, int (n,), numbers of
    ``classes``.

    Raises InputError, with ``remedy``, where no prediction is right, or no more of them than by
    guessing, and where ``order`` does.
    """
    from scipy.stats import binom

    said = order(predicted, labels, classes, where, remedy)
    n, right = len(labels), int((predicted == labels).sum())
    k = max(len(classes), int(predicted.max()) + 1, int(labels.max()) + 1)
    shares = [np.bincount(numbers, minlength=k) / n for numbers in (predicted, labels)]
    # right where predictions know nothing of labels
    guessing = float((shares[0] * shares[1]).sum())
    as_good = float(binom.sf(right - 1, n, guessing))
    useful = float(binom.cdf(right, n, guessing + USEFUL * (1 - guessing)))
    found = f"{right} of {n} inputs are classified correctly ({_percent(right / n)})"
    found += f", guessing would give {_percent(guessing)}"
    if shares[0].max() == 1:
        found += f" (every prediction is {_name(classes, int(predicted[0]))})"
    if not right or (as_good > GUESSED and useful < (0.05 if right <= guessing * n else 0.01)):
        raise InputError(where, f"{found}: {_question(classes, remedy)}")
    return said + [f"{where}: {found}; so few inputs tell no more"] * (as_good > DOUBTFUL)


def order(
    predicted: Array, labels: Array, classes: Sequence[str], where: object, remedy: str
) -> list[str]:
    """Return a sentence where some classes seem exchanged, and raise InputError where most of them
    do.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binomtest

    k = max(len(classes), int(predicted.max()) + 1, int(labels.max()) + 1)
    table = np.zeros((k, k))
    np.add.at(table, (predicted[::2], labels[::2]), 1)
    table[np.diag_indices(k)] += 0.5  # a class that is not seen keeps its name
    renamed = linear_sum_assignment(table, maximize=True)[1]
    given, other = (names[1::2] == labels[1::2] for names in (predicted, renamed[predicted]))
    gained, lost = int((other & ~given).sum()), int((given & ~other).sum())
    p = binomtest(lost, gained + lost).pvalue if gained > lost else 1.0
    if p > 2 * RENAMED and not (p < 0.05 and not given.any()):
        return []
    accuracies = f"accuracy is {_percent((predicted == labels).mean())}"
    better = _percent((renamed[predicted] == labels).mean())
    moved = [i for i in range(k) if renamed[i] != i]
    if given.sum() <= other.sum() / 2:
        names = _names([_name(classes, number) for number in renamed])
        raise InputError(
            where,
            f"{accuracies}, in the order {names} it would be {better}:"
            f" {_question(classes, remedy)}",
        )
    names = _names([_name(classes, number) for number in moved])
    exchanged = f"{accuracies}, but would be {better} if the classes {names} were exchanged"
    return [f"{where}: {exchanged}; {_question(classes, remedy)}"]


def _question(classes: Sequence[str], remedy: str) -> str:
    return f"labels in the order of the logits? classes are {_names(classes)}; {remedy}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _name(classes: Sequence[str], number: Any) -> str:
    return classes[number] if number < len(classes) else str(number)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
