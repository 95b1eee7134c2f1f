"""Files of TorchScript, as a user has them."""

import warnings
from pathlib import Path

import torch
from torch import nn


def script(net: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(path)
    return path
