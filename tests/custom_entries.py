"""Custom classifiers: entries of params.yaml for the networks of usernets, taken in."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import usernets
import yaml
from commands import SMOKE
from safetensors.torch import save_file
from torch import nn

from mistakes.config import params
from mistakes.networks import external, validate_external

CPU = torch.device("cpu")
INPUT = {"mean": [0.3], "std": [0.35], "channels": 1, "size": None}


def entry(**values: Any) -> dict[str, Any]:
    """Pass an entry through params.yaml."""
    base = {
        "source": "entrypoint",
        "weights": None,
        "arguments": {},
        "layer": "hidden",
        "early": [],
        **INPUT,
    }
    document = yaml.safe_load(SMOKE) | {"classifiers": {"mine": base | values}}
    return params.parse(yaml.safe_dump(document)).classifiers["mine"].model_dump()


def take(
    trained: dict[int, Path],
    form: str,
    images: np.ndarray,
    classes: int = 10,
    trace: bool = True,
    **more: Any,
) -> external.Custom:
    """Take in the network for ten digits, or for two classes, with outputs of ``form``."""
    arguments = {"form": form, "classes": classes, "trace": trace}
    values = entry(
        entrypoint="usernets:make", arguments=arguments, weights=str(trained[classes]), **more
    )
    return validate_external.take(values, "classifiers.mine", images, classes, CPU)


def train(digits: tuple[np.ndarray, np.ndarray], classes: int, path: Path) -> Path:
    """Write the weights of a network for ten digits, or for whether a digit is 5 or more."""
    x = (torch.as_tensor(digits[0][:1000]).float() / 255 - 0.3) / 0.35
    torch.manual_seed(0)
    net, y = usernets.make(classes), torch.as_tensor(digits[1][:1000])
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(x), y if classes == 10 else (y >= 5).long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(net.state_dict(), path)
    return path
