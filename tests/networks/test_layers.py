"""Layers: tokens, maps, and what hooks see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from custom_entries import entry
from torch import Tensor

from mistakes.errors import ArgumentError, InputError
from mistakes.networks import external, layers, models, validate_external
from mistakes.networks.extraction import Extractor

CPU = torch.device("cpu")


# tokens


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 3, 32, 32), np.uint8)


COLOUR = {"mean": [0.5] * 3, "std": [0.5] * 3, "channels": 3, "size": None}


def take_picture(function: str, layer: str, **more: Any) -> external.Custom:
    values = entry(entrypoint=f"usernets:{function}", layer=layer, **COLOUR | more)
    torch.manual_seed(0)
    return validate_external.take(values, "classifiers.mine", pictures(), 10, CPU)


def output_of(model: external.Custom, layer: str) -> np.ndarray:
    found: list[Tensor] = []
    hook = model.net.get_submodule(layer).register_forward_hook(
        lambda _m, _i, out: found.append(out)
    )
    model(torch.as_tensor(pictures()).float() / 255)
    hook.remove()
    return found[0].detach().numpy()


@pytest.mark.parametrize(
    ("function", "layer", "tokens", "expected"),
    [
        ("tv", "encoder.ln", None, lambda z: z[:, 0]),
        ("tv", "encoder.ln", "mean", lambda z: z.mean(1)),
        ("tv", "encoder.layers.encoder_layer_1.mlp", "class", lambda z: z[:, 0]),
        ("tv", "conv_proj", None, lambda z: z.mean((2, 3))),
        ("timm_vit", "norm", None, lambda z: z[:, 0]),
        ("timm_without_class_token", "norm", None, lambda z: z.mean(1)),
        ("swin", "norm", None, lambda z: z.mean((1, 2))),
        ("swin", "norm", "mean", lambda z: z.mean((1, 2))),
        ("swin", "permute", None, lambda z: z.mean((2, 3))),
        ("timm_swin", "norm", None, lambda z: z.mean((1, 2))),
        ("convnext", "features.0", None, lambda z: z.mean((2, 3))),
        ("encoder", "encoder", None, lambda z: z.mean(1)),
        ("sound", "conv", None, lambda z: z.mean(2)),
    ],
)
def test_tokens_and_maps_are_told_from_each_other(
    function, layer, tokens, expected, tmp_path: Path
) -> None:
    if function.startswith("timm"):
        pytest.importorskip("timm")
    model = take_picture(function, layer, tokens=tokens)
    external.save(model, tmp_path / "m.safetensors")
    batch = Extractor(models.load(tmp_path / "m.safetensors"), "penultimate", None, CPU).whole(
        pictures(), 4
    )
    z = output_of(model, layer)
    assert batch.features == pytest.approx(expected(z), abs=1e-5)
    if (
        tokens is None and z.ndim > 2 and function != "sound"
    ):  # early features: mean and deviation of each channel
        assert batch.early[0].shape == (9, 2 * expected(z).shape[1])


def test_early_features_of_tokens_and_a_layer_of_stage_features() -> None:
    model = take_picture("tv", "encoder.ln", early=["conv_proj", "encoder.layers.encoder_layer_0"])
    batch = Extractor(model, "penultimate", None, CPU).whole(pictures(), 9)
    z = output_of(model, "encoder.layers.encoder_layer_0")
    assert [part.shape for part in batch.early] == [(9, 48), (9, 48)]
    assert batch.early[1] == pytest.approx(np.c_[z.mean(1), z.std(1)], abs=1e-4)
    other = Extractor(model, "net.encoder.layers.encoder_layer_0", [], CPU).whole(pictures(), 9)
    assert other.features == pytest.approx(z[:, 0], abs=1e-5)


def test_layers_inside_of_torch_s_transformer_are_seen_by_hooks() -> None:
    """They are passed by where torch takes its fast path, which it does without gradients."""
    model = take_picture("encoder", "encoder.layers.0.norm2", arguments={"follow": False})
    batch = Extractor(model, "penultimate", None, CPU).whole(pictures(), 9)
    assert batch.features == pytest.approx(
        output_of(model, "encoder.layers.0.norm2").mean(1), abs=1e-5
    )


def test_layers_of_which_nothing_shows_the_channels_are_one_line() -> None:
    words = (
        "layer: relu gives 48 x 64 numbers for an image, .* by the key tokens, class .the first of"
        " 48 tokens., mean"
    )
    with pytest.raises((ArgumentError, InputError), match=words) as caught:
        take_picture("bare", "relu")
    assert "\n" not in str(caught.value)
    x = torch.as_tensor(pictures()).float() / 255
    parts = ((x - 0.5) / 0.5).reshape(9, 48, 64).relu().numpy()
    for tokens, expected in (
        ("class", parts[:, 0]),
        ("mean", parts.mean(1)),
        ("maps", parts.mean(2)),
    ):
        model = take_picture("bare", "relu", tokens=tokens)
        found = Extractor(model, "penultimate", None, CPU).whole(pictures(), 9).features
        assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(
        (ArgumentError, InputError),
        match=r"mine.tokens is 'class', expected mean or null: the layer gives \(8, 8, 24\)",
    ):
        take_picture("swin", "norm", tokens="class")
    with pytest.raises(
        (ArgumentError, InputError),
        match=r"output of net.norm is \(8, 8, 12\), expected a tensor with a row per image",
    ):
        take_picture("tokens_first", "norm")  # 8 tokens of 8 images
    with pytest.raises(
        (ArgumentError, InputError),
        match="layer: x gives a tuple; a tensor with a row for each image is needed",
    ):
        layers.channels_first((x, x), "net.x", layers.MAPS)
    with pytest.raises((ArgumentError, InputError), match="classifiers.mine.tokens is 'first'"):
        entry(entrypoint="a:b", tokens="first")
