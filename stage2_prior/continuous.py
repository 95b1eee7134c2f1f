"""Priors that carry noise into data along an ordinary differential equation whose drift a network has learned.

Noise e ~ N(0, I) and a latent z are joined by a path x_t = a(t) z + b(t) e. The drift that carries the distribution of
x_t along is the mean velocity of all paths through a point, v(x, t) = E[a'(t) z + b'(t) e | x_t = x] (Lipman et al.,
"Flow Matching for Generative Modeling", 2023, theorem 2; Albergo & Vanden-Eijnden, "Building Normalizing Flows with
Stochastic Interpolants", 2023), and a mean is what least squares finds: the loss is

    E |v(x_t, t) - a'(t) z - b'(t) e|^2 / D,   t from a density that says which times matter,

of which no density is part, so that a step of training costs one pass of any network. Where z ~ N(m, s^2) is a draw of
a known posterior, its mean given x_t takes the place of the draw's own velocity: of the same minimum, and of a variance
that no longer grows without bound towards data,

    E[a' z + b' e | x_t, m, s] = a' m + (a a' s^2 + b b') / (a^2 s^2 + b^2) (x_t - a m)

(Lipman et al., 2023, theorem 3, for a path that ends at that posterior and not at a point). Nor need it be known from
which posterior of a batch S the row came: each is as likely before x_t is seen, and the mean over what they are after,

    E[a' z + b' e | x_t, S] = sum_j w_j E[a' z + b' e | x_t, m_j, s_j],   w_j ~ N(x_t; a m_j, a^2 s_j^2 + b^2)

is again of the same minimum and, row by row, of less variance, by the theorem of Rao and Blackwell (for points this is
the stable target of Xu, Tong & Jaakkola, "Stable Target Field for Reduced Variance Score Estimation in Diffusion
Models", 2023, section 3). On the latents of an MNIST VAE the first is worth 0.2 nat after 12 epochs, the second 0.15
after six. A curve of training thus lies below that of held-out latents, each of which has its own posterior alone: its
figure is not to depend on who stands beside it. Samples follow the drift from noise to data (`stage2_prior.ode`), and
densities follow it back and count how it stretches space.

Times of a batch are stratified, one in each of as many equal parts (Kingma et al., "Variational Diffusion Models",
2021, section H); rows share them. In evaluation times and noise are a hash of the latent: the held-out loss is the same
function of the weights each epoch, and what is kept is kept for a reason.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec, Support
from stage1_vae.rows import spread_rows
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.labels import LabelledPrior
from stage2_prior.nets.dit import DiT
from stage2_prior.nets.embedding import spread
from stage2_prior.nets.residual_mlp import ResidualMLP
from stage2_prior.nets.unet import UNet
from stage2_prior.ode import (
    Drift,
    HutchinsonTrace,
    Solver,
    exact_trace,
    follow,
    follow_with_divergence,
    log_normal,
)
from stage2_prior.prior import Exactness, check_support
from stage2_prior.row_noise import RowNoise
from stage2_prior.sampling import Sampling, guide

LEAST_TIMES, MOST_ROWS = 32, 16
"""Times of a batch and rows that share one: what is made of a time alone is computed as much more seldom."""
COMPANY, COMPANY_DIMS = 512, 64
"""Posteriors of a batch that a row may have come from, and dimensions beyond which it is taken for that of its own: of
512 normal ones 0.3 wide, five are likely at 16 dimensions under noise of one deviation, and one at 64."""
COMPANY_NUMBERS = 2**18
"""Numbers that are there at once of one a time, a posterior and a dimension."""
HELD_OUT_TIMES = 2
"""Times at which the loss of a held-out latent is taken."""
AT_ONCE = 2**21
"""Numbers of a hidden layer that are in memory at once, where no gradient is wanted."""
MEASURED = 128
"""Held-out latents on which the errors of densities are measured."""
LEAST_SIDE = 4
"""Rows or columns below which a map is a vector to `net: auto`: a convolution has next to nothing to share there."""
Net = Literal["auto", "mlp", "unet", "dit"]


class ContinuousPrior(LabelledPrior, ABC):
    """A drift network, its samples and its densities; which path it is of is its classes'.

    Temperature scales the noise that samples begin with; at 0 all begin at its mean. Guidance is of the drift (Ho &
    Salimans, "Classifier-Free Diffusion Guidance", 2022, equation 6). Without a label, a conditional prior's density is
    the sum over its classes, each of which costs a path; its loss is that under the label of none.

    Args:
        spec: real numbers, a vector or a map.
        net: mlp; unet or dit, of maps alone; auto: unet of maps of at least 4 x 4 places, else mlp.
        width: of the hidden layers; null: the network's own.
        depth: layers of mlp, blocks of dit, blocks a resolution of unet; null: the network's own.
        patch: rows and columns of a token of dit.
        solver: of samples and densities.
        conditional: whether labels are given.
        label_dropout: share of a conditional training that sees none, and is what guidance leads away from.
        base_std: s of the base N(0, s^2 I) that draws begin at and densities end at. The drift is learned from noise
            of s = 1, under which densities are highest; a wider base spreads the draws, and the density says what
            that costs. On the latents of an MNIST VAE decoded draws of s = 1.1 are nearer to the images.

    Raises:
        PriorError: for a number out of range, or labels that are not there.
    """

    version: ClassVar[int] = 3
    came_later = MappingProxyType({"base_std": 1.0})
    loss_is = "loss"
    noise_time: float
    """Where the path is noise, and"""
    data_time: float
    """where it is data."""
    couples: bool = False
    """Whether noise is chosen for its latent, so that it no longer is independent noise."""
    solver_error: Tensor
    probe_error: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        net: Net,
        width: int | None,
        depth: int | None,
        patch: int,
        solver: Solver,
        conditional: bool,
        label_dropout: float,
        base_std: float = 1.0,
    ) -> None:
        super().__init__(spec, conditional, label_dropout, frozenset({"temperature"}))
        if not 0 < base_std < math.inf:
            raise PriorError(f"prior.base_std={base_std}: give a number above 0")
        self.solver, self.base_std = solver, base_std
        self.net = drift_net(net, spec, self.num_labels if conditional else 0, width, depth, patch)
        self.log_prob_is = Exactness.EXACT if spec.num_dims <= solver.exact_dims else Exactness.ESTIMATE
        self.passes *= solver.passes(spec.num_dims)
        self.register_buffer("solver_error", torch.tensor(math.inf))  # nats a latent; inf: not measured
        self.register_buffer("probe_error", torch.tensor(math.inf))  # the same, of the random directions

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if spec.support is Support.REAL and len(spec.shape) not in (1, 3):
            return f"{cls.__name__} models vectors and maps; these latents are {spec.words}"
        return check_support(f"{cls.__name__} models real numbers", spec, Support.REAL)

    @abstractmethod
    def path(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b, da/dt and db/dt of x = a z + b e, each as `time`."""

    @abstractmethod
    def times(self, level: Tensor) -> Tensor:
        """Where the time density of the training reaches the mass `level`, which is in (0, 1)."""

    @abstractmethod
    def schedule(self) -> Tensor:
        """Times of a sample's steps, [num_steps + 1], from `noise_time` to `data_time`."""

    @abstractmethod
    def clock(self, time: Tensor) -> Tensor:
        """What the network is told of the time: about a unit long."""

    def velocity(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """dx/dt at x [B, *shape], times [T], each of B / T rows in turn, and labels [B]: [B, *shape], float32.

        Of latents N(0, I) it is (a a' + b b') / (a^2 + b^2) x. The network sees x at unit variance and gives what
        is left over, in units of its deviation |a' b - a b'| / sqrt(a^2 + b^2): what EDM does for its own path, of any.
        """
        a, b, da, db = self._path_of_rows(time, x)
        unit = (a.square() + b.square()).sqrt()
        rest = self.net(x / unit, self.clock(time), labels if self.num_classes else None).float()
        return (a * da + b * db) / unit.square() * x + (da * b - a * db).abs() / unit * rest

    def _path_of_rows(self, time: Tensor, x: Tensor) -> list[Tensor]:
        """The `path` at times [T], to be multiplied with rows x [B, *shape]."""
        return [spread(part, len(x)).view(-1, *(1,) * (x.ndim - 1)) for part in self.path(time)]

    def couple(self, noise: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """Which noise a latent is joined with, [B, *shape]: here the one that it was drawn with."""
        return noise

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._squared_error(z, context, points(z), in_company=False)

    def loss_of_draws(self, z: Tensor, context: Tensor | None, posterior: DiagonalNormal | None) -> Tensor:
        """The squared error of the velocity, [B], against its mean where the posterior is known, and in training, up to
        `COMPANY_DIMS`, against that over the posteriors of the batch."""
        if self.couples:
            return self._loss(z, context)  # a pair is all that is known of its noise
        known = points(z) if posterior is None else posterior
        return self._squared_error(z, context, known, self.spec.num_dims <= COMPANY_DIMS)

    def _squared_error(self, z: Tensor, context: Tensor | None, known: DiagonalNormal, in_company: bool) -> Tensor:
        """[B], in evaluation of each row alone; `in_company`: in training against the mean over all of `known`."""
        labels = self._all(len(z), self.no_class) if context is None else self._dropped(context)
        if not self.training:
            return self._held_out(z, labels, known)
        time, noise = self._stratified(z), torch.randn_like(z)
        if not in_company:
            return self._loss_at(z, time, noise, labels, known)
        may_be_of = (
            None if context is None else (labels == self.no_class)[:, None] | (labels[:, None] == context.to(labels))
        )
        a, b, _, _ = self._path_of_rows(time, z)
        x = a * z + b * noise
        error = self.velocity(x, time, labels) - mean_velocity(x, self.path(time), known, may_be_of)
        return error.square().flatten(1).mean(1)

    def _stratified(self, z: Tensor) -> Tensor:
        """Times of a training batch [B, *shape], [T]: one in each of T parts of their density."""
        num = num_times(len(z))
        level = (torch.rand((), device=z.device) + torch.arange(num, device=z.device) / max(1, num)) % 1
        return self.times(level.clamp(1e-6, 1 - 1e-6))

    def _held_out(self, z: Tensor, labels: Tensor, known: DiagonalNormal) -> Tensor:
        parts = (self._blocks(part, HELD_OUT_TIMES) for part in (z, labels, known.loc, known.log_std))
        return torch.cat([self._held_out_loss(*block) for block in zip(*parts, strict=True)])

    def _held_out_loss(self, z: Tensor, labels: Tensor, loc: Tensor, log_std: Tensor) -> Tensor:
        """[B]: the mean over `HELD_OUT_TIMES`, with times and noise that are a hash of z."""
        draws = RowNoise(z)
        first = draws.uniform(1)  # [1, B]
        steps = torch.arange(HELD_OUT_TIMES, device=z.device)[:, None] / HELD_OUT_TIMES
        levels = ((first + steps) % 1).clamp(1e-6, 1 - 1e-6)
        noises = draws.normal(HELD_OUT_TIMES, first=1)
        losses = [
            self._loss_at(z, self.times(level), noise, labels, DiagonalNormal(loc, log_std))
            for level, noise in zip(levels, noises, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def _loss_at(self, z: Tensor, time: Tensor, noise: Tensor, labels: Tensor, known: DiagonalNormal) -> Tensor:
        """Mean squared error of the velocity, [B], at times [T], each of B / T rows in turn."""
        noise = self.couple(noise, z, labels)
        a, b, da, db = self._path_of_rows(time, z)
        off = a * (z - known.loc) + b * noise  # x - a m, without loss of its last digits
        variance = torch.exp(2 * known.log_std)
        mean = da * known.loc + (a * da * variance + b * db) / (a.square() * variance + b.square()) * off
        error = self.velocity(a * z + b * noise, time, labels) - mean
        return error.square().flatten(1).mean(1)

    def _drift(self, labels: Tensor, how: Sampling | None = None) -> Drift:
        """The drift for rows of these labels, guided as `how` says."""
        if how is None or not how.guidance:
            return lambda x, time: self.velocity(x, time[None], labels)
        twins = torch.cat([labels, torch.full_like(labels, self.no_class)])

        def guided(x: Tensor, time: Tensor) -> Tensor:
            given, without = self.velocity(x.repeat(2, *(1,) * (x.ndim - 1)), time[None], twins).chunk(2)
            return guide(given, without, how)

        return guided

    def _sample_given(self, labels: Tensor, how: Sampling) -> Tensor:
        return torch.cat([self._follow(block, how) for block in self._blocks(labels, 2)])

    def _follow(self, labels: Tensor, how: Sampling) -> Tensor:
        unit = torch.randn(len(labels), *self.spec.shape, device=self.anchor.device)
        noise = how.temperature * self.base_std * unit
        times = self.schedule().to(noise)
        return follow(self._drift(labels, how), noise, times, self.solver.method) / self._data_scale

    @property
    def _data_scale(self) -> float:
        """a at the data's end of the path, where x is a z and next to no noise."""
        return self.path(torch.tensor(self.data_time, dtype=torch.float64))[0].item()

    def _log_prob_given(self, z: Tensor, labels: Tensor) -> Tensor:
        return self._densities(z, labels, self.solver.density_places)

    def _densities(self, z: Tensor, labels: Tensor, places: int, seed: int = 0, frozen: bool = False) -> Tensor:
        """[B] nats; `seed`: of the random directions, if there are any; `frozen`: whether all places share them."""
        directions = 1 + self.solver.traces(self.spec.num_dims)
        blocks = zip(self._blocks(z, directions), self._blocks(labels, directions), strict=True)
        plain_attention = sdpa_kernel(SDPBackend.MATH)  # the fused ones of attention know no directional derivatives
        with torch.autocast(z.device.type, enabled=False), plain_attention:  # densities are never in half precision
            return torch.cat([self._density(*block, places, seed, frozen) for block in blocks])

    def _density(self, z: Tensor, labels: Tensor, places: int, seed: int, frozen: bool) -> Tensor:
        exact = self.log_prob_is is Exactness.EXACT
        trace = exact_trace if exact else HutchinsonTrace(RowNoise(z), self.solver.probes, seed, frozen)
        scale, (start, end) = self._data_scale, (self.data_time, self.noise_time)
        x, divergence = follow_with_divergence(self._drift(labels), scale * z.float(), start, end, places, trace)
        base = log_normal(x / self.base_std) - self.spec.num_dims * math.log(self.base_std)
        return base + divergence + self.spec.num_dims * math.log(scale)

    def _blocks(self, rows: Tensor, copies: int) -> Sequence[Tensor]:
        """Rows that are computed at once, where each is there so many times; all of them where gradients are kept."""
        if torch.is_grad_enabled():
            return (rows,)
        return rows.split(max(1, AT_ONCE // (copies * self.net.numbers)))

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit the drift by gradient, and measure on held-out latents how far densities are off.

        Raises:
            PriorError: as `fit_by_gradient`.
        """
        report = super().fit(train, val, run)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(run.seed)
            rows = spread_rows(len(val), MEASURED)
            z, labels = val.draw(rows).to(run.device), self._all(len(rows), self.no_class)
            if self.num_classes and val.labels is not None:
                labels = val.labels[rows].to(run.device, torch.int64)
            self._measure_errors(z, labels)
        return replace(report, notes=[*report.notes, *self._shortfall])

    def _measure_errors(self, z: Tensor, labels: Tensor) -> None:
        """Set the errors of densities: by twice as many places, and by other random directions."""
        places = self.solver.density_places
        once, twice = (self._densities(z, labels, num, frozen=True) for num in (places, 2 * places))
        self.solver_error.copy_((once - twice).abs().mean())
        if self.log_prob_is is Exactness.ESTIMATE:
            one, other = (self._densities(z, labels, places, seed) for seed in (0, 1))
            self.probe_error.copy_((one - other).square().mean().sqrt() / math.sqrt(2))

    @property
    def _shortfall(self) -> list[str]:
        if not self.solver.tolerance < self.solver_error < math.inf:
            return []
        return [
            f"the solver's error in a density is {self.solver_error.item():.2g} nats, above "
            f"prior.solver.tolerance={self.solver.tolerance:g}; raise prior.solver.density_places"
        ]

    @property
    def caveats(self) -> list[str]:
        if not self.solver_error.isfinite():
            return []
        said = [
            f"A density follows an equation in {self.solver.density_places + 1} steps; with twice as many it differs "
            f"by {self.solver_error.item():.2g} nats a latent, in the mean."
        ]
        said += [f"{words[0].upper()}{words[1:]}." for words in self._shortfall]
        if self.log_prob_is is Exactness.ESTIMATE:
            said.append(
                f"A density is an estimate, from {self.solver.probes} random directions at each step: its standard "
                f"error is {self.probe_error.item():.2g} nats a latent, which is in the error of their mean."
            )
        return said


def points(z: Tensor) -> DiagonalNormal:
    """Posteriors of no width, of which draws [B, *shape] are all that is known."""
    return DiagonalNormal(z, torch.full_like(z, -math.inf))


def num_times(num: int) -> int:
    """Different times of a training batch of `num` rows: they divide it without rest."""
    most = min(MOST_ROWS, max(1, num // LEAST_TIMES))
    return num // next(rows for rows in range(most, 0, -1) if num % rows == 0)


@torch.no_grad()
def mean_velocity(x: Tensor, path: Sequence[Tensor], known: DiagonalNormal, may_be_of: Tensor | None) -> Tensor:
    """E[a' z + b' e | x_t, S] where each row of x came from one of the posteriors S of its part of the batch.

    Args:
        x: [B, *shape]; those of a time lie side by side.
        path: a, b, a' and b' at the times, [T] each.
        known: of B rows, in the order of x.
        may_be_of: [B, B] whether row i may have come from posterior j; None: all may.

    Returns:
        [B, *shape] in the type of x.
    """
    if not len(x):
        return x
    times, rows, dims = len(path[0]), len(x) // len(path[0]), x[0].numel()
    together = min(COMPANY // rows, math.isqrt(COMPANY_NUMBERS // (rows * dims)))
    bounds = torch.linspace(0, times, math.ceil(times / max(1, together)) + 1).round().int().tolist()
    velocities = []
    for start, end in pairwise(bounds):
        part = slice(start * rows, end * rows)
        at, loc, log_std = (values[part].flatten(1) for values in (x, known.loc, known.log_std))
        barred = None if may_be_of is None else ~may_be_of[part, part].unflatten(0, (end - start, rows))
        of_times = [numbers[start:end, None, None] for numbers in path]
        at = at.unflatten(0, (end - start, rows))
        velocities.append(_mean_velocity_among(at, of_times, loc, torch.exp(2 * log_std), barred).flatten(0, 1))
    return torch.cat(velocities).to(x.dtype).view_as(x)


def _mean_velocity_among(
    x: Tensor, path: Sequence[Tensor], loc: Tensor, variance: Tensor, barred: Tensor | None
) -> Tensor:
    """The same for x [T, R, D], `path` [T, 1, 1] and posteriors [J, D]; `barred`: [T, R, J].

    Squares of differences, of which the weights are, are differences of much larger squares where noise is small: they
    are in float64. They are by products of matrices, so that none of as many numbers as T R J D is ever made.
    """
    a, b, da, db = path
    centre, width = a * loc, a.square() * variance + b.square()  # of x_t given a posterior, [T, J, D]
    precision = 1 / width
    exact, ats, centres = precision.double(), x.double(), centre.double()
    pull = centres * exact
    log_weights = ats @ pull.mT - 0.5 * (ats.square() @ exact.mT)
    log_weights -= 0.5 * ((pull * centres).sum(-1) + width.log().sum(-1))[:, None]
    if barred is not None:
        log_weights = log_weights.masked_fill(barred, -math.inf)
    weights = log_weights.softmax(-1).to(x.dtype)
    slope = (a * da * variance + b * db) * precision
    return weights @ (da * loc - slope * centre) + x * (weights @ slope)


def drift_net(
    name: Net, spec: LatentSpec, num_labels: int, width: int | None, depth: int | None, patch: int
) -> ResidualMLP | UNet | DiT:
    """The network of that name for latents of `spec`.

    Raises:
        PriorError: it is for maps and these are vectors, or a size is out of range.
    """
    for key, number in {"width": width, "depth": depth, "patch": patch}.items():
        if number is not None and number < 1:
            raise PriorError(f"prior.{key}={number}: give at least 1")
    if len(spec.shape) == 1 and name in ("unet", "dit"):
        raise PriorError(f"prior.net={name}: it is for maps, and these latents are {spec.words}; give mlp, or auto")
    given: dict[str, Any] = {"width": width, "depth": depth}
    given = {key: number for key, number in given.items() if number is not None}
    if name == "mlp" or (name == "auto" and (len(spec.shape) == 1 or min(spec.shape[1:]) < LEAST_SIDE)):
        return ResidualMLP(spec.num_dims, num_labels, **given)
    shape = (spec.shape[0], spec.shape[1], spec.shape[2])
    return DiT(shape, num_labels, patch=patch, **given) if name == "dit" else UNet(shape, num_labels, **given)
