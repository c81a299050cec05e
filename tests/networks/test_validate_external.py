"""What networks and files of users are like: outputs, tokens, one logit, probabilities, labels in
another order.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import usernets
import yaml
from commands import SMOKE
from custom_entries import INPUT, entry, take
from feature_rows import softmax
from torch import Tensor, nn

from mistakes.attacks import adversarial
from mistakes.config import params
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import external, models, validate_external
from mistakes.networks.extraction import Extractor

CPU = torch.device("cpu")


# which of several outputs are the logits


FORMS = {
    "logits_features": None,
    "features_logits": None,
    "one": None,
    "nested": None,
    "dict": None,
    "other_names": None,
    "model_output": None,
    "dataclass": None,
    "namespace": None,
    "namedtuple": None,
    "two": 0,
    "two_named": "main",
    "half": None,
}


@pytest.mark.parametrize("trace", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_among_the_outputs_wherever_the_network_is_called(
    form: str, trace: bool, trained, digits, tmp_path: Path
) -> None:
    images, truth = digits[0][1000:1060], digits[1][1000:1060]
    expected = (
        take(trained, "tensor", images)(torch.as_tensor(images).float() / 255).detach().numpy()
    )
    external.save(
        take(trained, form, images, trace=trace, output=FORMS[form]), tmp_path / "m.safetensors"
    )
    model = models.load(tmp_path / "m.safetensors")
    batch = Extractor(model, "penultimate", None, CPU).whole(images, 7)
    assert batch.logits == pytest.approx(expected, abs=0.02 if form == "half" else 1e-5)
    assert batch.features.shape == (60, 32)
    assert (adversarial.predict(model, images, CPU, 7) == expected.argmax(1)).all()
    right = np.flatnonzero(expected.argmax(1) == truth)[:10]
    arguments = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 5}
    made = adversarial.run(
        model, images[right], truth[right], "LinfPGDAttack", "linf", arguments, 0, CPU, 10
    )
    assert made.success.all()


@pytest.mark.parametrize(
    ("form", "output", "words"),
    [
        (
            "two",
            None,
            (
                r"returns a tuple of 0: tensor \(8, 10\), 1: tensor \(8, 10\), more than one of"
                r" them with 10 num"
            ),
        ),
        (
            "two_named",
            None,
            (
                "main: tensor .*more than one .*the key output says which are the logits, by name"
                " or by place"
            ),
        ),
        (
            "wide",
            None,
            r"tuple of 0: tensor \(8, 32\), 1: tensor \(8, 32\), none of them with 10 numbers",
        ),
        ("text", None, "the network returns a str, none of them"),
        ("nothing", None, "the network returns a NoneType"),
        (
            "dict",
            "logit",
            "mine.output is 'logit', expected one of what the network returns: features, logits",
        ),
        ("logits_features", 2, "mine.output is 2, expected one of what the network returns: 0, 1"),
        ("tensor", 0, "mine.output is 0, expected one of what the network returns: null"),
        ("nested", 1, "the logits must be a tensor"),
        ("dict", "features", r"logits of an image is \(32,\), expected \(10,\)"),
    ],
)
def test_outputs_of_which_none_is_the_logits_are_listed(
    form, output, words: str, trained, digits
) -> None:
    with pytest.raises((ArgumentError, InputError), match=words) as caught:
        take(trained, form, digits[0][:20], output=output)
    assert "\n" not in str(caught.value)


class Parts(nn.Module):
    """What archives of users return."""

    def __init__(self, net: Any, form: str) -> None:
        super().__init__()
        self.hidden, self.head, self.form = net.hidden, net.head, form

    def forward(self, x: Tensor) -> Any:
        if self.form == "flat":
            x = (4 * x).round() / 4
        z = self.hidden(x.flatten(1)).relu()
        y = self.head(z)
        if self.form == "dict":
            return {"early_1": x, "logits": y, "features": z}
        return {
            "swapped": (y, z),
            "order": (z, y, x),
            "single": (z, (y[:, 1:] - y[:, :1])),
            "same": (y, y),
        }[self.form]


@pytest.mark.parametrize("form", ["order", "swapped", "dict", "single", "same"])
def test_archives_may_return_logits_first_or_a_dict(form, trained, digits, tmp_path) -> None:
    classes = 2 if form == "single" else 10
    net = usernets.make(classes)
    external.load_weights(net, trained[classes])
    images = digits[0][1000:1020]
    x = (torch.as_tensor(images).float() / 255 - 0.3) / 0.35
    many = {"x": {0: torch.export.Dim("n")}}
    program = torch.export.export(Parts(net, form).eval(), (x[:4],), dynamic_shapes=many)
    torch.export.save(program, tmp_path / "p.pt2")
    base = {"source": "torch_export", "path": str(tmp_path / "p.pt2"), **INPUT}
    document = yaml.safe_load(SMOKE) | {"classifiers": {"mine": base}}
    values = params.parse(yaml.safe_dump(document)).classifiers["mine"].model_dump()
    external.save(
        validate_external.take(values, "classifiers.mine", images, classes, CPU),
        tmp_path / "m.safetensors",
    )
    batch = Extractor(models.load(tmp_path / "m.safetensors"), "penultimate", None, CPU).whole(
        images, 6
    )
    y = net(x).detach().numpy()
    assert batch.logits - batch.logits[:, :1] == pytest.approx(y - y[:, :1], abs=1e-4)
    z = y if form == "same" else net.hidden(x.flatten(1)).relu().detach().numpy()
    assert batch.features == pytest.approx(z, abs=1e-5)
    assert [part.shape[1] for part in batch.early] == (
        [2] if form in ("order", "dict") else [z.shape[1]]
    )


# one logit, probabilities, logarithms


@pytest.mark.parametrize("form", ["column", "row", "column_and_features"])
def test_one_logit_becomes_two_columns(form: str, trained, digits) -> None:
    images, truth = digits[0][1000:1100], (digits[1][1000:1100] >= 5).astype(int)
    model, both = take(trained, form, images, classes=2), take(trained, "tensor", images, classes=2)
    batch, expected = (
        Extractor(m, "penultimate", None, CPU).whole(images, 30).logits for m in (model, both)
    )
    assert batch.shape == (100, 2)
    assert (batch[:, 0] == 0).all()
    assert batch[:, 1] == pytest.approx(expected[:, 1] - expected[:, 0], abs=1e-4)
    said: list[str] = []
    assert (
        validate_external.judge(
            model, "classifiers.mine", images, truth, ["small", "large"], CPU, said.append
        )
        > 0.8
    )
    assert not said
    with pytest.raises(InputError, match="the order large, small it would"):
        validate_external.judge(
            model, "classifiers.mine", images, 1 - truth, ["small", "large"], CPU, said.append
        )


def test_one_logit_for_more_than_two_classes_is_refused(digits) -> None:
    values = entry(entrypoint="usernets:make", arguments={"form": "column", "classes": 2})
    with pytest.raises(
        InputError, match=r"logits of an image is \(1,\), expected \(10,\), one for each class"
    ):
        validate_external.take(values, "classifiers.mine", digits[0][:20], 10, CPU)


@pytest.mark.parametrize(
    ("form", "classes", "words"),
    [
        (
            "softmax",
            10,
            (
                "on val: all rows of logits are non-negative and sum to 1: .*give logits, the"
                " values before the"
            ),
        ),
        ("half_softmax", 10, "sum to 1: these are probabilities; give logits"),
        ("softmax", 2, "sum to 1: these are probabilities"),
        ("sigmoid", 2, r"one logit lies in \[0, 1\] in all 200 rows, .* give log\(p / \(1 - p\)\)"),
        ("nan", 10, r"on val: row 99 is NaN or infinite, expected finite numbers"),
    ],
)
def test_networks_that_end_in_probabilities_are_refused(
    form, classes, words: str, trained, digits
) -> None:
    images, truth = digits[0][1000:1200], digits[1][1000:1200]
    if form == "nan":  # beyond the first images, which are looked at one by one
        images = np.r_[images[:99], np.full((1, 1, 8, 8), 255, np.uint8), images[100:]]
    model, names = take(trained, form, images, classes=classes), list("0123456789")[:classes]
    with pytest.raises(InputError, match=words):
        validate_external.judge(
            model, "classifiers.mine", images, truth % classes, names, CPU, print
        )


def test_sigmoids_that_do_not_sum_to_1_are_warned_of(trained, digits) -> None:
    said: list[str] = []
    model = take(trained, "sigmoids", digits[0][1000:1200])
    validate_external.judge(
        model,
        "mine",
        digits[0][1000:1200],
        digits[1][1000:1200],
        list("0123456789"),
        CPU,
        said.append,
    )
    assert len(said) == 1
    assert "all logits lie in [0, 1]; if these are probabilities of a sigmoid" in said[0]


def test_log_probabilities_of_a_network_are_welcome_also_where_they_are_minus_infinity(
    trained, digits
) -> None:
    images, truth, said = digits[0][1000:1200], digits[1][1000:1200], []
    model = take(trained, "log", images)
    assert (
        validate_external.judge(model, "mine", images, truth, list("0123456789"), CPU, said.append)
        > 0.8
    )
    assert "mine, on val: -inf in " in said[0]
    batch = Extractor(model, "penultimate", None, CPU).whole(images, 50)
    assert np.isfinite(batch.logits).all()
    plain = model.plain(torch.as_tensor(images).float() / 255).numpy()
    assert softmax(batch.logits) == pytest.approx(np.exp(plain), abs=1e-3)
