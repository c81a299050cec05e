"""Custom classifiers: each way to bring one, each way to be wrong, and a whole pipeline."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checkouts import clone
from commands import SMOKE, refused, run
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mistakes.artifacts import load_table
from mistakes.attacks import adversarial
from mistakes.config import params
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import external, layers, models, validate_external
from mistakes.networks.extraction import Extractor

# torch has deprecated TorchScript, and users still have such files
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning"
)
INPUT = {"mean": [0.3], "std": [0.35], "channels": 1, "size": None}
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, width=8, branch=False):
        super().__init__()
        convolution = nn.Conv2d(1, width, 3, padding=1)
        self.stem = nn.Sequential(convolution, nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(32 * width, classes)
        self.branch = branch

    def forward(self, x):
        if self.branch and x.mean() > 100:  # what torch.fx cannot follow
            x = x / 2
        return self.head(self.body(self.stem(x)).view(x.size(0), -1))

def make(classes, width=8, branch=False):
    return Net(classes, width, branch)

def text():
    return "not a network"
"""


class Parts(nn.Module):
    """What an archive must be: features, logits and early features."""

    def __init__(self, net: Any, early: bool = True) -> None:
        super().__init__()
        self.stem, self.body, self.head, self.early = net.stem, net.body, net.head, early

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.stem(x)
        second = self.body(first)
        z = torch.flatten(second, 1)
        return (z, self.head(z), first, second) if self.early else (z, self.head(z))


class Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, digits) -> Path:
    """A folder with the user's code and files of a network that was trained on digits."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mynet.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    import mynet

    torch.manual_seed(0)
    net = mynet.make(10)
    x = (torch.as_tensor(digits[0][:1000]).float() / 255 - 0.3) / 0.35
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(x), torch.as_tensor(digits[1][:1000]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    save_file(net.state_dict(), folder / "weights.safetensors")
    torch.save(net.state_dict(), folder / "weights.pth")
    torch.jit.trace(Parts(net).eval(), x[:2]).save(folder / "traced.pt")
    torch.jit.script(Logits(net.head)).save(folder / "logits.pt")
    many = {"x": {0: torch.export.Dim("n")}}
    torch.export.save(
        torch.export.export(Parts(net).eval(), (x[:4],), dynamic_shapes=many), folder / "net.pt2"
    )
    torch.export.save(
        torch.export.export(Parts(net, early=False).eval(), (x[:4],)), folder / "fixed.pt2"
    )
    torch.export.save(
        torch.export.export(Logits(net).eval(), (x[:4],), dynamic_shapes=many),
        folder / "logits.pt2",
    )
    return folder


def entrypoint(project: Path, **changed: Any) -> dict[str, Any]:
    weights = str(project / "weights.safetensors")
    return {
        "source": "entrypoint",
        "entrypoint": "mynet:make",
        "arguments": {"classes": 10},
        "weights": weights,
        "layer": "view",
        "early": ["stem", "body"],
        **INPUT,
    } | changed


def archive(path: Path, source: str, **changed: Any) -> dict[str, Any]:
    return {"source": source, "path": str(path), **INPUT} | changed


def entry(values: dict[str, Any]) -> dict[str, Any]:
    """Pass the entry through params.yaml."""
    document = yaml.safe_load(SMOKE) | {"classifiers": {"mine": values}}
    return params.parse(yaml.safe_dump(document)).classifiers["mine"].model_dump()


def take(values: dict[str, Any], images: np.ndarray, classes: int = 10) -> external.Custom:
    return validate_external.take(
        entry(values), "classifiers.mine", images, classes, torch.device("cpu")
    )


@pytest.mark.parametrize("kind", ["entrypoint", "branch", "torchscript", "torch_export"])
def test_the_same_network_gives_the_same_however_it_is_brought(
    kind, project, digits, cpu, tmp_path
) -> None:
    import mynet

    branch = {
        "arguments": {"classes": 10, "branch": True},
        "layer": "body",
    }  # a module: there is no graph
    values = {
        "entrypoint": entrypoint(project),
        "branch": entrypoint(project, **branch),
        "torchscript": archive(project / "traced.pt", "torchscript"),
        "torch_export": archive(project / "net.pt2", "torch_export"),
    }[kind]
    images, truth = digits[0][1000:1200], digits[1][1000:1200]
    external.save(take(values, images), tmp_path / "model.safetensors")
    model = models.load(tmp_path / "model.safetensors")
    net = mynet.make(10)
    external.load_weights(net, project / "weights.safetensors")
    x = (torch.as_tensor(images).float() / 255 - 0.3) / 0.35
    z = net.body(net.stem(x)).flatten(1).detach()
    batch = Extractor(model, "penultimate", None, cpu).whole(images, 64)
    assert batch.logits == pytest.approx(net.head(z).detach().numpy(), abs=1e-4)
    assert (batch.logits.argmax(1) == truth).mean() > 0.8
    assert [part.shape[1] for part in batch.early] == [16, 32]  # mean and deviation of each channel
    if kind != "branch":
        assert batch.features == pytest.approx(z.numpy(), abs=1e-5)
    assert models.differentiable(model, images, cpu)
    arguments = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 10}
    right = batch.logits.argmax(1) == truth
    made = adversarial.run(
        model, images[right][:20], truth[right][:20], "LinfPGDAttack", "linf", arguments, 0, cpu, 20
    )
    assert made.success.mean() > 0.5


def test_torchvision_in_colour_and_scaled_and_timm(digits, cpu, tmp_path, rng) -> None:
    import torchvision

    colour = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "channels": 3, "size": 32}
    net = torchvision.models.resnet18(num_classes=10).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    values = {
        "source": "torchvision",
        "name": "resnet18",
        "arguments": {"num_classes": 10},
        "layer": "flatten",
        "early": ["layer1", "layer2"],
        "weights": str(tmp_path / "w.safetensors"),
        **colour,
    }
    images = digits[0][:6]
    external.save(take(values, images), tmp_path / "m.safetensors")
    model = models.load(tmp_path / "m.safetensors")
    x = nn.functional.interpolate(
        torch.as_tensor(images).float() / 255, (32, 32), mode="bilinear"
    ).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(colour[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    batch = Extractor(model, "penultimate", None, cpu).whole(images, 6)
    assert batch.logits == pytest.approx(net((x - mean) / std).detach().numpy(), abs=1e-3)
    assert batch.features.shape == (6, 512)
    assert models.differentiable(model, images, cpu)  # through the scaling
    timm = pytest.importorskip("timm")
    save_file(
        timm.create_model("resnet10t", num_classes=10).state_dict(), tmp_path / "t.safetensors"
    )
    values |= {
        "source": "timm",
        "name": "resnet10t",
        "weights": str(tmp_path / "t.safetensors"),
        "layer": "global_pool",
    }
    assert Extractor(take(values, images), "penultimate", None, cpu).whole(
        images, 6
    ).features.shape == (6, 512)


def test_a_wrong_layer_lists_the_layers_there_are(project, digits) -> None:
    with pytest.raises(
        ArgumentError, match=r"classifiers.mine.layer is 'fc', expected one of stem.0, .*, head"
    ):
        take(entrypoint(project, layer="fc"), digits[0][:9])
    with pytest.raises(
        ArgumentError, match=r"classifiers.mine.early is 'trunk', expected one of stem, stem.0"
    ):
        take(
            entrypoint(
                project, layer="body", early=["trunk"], arguments={"classes": 10, "branch": True}
            ),
            digits[0][:9],
        )
    model = take(archive(project / "net.pt2", "torch_export"), digits[0][:9])
    assert layers.names(model) == ["features", "early_1", "early_2", "logits"]
    with pytest.raises(
        ArgumentError, match="layer is 'fc', expected .*features, early_1, early_2, logits"
    ):
        Extractor(model, "fc", None, torch.device("cpu"))


WRONG_ENTRY = {
    "module": (
        {"entrypoint": "nowhere.at_all:make"},
        r"entrypoint is nowhere.*ModuleNotFoundError.*package.module:fun",
    ),
    "function": ({"entrypoint": "mynet:other"}, r"mynet:other \(AttributeError"),
    "form": ({"entrypoint": "mynet"}, r"classifiers.mine.entrypoint is 'mynet'"),
    "argument": ({"arguments": {"klasses": 10}}, r"entrypoint is mynet:make .TypeError.*klasses"),
    "no network": (
        {"entrypoint": "mynet:text", "arguments": {}},
        r".str., expected a function that returns an nn.Module",
    ),
    "other weights": ({"arguments": {"classes": 10, "width": 4}}, r"weights is size mismatch for"),
    "classes": (
        {"arguments": {"classes": 7}, "weights": None},
        r"logits of an image is \(7,\), expected \(10,\)",
    ),
    "channels": (
        {"channels": 3, "mean": [0.1] * 3, "std": [1.0] * 3},
        r"answer to images 8x1x8x8 is RuntimeError.*channels",
    ),
    "mean": (
        {"mean": [0.1, 0.2]},
        r"classifiers.mine.mean is \[0.1, 0.2\], expected 1 numbers, one a channel",
    ),
    "size": ({"size": 16}, r"answer to images 8x1x8x8 is RuntimeError"),
    "std": ({"std": [0.0]}, r"classifiers.mine.std.0 is 0.0, expected more than 0"),
    "both": ({"method": "supervised"}, r"unknown key classifiers.mine.method"),
    "source": (
        {"source": "onnx"},
        r"classifiers.mine.source is 'onnx', expected one of .*'torchscript'",
    ),
    "pretrained": (
        {"arguments": {"pretrained": True}},
        r"arguments is .*no pretrained: weights are a safetensors file",
    ),
    "not a number": (
        {"weights": "nan.safetensors"},
        r"output of logits is NaN or infinite, expected finite",
    ),
}


@pytest.mark.parametrize("case", WRONG_ENTRY)
def test_what_does_not_fit_is_refused(case: str, project: Path, digits, monkeypatch) -> None:
    monkeypatch.chdir(project)
    if case == "not a number":
        from safetensors.torch import load_file

        broken = load_file("weights.safetensors")
        broken["head.bias"][3] = torch.nan
        save_file(broken, "nan.safetensors")
    changed, words = WRONG_ENTRY[case]
    with pytest.raises((ArgumentError, InputError), match=words):
        take(entrypoint(project, **changed), digits[0][:9])


def test_colour_images_for_a_grey_network_are_refused(project: Path, rng) -> None:
    with pytest.raises(
        ArgumentError, match=r"classifiers.mine.channels is 1, expected 3, as the images have"
    ):
        take(entrypoint(project), rng.integers(0, 256, (9, 3, 8, 8), np.uint8))


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        (
            "logits.pt2",
            "torch_export",
            (
                r"output is tensor \(8, 10\), expected \(features, logits\) or \(features, logits,"
                r" early_1"
            ),
        ),
        (
            "fixed.pt2",
            "torch_export",
            r"answer to images 8x1x8x8 is .*an export has a dynamic number of images",
        ),
        ("net.pt2", "torchscript", r"file is another kind of zip, expected a torchscript archive"),
        (
            "traced.pt",
            "torch_export",
            r"file is another kind of zip, expected a torch_export archive",
        ),
        (
            "weights.pth",
            "torchscript",
            r"file is another kind of zip, .*pickled weights cannot be used",
        ),
        ("mynet.py", "torchscript", r"file is unreadable \(BadZipFile"),
        ("absent.pt", "torchscript", r"file is unreadable \(FileNotFoundError"),
        ("logits.pt", "torchscript", r"answer to images 8x1x8x8 is RuntimeError"),
    ],
)
def test_archives_that_cannot_be_used(
    name: str, source: str, words: str, project: Path, digits
) -> None:
    with pytest.raises(InputError, match=words):
        take(archive(project / name, source), digits[0][:9])


class Bomb:
    """A pickle that does something when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.ckpt", "w.pkl", "w.safetensors"])
