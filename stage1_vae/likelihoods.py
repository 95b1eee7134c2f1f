"""p(x|z): the decoder's output turned into a distribution over images.

Each likelihood declares how many numbers a pixel it reads from the decoder (`num_params`), whether the images that it
describes are discrete or continuous, and returns a distribution whose event is the image (C, H, W) and whose `mean` is
a picture in the units of x.

Sources: Bernoulli, Kingma & Welling 2014, appendix C; continuous Bernoulli, Loaiza-Ganem & Cunningham 2019, eq. 8;
learned Gaussian scale ("sigma-VAE"), Rybkin et al. 2021; discretised logistic, Salimans et al. 2017 ("PixelCNN++",
section 2.1, with one component).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from stage1_vae.posteriors import Shape, Unchecked

MAX_LOG_SCALE = 50.0
"""Of a logistic: wider, all but the outer bins have no mass that float32 can tell from none."""
FEW_LEVELS = 32
FLOAT_LEVELS = 256
"""Bins in which a likelihood over levels scores float images in [0, 1]."""


class Pixels(str, Enum):
    """The kind of images that a likelihood is a distribution over."""

    BINARY = "binary"
    LEVELS = "levels"
    CONTINUOUS = "continuous"


class LogitsImage(Unchecked):
    """Independent pixels, each of one logit, [B, C, H, W]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape)


