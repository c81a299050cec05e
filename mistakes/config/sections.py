"""The sections of params.yaml, typed: every key, no defaults. Units and choices are explained in
params.yaml.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # all that scikit-learn takes
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
# OOD sets that need no download
DRAWN = (
    "photographs",
    "digits",
    "glyphs",
    "uniform",
    "gaussian",
    "inverted",
    "patch_shuffled",
)


class Section(BaseModel):
    """A part of params.yaml; unknown keys and other types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Images(Section):
    """Stage images: the split."""

    seed: Seed
    novel_classes: list[int | str]
    val: Count
    cal: Count
    test: Count | None


class Features(Section):
    """Stage features: which layers, how many images at once, which looks at each."""

    layer: str
    early: list[str] | None
    batch_size: Count
    views: list[Annotated[str, Field(pattern=r"^(mirror|(left|right|up|down)_[1-9][0-9]?)$")]]


class Flow(Section):
    """Stage flow: what the density is fitted on, its coordinates, its kind, its optimisation."""

    seed: Seed
    split: Literal["fit", "val"]
    condition: Literal["prediction", "base", "none"]
    transform: Literal["raw", "pca", "log_pca", "direction_norm"]
    also: list[Literal["raw", "pca", "log_pca", "direction_norm"]]
    components: Count
    kind: Literal["maf", "realnvp", "spline"]
    layers: Count
    hidden: Count
    epochs: Count
    patience: Count
    batch_size: Count
    learning_rate: Positive
    gradient_clip: Positive


class Guard(Section):
    """Stage detectors: the guard."""

    seed: Seed
    shares: (
        Literal["budget"]
        | dict[Literal["confidence", "probe", "evidence", "early_density", "density"], Share]
    )
    budget: Share
    hidden: Count
    epochs: Count
    batch_size: Count
    learning_rate: Positive

    @field_validator("shares")
    @classmethod
    def _whole(cls, shares: dict[str, float] | str) -> dict[str, float] | str:
        if isinstance(shares, dict) and (len(shares) < 5 or abs(sum(shares.values()) - 1) > 1e-9):
            raise ValueError("budget, or a share for each of the five parts, which sum to 1")
        return shares


class Detectors(Section):
    """Stage detectors: the baselines, the guard, and what p-values are calibrated on."""

    seed: Seed
    calibration: Literal["correct", "all"]
    gen_gamma: Positive
    gen_largest: Count | None
    gmm_components: Count
    gmm_principal: Count
    knn_k: Count
    knn_bank: Count
    vim_share: Share | None
    guard: Guard


class Attack(Section):
    """One attack: a class of advertorch.attacks and its arguments; ``images`` where it is slower
    than the others.
    """

    attack: Name
    norm: Literal["linf", "l2"]
    images: Count | None = None  # absent: adversarial.images
    arguments: dict[str, bool | int | float]


class Sanity(Section):
    """Stage adversarial: what the attacks must show, or the stage stops."""

    significance: Share
    zero_gradients: NonNegative
    success: NonNegative
    unbounded: Attack


class Adversarial(Section):
    """Stage adversarial: which attacks on how many images."""

    seed: Seed
    images: Count
    batch_size: Count
    sanity: Sanity
    attacks: dict[Name, Attack]


class Ood(Section):
    """Stage ood: which sets, how many images each."""

    seed: Seed
    images: Count
    patch: Count
    sets: list[Name]

    @field_validator("sets")
    @classmethod
    def _once_each(cls, sets: list[str]) -> list[str]:
        if len(set(sets)) < len(sets):
            raise ValueError("each set once")
        return sets


class Corruptions(Section):
    """Stage corruptions: which, how strong, how many images."""

    seed: Seed
    images: Count
    kinds: list[
        Literal["gaussian_noise", "shot_noise", "blur", "brightness", "contrast", "rotation"]
    ]
    severities: list[Annotated[int, Field(ge=1, le=5)]]

    @field_validator("kinds", "severities")
    @classmethod
    def _once_each(cls, values: list[Any]) -> list[Any]:
        if not values or len(set(values)) < len(values):
            raise ValueError("at least one, each once")
        return values


class Scores(Section):
    """Stage scores: which images of fit are scored next to those of test."""

    seed: Seed


class Hypothesis(Section):
    """One pre-registered hypothesis."""

    failure: Literal["mistakes", "adversarial", "ood"]
    density: Literal["lower"]
    test: Literal[
        "permutation",
        "permutation_paired",
        "permutation_within_predicted_class",
        "permutation_matched_on_confidence",
        "permutation_within_confidence_bins",
        "cochran_armitage",
    ]
    family: Name

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.test == "permutation_paired") > (self.failure == "adversarial"):
            raise ValueError(
                "permutation_paired for adversarial only: no other failure comes from a clean image"
            )
        return self


class Controls(Section):
    """The negative controls of stage hypotheses."""

    repetitions: Count
    resamples: Count
    alpha: Share


class Hypotheses(Section):
    """Stage hypotheses: what is tested, stated before the data are seen."""

    seed: Seed
    resamples: Count
    bootstrap: Count
    confidence_level: Share
    bins: Annotated[int, Field(ge=2)]
    alpha: Share
    smallest_a12: Annotated[float, Field(gt=0.5, lt=1)]
    controls: Controls
    registered: dict[Name, Hypothesis]


class Detection(Section):
    """Stage detection: the operating points, the mixtures and the intervals."""

    seed: Seed
    alpha: Share
    alphas: list[Share]
    errors: list[Share]
    delta: Share
    groups: dict[Name, list[Name]]
    mixtures: dict[Name, Annotated[float, Field(ge=0, lt=1)]]
    bootstrap: Count
    confidence_level: Share

    @field_validator("alphas")
    @classmethod
    def _with_alpha(cls, alphas: list[float], known: ValidationInfo) -> list[float]:
        # an invalid alpha is refused by itself
        alpha = known.data.get("alpha", alphas[0] if alphas else None)
        if alpha not in alphas or len(set(alphas)) < len(alphas):
            raise ValueError("a list that has detection.alpha, and each value once")
        return alphas


class Adaptive(Section):
    """Stage adaptive: which detectors are attacked by someone who knows them, and how hard."""

    seed: Seed
    images: Count
    batch_size: Count
    detectors: Annotated[list[Name], Field(min_length=1)]
    eps: Annotated[list[Positive], Field(min_length=1)]
    steps: Count
    restarts: Count
    lambdas: list[NonNegative]

    @field_validator("lambdas")
    @classmethod
    def _with_zero(cls, lambdas: list[float]) -> list[float]:
        if 0 not in lambdas:
            raise ValueError("a list with 0, the attack that ignores the detector")
        return lambdas


class Explore(Section):
    """Stage explore: how finely it looks."""

    seed: Seed
    clusters: Count
    neighbours: Count


class Report(Section):
    """Stage report: what is drawn."""

    gallery: Count
