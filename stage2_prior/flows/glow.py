"""Glow, a normalising flow over maps of real numbers: exact densities, and samples in one pass.

Each step of the flow (Kingma & Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018, table 1) is

- actnorm: a scale and a shift a channel, which start where the training latents then have mean 0 and variance 1. They
  are set once, before the first step of a fit, and never by a pass;
- a mixing of the channels at each place by one matrix, W = P L (U + diag(s)), whose determinant is prod s; it starts
  as a random rotation;
- an affine coupling: half of the channels say, through a small convolutional net, how the other half moves. It starts
  as the identity (but for a trace, which lets gradients through).

A level squeezes 2 x 2 places into channels, then takes some steps, then lets half of the channels go (figure 2b): they
are N(0, I), and the levels to come look at the rest. Of a side that is odd nothing is squeezed; there are as many
levels as sides can be halved, at most `num_levels`. At the start the density is one of Gaussians, with the moments of
the channels.

Nets see a constant plane (of classes, a plane each) beside the channels: with zeros around it, it marks the border.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.rows import spread_rows
from stage2_prior.fitting import PriorError
from stage2_prior.labels import LabelledPrior
from stage2_prior.sampling import Sampling

NEARLY_ZERO = 1e-4
"""Scale of the last convolution's weights at the start."""
LOG_STEEPEST = 2.0
"""One coupling scales by at most e to this power, approached smoothly."""
START_ROWS = 1024
"""Training latents that actnorms start from."""
BLOCK_ELEMENTS = 2**24
"""Densities and samples are computed in blocks whose hidden activations have so many numbers at most, each layer's."""


