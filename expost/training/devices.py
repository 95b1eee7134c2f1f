"""What this machine computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from expost.base.errors import UserError
from expost.config.schema import Trainer
from stage1_vae.machine import has_native_bf16, is_bf16_faster, product_times


def device_of(settings: Trainer) -> torch.device:
    """Where tensors of a stage live.

    Raises:
        UserError: a GPU was asked for and there is none.
    """
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu: no GPU here; use trainer.accelerator=cpu or auto")
    use_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    if use_gpu and settings.devices > (num := torch.cuda.device_count()):
        raise UserError(f"trainer.devices={settings.devices}: {num} GPU(s) here; use trainer.devices={num} or fewer")
    return torch.device("cuda" if use_gpu else "cpu")


def resolved_precision(settings: Trainer) -> str:
    """`settings.precision` with `auto` decided for this machine: "32" or "bf16"."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if is_bf16_faster(device_of(settings)) else "32"


def precision_words(device: torch.device) -> str:
    """What `auto` decides on `device`, and why."""
    chosen = "bfloat16" if is_bf16_faster(device) else "float32"
    if not has_native_bf16(device):
        return f"{chosen}: there are no instructions for bfloat16 here"
    return f"{chosen}: {product_times().words if device.type == 'cpu' else 'this GPU has units for it'}"


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators, that of `device` too, seeded inside the block and put back after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