class BernoulliImage(LogitsImage):
    """Independent Bernoulli pixels with the given logits [B, C, H, W]; sums over the image.

    On intensities between 0 and 1 the same formula is a cross-entropy and not the logarithm of a density; torch's own
    Bernoulli refuses those, so this one does without validation.
    """

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        return torch.bernoulli(self.mean.expand(*sample_shape, *self.logits.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits.expand_as(value)
        per_pixel = F.binary_cross_entropy_with_logits(logits, value, reduction="none")
        return -per_pixel.flatten(-3).sum(-1)


class ContinuousBernoulliImage(LogitsImage):
    """Independent pixels in [0, 1] with density l exp(l x) / (exp(l) - 1) for logits l [B, C, H, W].

    The same family as torch's, whose normaliser and mean work on the probability and so saturate where a float32
    probability rounds to 0 or 1: at |l| = 16, with means no darker than 0.06.
    """

    @property
    def mean(self) -> Tensor:
        size = self.logits.abs()
        safe = size.clamp_min(0.1)
        excess = torch.where(size < 0.1, size / 12 - size**3 / 720, -1 / torch.expm1(-safe) - 1 / safe - 0.5)
        return 0.5 + torch.sign(self.logits) * excess

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        size = self.logits.abs().clamp_min(1e-3)  # below, uniform to within float32
        u = torch.rand(*sample_shape, *self.logits.shape, dtype=size.dtype, device=size.device)
        from_edge = -torch.log1p(u * torch.expm1(-size)) / size  # truncated exponential, away from the likelier edge
        return torch.where(self.logits > 0, 1 - from_edge, from_edge).clamp(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        size = self.logits.abs()
        safe = size.clamp_min(0.1)
        # log((exp(s) - 1) / s) - s / 2, even in s; the series where the quotient cancels
        normaliser = torch.where(
            size < 0.1, size**2 / 24 - size**4 / 2880, 0.5 * safe + torch.log(-torch.expm1(-safe)) - torch.log(safe)
        )
        return (self.logits * (value - 0.5) - normaliser).flatten(-3).sum(-1)


class DiscretizedLogistic(Unchecked):
    """A logistic density integrated over the bins of `levels` equally spaced intensities in [0, 1].

    The first and the last bin reach to minus and plus infinity, so the masses sum to one.

    Args:
        loc: [B, C, H, W] location, in units of x.
        log_scale: broadcastable to `loc`; at most `MAX_LOG_SCALE`.
        levels: number of intensities.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int) -> None:
        self.loc, self.log_scale, self.levels = loc, log_scale, levels
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        """Exact for few levels; for many, without the rounding to levels, which moves it by less than half a level."""
        inv_scale = torch.exp(-self.log_scale)
        if self.levels > FEW_LEVELS:
            start, end = self.loc * inv_scale, (self.loc - 1) * inv_scale
            return ((F.softplus(start) - F.softplus(end)) / inv_scale).clamp(0, 1)
        total = torch.zeros_like(self.loc)
        for k in range(self.levels - 1):  # sum of P(x > edge) over the edges between levels
            total = total + torch.sigmoid((self.loc - (k + 0.5) / (self.levels - 1)) * inv_scale)
        return total / (self.levels - 1)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        u = torch.rand(*sample_shape, *self.loc.shape, device=self.loc.device).clamp(1e-6, 1 - 1e-6)
        x = self.loc + torch.exp(self.log_scale) * torch.logit(u)
        return torch.round(x.clamp(0, 1) * (self.levels - 1)) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        half_bin = 0.5 / (self.levels - 1)
        inv_scale = torch.exp(-self.log_scale)
        centre, half_width = (value - self.loc) * inv_scale, half_bin * inv_scale
        # log(sigmoid(u) - sigmoid(l)) = log sigmoid(u) - softplus(l) + log(1 - exp(l - u)): exact, and stable in the
        # tails, where a difference of sigmoids underflows.
        below_upper, above_lower = F.logsigmoid(centre + half_width), -F.softplus(centre - half_width)
        inside = torch.log(-torch.expm1(-2 * half_width))
        # Products with 0 and 1: on a processor, choosing by a mask takes thirty times as long where neighbours differ.
        not_last, not_first = 1 - _is_positive(value - (1 - half_bin)), 1 - _is_positive(half_bin - value)
        per_pixel = not_last * below_upper + not_first * above_lower + not_last * not_first * inside
        return per_pixel.flatten(-3).sum(-1)


def _is_positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, in the dtype of x."""
    return torch.sign(x).relu_()


class Likelihood(nn.Module, ABC):
    """Decoder output [B, num_params * C, H, W] -> distribution over images, event (C, H, W)."""

    version: ClassVar[int] = 1
    pixels: ClassVar[Pixels]
    unit_domain: ClassVar[bool] = True
    """Whether the images must lie in [0, 1]."""
    num_params: int = 1

    @abstractmethod
    def forward(self, output: Tensor) -> Distribution: ...


class BernoulliLikelihood(Likelihood):
    """Independent Bernoulli pixels: a density of binary images, a cross-entropy on intensities."""

    pixels = Pixels.BINARY

    def forward(self, output: Tensor) -> BernoulliImage:
        return BernoulliImage(output)


class ContinuousBernoulliLikelihood(Likelihood):
    """The Bernoulli formula with its normaliser on [0, 1]: a density of real intensities."""

    pixels = Pixels.CONTINUOUS

    def forward(self, output: Tensor) -> ContinuousBernoulliImage:
        return ContinuousBernoulliImage(output)


class GaussianLikelihood(Likelihood):
    """N(output, scale^2) per pixel.

    Args:
        scale: standard deviation in units of x; the start value where it is learned.
        learned: one shared scale, learned with the net.
        min_log_std: floor of the learned logarithm; images with constant pixels would drive it to minus infinity.
    """

    pixels = Pixels.CONTINUOUS
    unit_domain = False

    def __init__(self, scale: float = 0.1, learned: bool = False, min_log_std: float = -5.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"likelihood.scale must be positive, got {scale}")
        if learned and math.log(scale) < min_log_std:
            raise ValueError(f"likelihood.scale={scale} starts below likelihood.min_log_std={min_log_std}: raise it")
        self.min_log_std = min_log_std if learned else -math.inf
        log_std = torch.tensor(math.log(scale))
        if learned:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    def forward(self, output: Tensor) -> Independent:
        std = torch.exp(self.log_std.clamp_min(self.min_log_std))
        return Independent(Normal(output, std.expand_as(output), validate_args=False), 3, validate_args=False)


class DiscretizedLogisticLikelihood(Likelihood):
    """Discretised logistic per pixel, with a location and a scale each.

    Args:
        levels: number of intensities of the images.
        min_log_scale: floor of the log scale, in units of x.
    """

    pixels = Pixels.LEVELS
    num_params = 2

    def __init__(self, levels: int = FLOAT_LEVELS, min_log_scale: float = -7.0) -> None:
        super().__init__()
        self.levels, self.min_log_scale = levels, min_log_scale

    def forward(self, output: Tensor) -> DiscretizedLogistic:
        loc, log_scale = output.chunk(2, dim=1)  # [B, C, H, W] each
        # Start at a mid grey with a scale of about a tenth of the range.
        return DiscretizedLogistic(loc + 0.5, (log_scale - 2.0).clamp(self.min_log_scale, MAX_LOG_SCALE), self.levels)


@dataclass(frozen=True)
class FigureKind:
    """What the number -log p(x|z) of a likelihood on given images is.

    Attributes:
        is_density: whether bounds and bits per dimension may be quoted.
        dequantized_levels: levels whose uniform noise was added, for bits per dimension; None for discrete images.
        note: what a reader must know; empty where there is nothing.
    """

    is_density: bool
    dequantized_levels: int | None
    note: str


def figure_kind(likelihood: Likelihood, levels: int | None, dequantized: bool) -> FigureKind:
    """What figures of `likelihood` mean on images with `levels` intensities (None: real numbers)."""
    if likelihood.pixels is Pixels.BINARY and levels != 2:
        return FigureKind(False, None, "Bernoulli on intensities is a cross-entropy, not a density")
    if likelihood.pixels is Pixels.LEVELS and levels is None:
        return FigureKind(True, None, f"real-valued pixels are scored in {FLOAT_LEVELS} bins, as 8-bit ones are")
    if likelihood.pixels is not Pixels.CONTINUOUS:
        return FigureKind(True, None, "")
    if dequantized:
        return FigureKind(True, levels, "")
    if levels is not None:
        return FigureKind(False, None, f"a continuous density on {levels} undequantised levels can grow without bound")
    return FigureKind(True, 1, "density over real-valued images; bits/dim counts no quantisation")
