"""The kinds of section ``raw``, typed: where inputs come from. Part of sections.py in all but
length.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator

from mistakes.config.sections import DRAWN, Name, Section

FETCHED = ("fashion_mnist", "mnist", "kmnist", "cifar10", "cifar100", "svhn")
TAKEN = ("fit", "test", "novel_classes")  # names of other sets in the tables of scores
OodDatasets = list[Literal["fashion_mnist", "mnist", "kmnist", "cifar10", "cifar100", "svhn"]]


def _not_taken(sets: dict[str, Any]) -> dict[str, Any]:
    for name in sets:
        if name in TAKEN:
            raise ValueError(f"other names than {', '.join(TAKEN)}, which are sets already")
    return sets


def _to_be_had(sets: dict[str, str | None]) -> dict[str, str | None]:
    for name, path in sets.items():
        if name in DRAWN:
            raise ValueError(f"other names than {', '.join(DRAWN)}, which are drawn")
        if path is None and name not in FETCHED:
            raise ValueError(
                f"a path for {name}, since only {', '.join(FETCHED)} are fetched (null)"
            )
    return _not_taken(sets)


# the tags stand in brackets, so that errors leave them out of the key's name
Ood = Annotated[
    Annotated[OodDatasets, Tag("[list]")]
    | Annotated[dict[Name, str | None], AfterValidator(_to_be_had), Tag("[mapping]")],
    Discriminator(lambda value: "[mapping]" if isinstance(value, dict) else "[list]"),
]


def _texts(names: Any) -> Any:
    """Take class names that YAML reads as numbers."""
    if not isinstance(names, list):
        return names
    return [
        str(name) if isinstance(name, int) and not isinstance(name, bool) else name
        for name in names
    ]


def _once_each(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"each class named once ({', '.join(twice)} is not)")
    return names


Classes = Annotated[
    list[str], BeforeValidator(_texts), Field(min_length=2), AfterValidator(_once_each)
]


class Fetched(Section):
    """Stage raw: a data set that is fetched."""

    dataset: Literal["fashion_mnist", "mnist", "kmnist", "cifar10", "cifar100", "svhn", "digits"]
    ood: Ood


class ImageFolder(Section):
    """Stage raw: own images, a folder for each class."""

    dataset: Literal["image_folder"]
    train: str
    val: str | None = None  # null: val and cal are drawn from train
    test: str | None
    size: Annotated[int, Field(ge=8)] | None
    channels: Literal[1, 3]
    corrupt: Literal["refuse", "skip"]
    classes: Classes | None = None  # null: the names of the folders, sorted
    # what must stay in one split: a CSV, or an expression that finds it in CLASS/FILE
    groups: str | None = None
    ood: Ood


class FeatureFiles(Section):
    """Stage raw: files of features, logits and labels of a model of any kind."""

    dataset: Literal["features"]
    parts: dict[Literal["train", "fit", "val", "cal", "test"], str]
    ood: Annotated[dict[Name, str], AfterValidator(_not_taken)]
    classes: Classes | None

    @field_validator("parts")
    @classmethod
    def _whole(cls, parts: dict[str, str]) -> dict[str, str]:
        if set(parts) not in ({"train"}, {"train", "test"}, {"fit", "val", "cal", "test"}):
            raise ValueError("train, or train and test, or fit, val, cal and test")
        return {
            name: parts[name] for name in ("train", "fit", "val", "cal", "test") if name in parts
        }
