"""The one preprocessing: raw pixels -> x.

A raw pixel k of an image with L levels becomes k / (L - 1) in [0, 1]. On top of that, one of

- dynamic binarisation: x ~ Bernoulli(k / (L - 1)), drawn afresh each time (Burda, Grosse & Salakhutdinov, "Importance
  Weighted Autoencoders", 2016, section 5);
- threshold: x = 1 where k / (L - 1) > 1/2;
- uniform dequantisation: x = (k + u) / L with u ~ U[0, 1), which turns a density over x into a lower bound on the log
  probability of the level numbers (Theis, van den Oord & Bethge, "A note on the evaluation of generative models", 2016,
  section 3.1). The mapping differs from k / (L - 1) by at most 1/L, and each level owns an interval of width 1/L.

Float images pass unchanged: values in [0, 1] for the unit domain, any for the real one.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain

BINARIZE = ("none", "dynamic", "threshold")
LARGEST_BELOW_ONE = 1 - 2**-24  # (255 + u) / 256 may round up to 1 in float32


@dataclass(frozen=True)
class Preprocess:
    """Raw images -> x, float32.

    Args:
        levels: how many values a raw uint8 pixel takes; None for float images.
        domain: where a pixel lives.
        binarize: "none", "dynamic" or "threshold".
        dequantize: add uniform noise of one level's width.

    Raises:
        DataError: a combination that means nothing.
    """

    levels: int | None
    domain: Domain = Domain.UNIT
    binarize: str = "none"
    dequantize: bool = False

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.binarize not in BINARIZE:
            nearest = get_close_matches(str(self.binarize), BINARIZE, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise DataError(f"data.binarize={self.binarize} is unknown{hint} choose one of {', '.join(BINARIZE)}")
        if not isinstance(self.dequantize, bool):
            raise DataError(f"data.dequantize={self.dequantize} is unknown: choose true, false or auto")
        if self.binarize != "none" and self.domain is Domain.REAL:
            raise DataError("real-valued images cannot be binarised: set data.binarize=none or data.domain=unit")
        if self.binarize != "none" and self.dequantize:
            raise DataError(
                "binarised images have no levels to dequantise: set data.dequantize=false or data.binarize=none"
            )
        if self.levels is None and self.dequantize:
            raise DataError("float images have no levels to dequantise: set data.dequantize=false or give uint8 images")

    @property
    def num_levels(self) -> int | None:
        """How many values a pixel of x takes: 2 when binarised, None when it is continuous."""
        if self.binarize != "none":
            return 2
        return None if self.dequantize else self.levels

    @property
    def is_random(self) -> bool:
        """Whether x is drawn afresh each time."""
        return self.binarize == "dynamic" or self.dequantize

    def clean(self, raw: Tensor) -> Tensor:
        """Intensities without noise or binarisation, float32 [B, C, H, W]: for features and pictures."""
        return raw.to(torch.float32) if self.levels is None else raw / (self.levels - 1)

    def __call__(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x, float32 [B, C, H, W], for raw images of the same shape.

        `generator`, on the device of `raw`, draws the noise; it may be None where there is none to draw.

        Raises:
            ValueError: noise is needed and there is no generator; the global one is never used.
        """
        if self.is_random and generator is None:
            raise ValueError("this preprocessing draws noise and needs a generator")
        if self.dequantize and self.levels is not None:
            noise = torch.rand(raw.shape, generator=generator, device=raw.device)
            return noise.add_(raw).div_(self.levels).clamp_(max=LARGEST_BELOW_ONE)
        x = self.clean(raw)
        if self.binarize == "dynamic":
            noise = torch.rand(x.shape, generator=generator, device=x.device)
            return (noise < x).to(torch.float32)  # four times faster than torch.bernoulli on a CPU
        return (x > 0.5).to(torch.float32) if self.binarize == "threshold" else x


@dataclass(frozen=True)
class SameNoise(Preprocess):
    """The same with one noise for all images, that of `seed`: x of an image depends on no other image.

    Args:
        seed: of the noise; that of a generator which is lent is left alone.
    """

    seed: int = 0

    def __call__(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if not self.is_random:
            return super().__call__(raw)
        own = torch.Generator(raw.device).manual_seed(self.seed)
        noise = torch.rand(raw.shape[1:], generator=own, device=raw.device)
        if self.dequantize and self.levels is not None:
            return ((raw + noise) / self.levels).clamp_(max=LARGEST_BELOW_ONE)
        return (noise < self.clean(raw)).to(torch.float32)
