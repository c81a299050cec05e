"""The entries of ``classifiers`` in params.yaml, typed: its ``method`` or ``source`` decides which
keys it has.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PlainValidator, Tag, field_validator

from mistakes.config.sections import Count, NonNegative, Positive, Section, Seed, Share
from mistakes.networks.arguments import WEIGHTS


def _labels(value: Any) -> int | str:
    if value == "all" or (type(value) is int and value > 0):
        return value
    raise ValueError("all, or a number of images")


class Trained(Section):
    """What every classifier that is trained here states."""

    labels: Annotated[int | Literal["all"], PlainValidator(_labels)]
    seed: Seed
    architecture: Literal["small_cnn", "resnet9", "resnet18"]
    width: Count
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    momentum: NonNegative
    weight_decay: NonNegative
    flip: bool
    shift: Annotated[int, Field(ge=0)]
    precision: Literal["auto", "bfloat16", "float32"]


class Supervised(Trained):
    """Images with labels alone."""

    method: Literal["supervised"]


class SemiSupervised(Trained):
    """All the images of fit, few with labels; module semi_supervised says what a method does with
    the others.
    """

    ratio: Count
    weight: Positive


class FixMatch(SemiSupervised):
    """Sohn et al. 2020."""

    method: Literal["fixmatch"]
    threshold: Share
    average: Share


class MeanTeacher(SemiSupervised):
    """Tarvainen and Valpola 2017."""

    method: Literal["mean_teacher"]
    ramp: Share
    average: Share


class PseudoLabel(SemiSupervised):
    """Lee 2013."""

    method: Literal["pseudo_label"]
    ramp: Share


class Untrained(Section):
    """What was trained elsewhere, from labels that are not known here."""


class Precomputed(Untrained):
    """Stage raw reads the outputs from files; nothing is trained, nothing is drawn."""

    source: Literal["features"]


class Custom(Untrained):
    """What every classifier trained elsewhere states: the input that it was trained with."""

    mean: list[float]
    std: list[Positive]
    channels: Literal[1, 3]
    size: Count | None
    # which of several are the logits; None: seen by their shape
    output: str | Annotated[int, Field(ge=0)] | None = None
    # of (n, tokens, channels); None: seen by the modules
    tokens: Literal["class", "mean", "maps"] | None = None


class Code(Custom):
    """A network that Python code builds."""

    arguments: dict[str, bool | int | float | str]
    layer: str
    early: list[str]

    @field_validator("arguments")
    @classmethod
    def _no_weights(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if found := WEIGHTS & arguments.keys():
            raise ValueError(
                f"no {', '.join(sorted(found))}: weights are a safetensors file, named by the key"
                " weights"
            )
        return arguments


class Entrypoint(Code):
    """A function of the user's that returns an nn.Module; without ``weights`` it comes with its
    own.
    """

    source: Literal["entrypoint"]
    entrypoint: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    weights: str | None


class Library(Code):
    """A model of torchvision or timm, by its name."""

    source: Literal["torchvision", "timm"]
    name: Annotated[str, Field(pattern=r"^[\w.]+$")]
    weights: str


class Archive(Custom):
    """A TorchScript or torch.export file, which returns (features, logits, early_1, ...)."""

    source: Literal["torchscript", "torch_export"]
    path: str


def _kind(entry: Any) -> Any:
    known = entry if isinstance(entry, dict) else getattr(entry, "__dict__", {})
    return known.get("source") or known.get("method")


Classifier = Annotated[
    Annotated[Supervised, Tag("supervised")]
    | Annotated[FixMatch, Tag("fixmatch")]
    | Annotated[MeanTeacher, Tag("mean_teacher")]
    | Annotated[PseudoLabel, Tag("pseudo_label")]
    | Annotated[Precomputed, Tag("features")]
    | Annotated[Entrypoint, Tag("entrypoint")]
    | Annotated[Library, Tag("torchvision")]
    | Annotated[Library, Tag("timm")]
    | Annotated[Archive, Tag("torchscript")]
    | Annotated[Archive, Tag("torch_export")],
    Discriminator(_kind),
]
