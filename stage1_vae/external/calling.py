"""Calling somebody else's `encode` and `decode`: their pixels, their sizes, their precision."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from stage1_vae.external.errors import ExternalError, blaming
from stage1_vae.external.recognition import description
from stage1_vae.external.weights import tensors
from stage1_vae.likelihoods import BernoulliImage

IMAGES = ("sample", "reconstruction", "recon_x", "x_recon", "recon", "x_hat", "images", "image", "mean", "mu")
"""Names under which decoders return their images."""


@dataclass(frozen=True)
class Format:
    """How images of ours become those of the model, and its images ours.

    Attributes:
        shape: (C, H, W) of ours.
        range: what our 0 and 1 are to the model.
        multiple: its heights and widths are multiples of this: ours are padded below and on the right with their last
            row and column, and the model's are cropped.
        repeat: one channel of ours is three equal ones of the model's, whose mean comes back.
        levels: of images of ours that are dequantised, x = (level + noise) / levels: the model sees the level itself.
    """

    shape: tuple[int, int, int]
    range: tuple[float, float] = (0.0, 1.0)
    multiple: int = 1
    repeat: bool = False
    levels: int | None = None

    @property
    def padding(self) -> tuple[int, int]:
        """Rows below, columns on the right."""
        _, height, width = self.shape
        return -height % self.multiple, -width % self.multiple

    @property
    def their_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.shape
        return 3 * channels if self.repeat else channels, height + self.padding[0], width + self.padding[1]

    @property
    def is_plain(self) -> bool:
        """Whether the model's images are ours."""
        plain_range = self.range == (0.0, 1.0) and self.levels is None
        return plain_range and self.padding == (0, 0) and not self.repeat

    @property
    def plain_keys(self) -> tuple[str, ...]:
        """What to type so that they are."""
        return (
            *(["vae.range=[0,1]"] if self.range != (0.0, 1.0) else []),
            *(["data.dequantize=false"] if self.levels is not None else []),
            *(["vae.multiple=1"] if any(self.padding) else []),
            *(["vae.channels=same"] if self.repeat else []),
        )

    @property
    def words(self) -> tuple[str, ...]:
        """What is done to images, for people; empty where nothing is."""
        low, high = self.range
        _, height, width = self.their_shape
        return (
            *([f"images go in as [{low:g}, {high:g}]"] if self.range != (0.0, 1.0) else []),
            *(["without the noise that dequantises them"] if self.levels is not None else []),
            *([f"padded to {height}x{width} with their edges, and cropped back"] if any(self.padding) else []),
            *(["one channel repeated three times, their mean taken back"] if self.repeat else []),
        )

    def enter(self, x: Tensor) -> Tensor:
        """[B, C, H, W] of ours -> [B, *their_shape]."""
        low, high = self.range
        if self.levels is not None:
            x = (x * self.levels).floor().clamp(0, self.levels - 1) / (self.levels - 1)
        x = x if self.range == (0.0, 1.0) else x.mul(high - low).add_(low)
        x = x.expand(-1, 3, -1, -1) if self.repeat else x
        below, right = self.padding
        return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x

    def leave(self, image: Tensor) -> Tensor:
        """[B, *their_shape] -> [B, C, H, W] of ours."""
        _, height, width = self.shape
        low, high = self.range
        image = image[..., :height, :width]
        image = image.mean(1, keepdim=True) if self.repeat else image
        image = image if self.range == (0.0, 1.0) else (image - low).div_(high - low)
        return image if self.levels is None else (image * (self.levels - 1) + 0.5) / self.levels


@dataclass(frozen=True)
class Caller:
    """A model's two methods, on images of ours.

    Attributes:
        model: has `encode` and `decode`.
        format: of its images.
        precision: "32", or "bf16" where its layers may compute in that.
        keep: whether what the model raises is kept in a file; not where something is only tried.
    """

    model: Any
    format: Format
    precision: str = "32"
    keep: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next((v.dtype for v in tensors(self.model).values() if v.is_floating_point()), torch.float32)

    def encode(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Any:
        """What the model's `encode` returns for x [B, C, H, W] of ours; no gradient goes through it.

        Raises:
            ExternalError: it raised something.
        """
        inner = self.format.enter(x).to(dtype)
        with torch.no_grad(), self._autocast(x), blaming(f"encode(x) of images {tuple(inner.shape)}", self.keep):
            return self.model.encode(inner)

    def decode(self, z: Any, dtype: torch.dtype = torch.float32) -> Tensor | Distribution:
        """Images [B, C, H, W] of ours, float32, or a distribution over them, of what the model's `decode` takes.

        Raises:
            ExternalError: it raised something, or returned something else.
        """
        z = z.to(dtype) if isinstance(z, Tensor) and z.is_floating_point() else z
        anchor = z if isinstance(z, Tensor) else z[0]
        with self._autocast(anchor), blaming(f"decode(z) of latents {tuple(anchor.shape)}", self.keep):
            output = self.model.decode(z)
        if isinstance(output, Distribution):
            return self._density(output)
        image = _image(output)
        if image is None or not image.is_floating_point():
            raise ExternalError(
                f"decode(z) returns {description(output)}: return images as one float tensor (B, C, H, W), or a torch "
                "distribution over them"
            )
        if tuple(image.shape[1:]) != self.format.their_shape or len(image) != len(anchor):
            wanted = (len(anchor), *self.format.their_shape)
            reshape = "; let it reshape them" if image.numel() == math.prod(wanted) else ""
            raise SizeError(f"decode(encode(x)) makes images {tuple(image.shape)} of images {wanted}{reshape}")
        return self.format.leave(image.float())

    def _autocast(self, anchor: Tensor) -> Any:
        return torch.autocast(anchor.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _density(self, output: Distribution) -> Distribution:
        if not self.format.is_plain:
            raise ExternalError(
                f"decode(z) returns a distribution over other images than ours ({'; '.join(self.format.words)}): let "
                f"it return their mean, or give {' '.join(self.format.plain_keys)}"
            )
        if len(output.event_shape) < 3:
            output = Independent(output, 3 - len(output.event_shape), validate_args=False)
        if tuple(output.event_shape) != self.format.shape:
            raise SizeError(f"decode(z) returns a distribution over images {tuple(output.event_shape)}")
        base = output.base_dist if isinstance(output, Independent) else output
        return BernoulliImage(base.logits.float()) if isinstance(base, Bernoulli) else output


class SizeError(ExternalError):
    """What comes back is no image of the size that went in."""


def _image(output: Any) -> Tensor | None:
    """The images in what a decoder returned: it, its first, or what bears one of the names that they bear."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return output[0] if output and isinstance(output[0], Tensor) else None
    for name in IMAGES:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    return None