class Glow(LabelledPrior):
    """Flow over maps [C, h, w] of real numbers; the density itself is in float32.

    Samples follow `temperature`, which scales the noise; at 0 they are what the flow makes of the mean of N(0, I).

    Args:
        num_levels: at most.
        num_steps: of each level.
        width: channels of the coupling nets.
        conditional: whether labels are given.

    Raises:
        PriorError: for a number out of range, or labels that are not there.
    """

    def __init__(
        self, spec: LatentSpec, num_levels: int = 3, num_steps: int = 8, width: int = 128, conditional: bool = False
    ) -> None:
        super().__init__(spec, conditional, knobs=frozenset({"temperature"}))
        for name, count in {"num_levels": num_levels, "num_steps": num_steps, "width": width}.items():
            if count < 1:
                raise PriorError(f"prior.{name}={count}: give at least 1")
        shapes = list(level_shapes(spec.shape, num_levels))
        self.shapes = shapes
        self.rows_at_once = max(1, BLOCK_ELEMENTS // (max(width, shapes[0][0]) * math.prod(shapes[0][1:])))
        self.steps = nn.ModuleList(
            nn.ModuleList(Step(channels, width, self.num_labels) for _ in range(num_steps)) for channels, _, _ in shapes
        )

    @property
    def levels(self) -> Iterator[tuple[tuple[int, int, int], list["Step"]]]:
        """Of each level what it works on, [C, h, w], and its steps."""
        for shape, steps in zip(self.shapes, self.steps, strict=True):
            assert isinstance(steps, nn.ModuleList)
            yield shape, [step for step in steps if isinstance(step, Step)]

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        shape = spec.shape
        if spec.support is not Support.REAL or len(shape) != 3:
            return f"glow models maps of real numbers; these latents are {spec.support.value} of shape {shape}"
        if next(level_shapes(shape, 1))[0] == 1 and spec.num_dims > 1:
            return f"glow couples channels; these latents are {spec.support.value} of shape {shape}, one with odd sides"
        return None

    def prepare(self, train: LatentDataset) -> None:
        """Set every actnorm from the latents as they reach it."""
        super().prepare(train)
        rows = spread_rows(len(train), START_ROWS)
        labels = self._all(len(rows), self.no_class)
        if self.num_classes and train.labels is not None:
            labels = train.labels[rows].to(self.anchor.device, torch.int64)
        with torch.no_grad():
            self._to_noise(train.draw(rows).to(self.anchor.device), labels, start=True)

    def _to_noise(self, z: Tensor, labels: Tensor, start: bool = False) -> tuple[list[Tensor], Tensor]:
        """[B, C, h, w] -> what each level lets go, and log-determinants [B]; `start`: actnorms are set on the way."""
        noise, log_det = [], z.new_zeros(len(z))
        for i, (shape, steps) in enumerate(self.levels):
            z = squeeze(z, shape)
            for step in steps:
                if start:
                    step.norm.start_from(z)
                z, its_own = step(z, labels)
                log_det = log_det + its_own
            if i + 1 < len(self.shapes):
                gone, z = z.tensor_split([shape[0] - shape[0] // 2], 1)
                noise.append(gone)
        return [*noise, z], log_det

    def _log_prob_given(self, z: Tensor, labels: Tensor) -> Tensor:
        blocks = zip(z.split(self.rows_at_once), labels.split(self.rows_at_once), strict=True)
        return torch.cat([self._log_prob_of_block(*block) for block in blocks])

    def _log_prob_of_block(self, z: Tensor, labels: Tensor) -> Tensor:
        noise, log_det = self._to_noise(z, labels)
        squares = sum(part.square().flatten(1).sum(1) for part in noise)
        return log_det - 0.5 * (squares + self.spec.num_dims * math.log(2 * math.pi))

    def _sample_given(self, labels: Tensor, how: Sampling) -> Tensor:
        return torch.cat([self._from_noise(block, how.temperature) for block in labels.split(self.rows_at_once)])

    def _from_noise(self, labels: Tensor, temperature: float) -> Tensor:
        """A draw a label, [n, C, h, w]."""
        z: Tensor | None = None
        for (channels, height, width), steps in reversed(list(self.levels)):
            left = 0 if z is None else channels // 2
            drawn = temperature * torch.randn(len(labels), channels - left, height, width, device=labels.device)
            z = drawn if z is None else torch.cat([drawn, unsqueeze(z, (left, height, width))], 1)
            for step in reversed(steps):
                z = step.inverse(z, labels)
        assert z is not None
        return unsqueeze(z, self.spec.shape)


class Step(nn.Module):
    """[B, C, h, w] -> [B, C, h, w] and log-determinants [B]: actnorm, mixed channels, coupling."""

    def __init__(self, channels: int, width: int, num_labels: int) -> None:
        super().__init__()
        self.norm = ActNorm(channels)
        self.mix = Mixing(channels) if channels > 1 else None
        self.coupling = Coupling(channels, width, num_labels)

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        places = z[0, 0].numel()
        z, log_det = self.norm(z), self.norm.log_scale.sum() * places
        if self.mix is not None:
            z, log_det = apply_matrix(self.mix.matrix, z), log_det + self.mix.log_size.sum() * places
        z, moved = self.coupling(z, labels)
        return z, moved + log_det

    def inverse(self, z: Tensor, labels: Tensor) -> Tensor:
        z = self.coupling.inverse(z, labels)
        if self.mix is not None:
            z = apply_matrix(torch.linalg.inv(self.mix.matrix.double()).to(z.dtype), z)
        return self.norm.inverse(z)


class ActNorm(nn.Module):
    """A scale and a shift a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def start_from(self, z: Tensor) -> None:
        """Make channels of `z` [B, C, h, w] have mean 0 and variance 1; one that never varies keeps its scale."""
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        self.log_scale.copy_(-0.5 * torch.where(variance > 1e-12, variance, 1.0).log())
        self.shift.copy_(-mean * self.log_scale.exp())

    def forward(self, z: Tensor) -> Tensor:
        return z * self.log_scale.exp()[:, None, None] + self.shift[:, None, None]

    def inverse(self, z: Tensor) -> Tensor:
        return (z - self.shift[:, None, None]) * torch.exp(-self.log_scale)[:, None, None]


class Mixing(nn.Module):
    """A regular matrix [C, C] by its factors, P L (U + diag(s)); at least two channels."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # factors are of numbers, also where only shapes are wanted
            rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
            permutation, lower, upper = torch.linalg.lu(rotation)
            below = torch.tril_indices(channels, channels, -1)
        self.channels = channels
        self.below = nn.Parameter(lower[below[0], below[1]].float())  # of L, row by row
        self.above = nn.Parameter(upper.T[below[0], below[1]].float())  # of U, column by column
        self.log_size = nn.Parameter(upper.diagonal().abs().log().float())  # log |s|
        self.register_buffer("sign", upper.diagonal().sign().float())
        self.register_buffer("permutation", permutation.float().contiguous())

    @property
    def matrix(self) -> Tensor:
        """[C, C]."""
        row, column = torch.tril_indices(self.channels, self.channels, -1, device=self.below.device)
        lower = torch.diag_embed(torch.ones_like(self.log_size)).index_put((row, column), self.below)
        upper = torch.diag_embed(self.sign * self.log_size.exp()).index_put((column, row), self.above)
        with torch.autocast(lower.device.type, enabled=False):  # its determinant is told to be exact
            return self.permutation @ lower @ upper


def apply_matrix(matrix: Tensor, z: Tensor) -> Tensor:
    """`matrix` [C, C] times the channels of each place of `z` [B, C, h, w]."""
    with torch.autocast(z.device.type, enabled=False):
        return F.conv2d(z, matrix[:, :, None, None])


class Coupling(nn.Module):
    """[B, C, h, w] -> [B, C, h, w] and log-determinants [B]: the first half of the channels says how the rest moves."""

    def __init__(self, channels: int, width: int, num_labels: int) -> None:
        super().__init__()
        self.kept, self.num_labels = channels // 2, num_labels  # of one channel none is kept
        last = nn.Conv2d(width, 2 * (channels - self.kept), 3, padding=1)
        self.net = nn.Sequential(
            nn.Conv2d(self.kept + num_labels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 1),
            nn.SiLU(),
            last,
        )
        with torch.no_grad():
            last.weight.mul_(NEARLY_ZERO)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def _function(self, kept: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of scales, and shifts, each [B, moved, h, w]."""
        planes = F.one_hot(labels, self.num_labels).to(kept.dtype)[:, :, None, None]
        given = torch.cat([kept, planes.expand(-1, -1, *kept.shape[2:])], 1)
        steepness, shift = self.net(given).to(kept.dtype).chunk(2, 1)
        return LOG_STEEPEST * torch.tanh(steepness / LOG_STEEPEST), shift

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = z.tensor_split([self.kept], 1)
        log_scale, shift = self._function(kept, labels)
        return torch.cat([kept, moved * log_scale.exp() + shift], 1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, labels: Tensor) -> Tensor:
        kept, moved = z.tensor_split([self.kept], 1)
        log_scale, shift = self._function(kept, labels)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], 1)


def level_shapes(shape: tuple[int, ...], num_levels: int) -> Iterator[tuple[int, int, int]]:
    """[C, h, w] that each level works on, of latents of `shape`: the first in any case, more while a side is even."""
    channels, height, width = shape
    for i in range(num_levels):
        by = [2 if side % 2 == 0 else 1 for side in (height, width)]
        if i > 0 and by == [1, 1]:
            return
        channels, height, width = channels * by[0] * by[1], height // by[0], width // by[1]
        yield channels, height, width
        channels //= 2


def squeeze(z: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[B, c, h, w] -> [B, *shape]: neighbours become channels."""
    channels, height, width = shape
    down, right = z.shape[2] // height, z.shape[3] // width
    z = z.reshape(len(z), z.shape[1], height, down, width, right).permute(0, 1, 3, 5, 2, 4)
    return z.reshape(len(z), channels, height, width)


def unsqueeze(z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `squeeze`: [B, C, h, w] -> [B, *shape]."""
    channels, height, width = shape
    down, right = height // z.shape[2], width // z.shape[3]
    z = z.reshape(len(z), channels, down, right, z.shape[2], z.shape[3]).permute(0, 1, 4, 2, 5, 3)
    return z.reshape(len(z), channels, height, width)
