"""What is computed on: the CPU, or a GPU where there is one."""

import itertools

import torch
from torch import nn

from mistakes.errors import InputError

CPU = torch.device("cpu")


def choose(name: str, where: str = "device") -> torch.device:
    """Return the device ``name``: cpu, cuda, or auto, which is CUDA where there is one.

    Raises InputError, naming ``where`` it was asked for, if this machine has no such device.

    Examples
    --------
    >>> choose("cpu")
    device(type='cpu')
    """
    there = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(where, "device", name, "auto, cpu or cuda")
    if name == "cuda" and not there:
        raise InputError(where, "device", name, "auto or cpu (this machine has no CUDA device)")
    # with ten bits of mantissa features would differ from the CPU's in the third digit
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda") if there and name != "cpu" else CPU


def of(module: nn.Module) -> torch.device:
    """Return the device on which ``module`` computes; the CPU where it keeps nothing.

    Examples
    --------
    >>> of(nn.Linear(2, 2))
    device(type='cpu')
    """
    kept = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in kept), CPU)