def test_pickled_weights_are_refused_unopened_with_what_is_safe(
    name: str, project, digits, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps(Bomb()))
    words = (
        "unreadable"
        if name.endswith("safetensors")
        else r"a pickle.*safetensors.torch.save_file\(torch.load\(.*True"
    )
    with pytest.raises(InputError, match=words):
        take(entrypoint(project, weights=name), digits[0][:9])
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    "member", ["data/sample_inputs/model.pt", "data/constants/model_constants_config.json"]
)
def test_no_pickle_in_an_archive_is_executed(
    member: str, project, digits, tmp_path, monkeypatch
) -> None:
    """torch.export.load would fall back to a full pickle; TorchScript has a reader in C++ that
    knows no Python.
    """
    import io
    import zipfile

    monkeypatch.chdir(tmp_path)
    bomb = io.BytesIO()
    torch.save({"x": Bomb()}, bomb)
    for source, start, target in (
        ("torch_export", "net.pt2", member),
        ("torchscript", "traced.pt", "data.pkl"),
    ):
        with (
            zipfile.ZipFile(project / start) as old,
            zipfile.ZipFile("bad", "w", zipfile.ZIP_STORED) as new,
        ):
            names = [name for name in old.namelist() if name.endswith(target)]
            assert len(names) == 1
            for name in old.namelist():
                content = pickle.dumps(Bomb(), 2) if source == "torchscript" else bomb.getvalue()
                new.writestr(name, content if name in names else old.read(name))
        with pytest.raises(InputError):
            take(archive(Path("bad"), source), digits[0][:9])
        assert not Path("exploded").exists()


