"""Parameters out of range are named."""

import pytest
from commands import ROOT

from mistakes.config import params
from mistakes.errors import InputError

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "alphas: [0.01, 0.05, 0.1]",
            "alphas: [0.01, 0.1]",
            "detection.alphas is .*a list that has detection.alpha",
        ),
        ("severities: [1, 2, 3, 4, 5]", "severities: [1, 6]", "corruptions.severities.1 is 6"),
        ("ten_percent: 0.1}", "ten_percent: 1.0}", "detection.mixtures.ten_percent is 1.0"),
        ("near: [novel_classes", "near: [novel", "detection.groups.near is 'novel', expected OOD"),
        ("kinds: [gaussian_noise", "kinds: [fog", "corruptions.kinds.0 is 'fog'"),
    ],
)
def test_parameters_out_of_range_are_named(old: str, new: str, words: str) -> None:
    assert old in SMOKE
    with pytest.raises(InputError, match=words):
        params.parse(SMOKE.replace(old, new))
