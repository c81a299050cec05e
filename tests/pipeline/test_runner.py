"""The runner: where a refusal of the library gets the key of params.yaml from."""

import pytest
from commands import SMOKE

from mistakes.config import params
from mistakes.errors import ArgumentError
from mistakes.pipeline.runner import Run, located


@pytest.mark.parametrize(
    ("stage", "argument", "key"),
    [
        ("flow", "components", "flow.components"),
        ("images", "val + cal", "images.val + cal"),
        ("adversarial", "attacks.pgd (LinfPGDAttack).arguments", "adversarial.attacks.pgd"),
        ("detection", "alpha", "detection.alpha"),  # hypotheses has an alpha too
        ("guard", "detection.alpha", "detection.alpha"),
        ("classifier", "width", "classifiers.smoke.width"),
        ("classifier", "layer", "features.layer"),  # not in the entry of a network trained here
        ("scores", "layer", "features.layer"),
        ("scores", "something", "something"),
    ],
)
def test_the_argument_becomes_a_key(stage: str, argument: str, key: str) -> None:
    run = Run(stage, "smoke", params.parse(SMOKE), journaled=False)
    said = str(located(ArgumentError(argument, 3, "another"), run))
    assert said.startswith(f"params.yaml: {key}")
    assert said.endswith(" is 3, expected another")