def test_a_network_in_training_mode_is_refused(digits, tmp_path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = nn.functional.dropout(x.flatten(1), 0.5, training=True)
            return z, self.net[2](z)

    torch.jit.trace(Both(), torch.zeros(2, 1, 8, 8), check_trace=False).save(tmp_path / "n.pt")
    with pytest.raises(
        InputError, match="answer to an image is another one, expected the same .*evaluation mode"
    ):
        take(archive(tmp_path / "n.pt", "torchscript"), digits[0][:9])


class Steps(nn.Module):
    """A network without a gradient."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem, self.body, self.head = net.stem, net.body, net.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            first = self.stem(x)
            z = torch.flatten(self.body(first), 1)
            return z, self.head(z), first


def test_the_stage_refuses_in_one_line_and_leaves_nothing(project, tmp_path, digits) -> None:
    for split in ("fit", "val"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "images.npy", digits[0][:50])
        np.save(tmp_path / split / "labels.npy", digits[1][:50])
    values = yaml.safe_load(SMOKE) | {
        "classifiers": {"mine": entrypoint(project, weights=str(project / "weights.pth"))}
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "mynet.py").write_text(CODE)
    (tmp_path / "classes.json").write_text(json.dumps(list("0123456789")))
    done = run(tmp_path, "classifier", "fit", "val", "classes.json", "data/classifier/mine")
    refused(done, "weights.pth", "pickle", "safetensors")
    assert not (tmp_path / "data/classifier/mine").exists()


@pytest.mark.slow
def test_own_classifiers_through_the_whole_pipeline(project: Path, tmp_path: Path) -> None:
    """One with gradients, and one without, which nobody can attack; the report shows both."""
    import mynet

    net = mynet.make(10)
    external.load_weights(net, project / "weights.safetensors")
    torch.jit.script(Steps(net).eval()).save(project / "steps.pt")
    checkout = clone(tmp_path)
    (checkout.folder / "mynet.py").write_text(CODE)
    both = {"mine": entrypoint(project), "steps": archive(project / "steps.pt", "torchscript")}
    values = yaml.safe_load(SMOKE) | {"classifiers": both}
    (checkout.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    told = checkout.run("dvc", "repro").stdout
    for stage in ("adversarial", "adaptive"):
        assert told.count(f"{stage}: nothing to do: {models.NO_GRADIENT}") == 1
    for name in both:
        found, scores = (
            json.loads((checkout.folder / "data" / stage / name / "metrics.json").read_text())
            for stage in ("classifier", "scores")
        )
        assert found["gradients"] == (name == "mine")
        assert found["accuracy_val"] > 0.85
        assert scores["accuracy_test"] > 0.85
        sets = (checkout.folder / f"data/scores/{name}/sets.csv").read_text()
        assert ("fgsm_05" in sets) == (name == "mine")
    assert (checkout.folder / "data/report/report.html").is_file()
    assert checkout.run("mistakes", "results").stdout.startswith("Accuracy: ")
    Image.fromarray(np.load(checkout.folder / "data/images/test/images.npy")[0, 0]).save(
        checkout.folder / "one.png"
    )
    for name, program in (("mine", "mynet:make"), ("steps", "torchscript")):
        ask = ("mistakes", "check", f"data/guard/{name}/model", "one.png")
        done = checkout.run(*ask, check=False)
        assert done.returncode == 2
        assert f"program is '{program}'" in done.stderr
        scores = load_table(checkout.folder / "data/scores" / name / "scores.parquet")
        p = float(checkout.run(*ask, "--trust").stdout.splitlines()[1].split(",")[3])
        assert p == pytest.approx(scores["p_guard"][0], abs=0.02)
