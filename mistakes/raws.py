"""The kinds of section ``raw``, typed: where inputs come from. Part of mistakes/sections.py in all but length."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mistakes.sections import Name, Section

OodDatasets = list[Literal["fashion_mnist", "mnist", "kmnist", "cifar10", "cifar100", "svhn"]]


class Fetched(Section):
    """Stage raw: a data set that is fetched."""

    dataset: Literal["fashion_mnist", "mnist", "kmnist", "cifar10", "cifar100", "svhn", "digits"]
    ood: OodDatasets


class ImageFolder(Section):
    """Stage raw: own images, a folder for each class."""

    dataset: Literal["image_folder"]
    train: str
    test: str | None
    size: Annotated[int, Field(ge=8)] | None
    channels: Literal[1, 3]
    corrupt: Literal["refuse", "skip"]
    ood: OodDatasets


class OwnFeatures(Section):
    """Stage raw: files of features, logits and labels of a model of any kind."""

    dataset: Literal["features"]
    parts: dict[Literal["train", "fit", "val", "cal", "test"], str]
    ood: dict[Name, str]
    classes: Annotated[list[str], Field(min_length=2)] | None

    @field_validator("parts")
    @classmethod
    def _whole(cls, parts: dict[str, str]) -> dict[str, str]:
        if set(parts) not in ({"train"}, {"train", "test"}, {"fit", "val", "cal", "test"}):
            raise ValueError("train, or train and test, or fit, val, cal and test")
        return {name: parts[name] for name in ("train", "fit", "val", "cal", "test") if name in parts}
