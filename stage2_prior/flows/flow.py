"""A normalising flow, p(z) = p_base(f(z)) |det df/dz|, exact, with f a stack of invertible layers.

Each layer moves a dimension x by a monotonic function whose parameters a network takes from other dimensions, so that
the Jacobian is triangular and its determinant a product:

- coupling: one half stays, and says how the other half moves (Dinh, Sohl-Dickstein & Bengio, "Density estimation using
  Real NVP", 2017, equations 4-8). Density and samples take one pass of each network.
- autoregressive: dimension d moves as those before it say (Papamakarios, Pavlakou & Murray, "Masked Autoregressive Flow
  for Density Estimation", 2017, equations 3-4), through the masked network `stage2_prior.nets.made.MADE`, whose D
  passes of sampling cost together less than one of a density.

The function is affine, exp(a) x + b, or a rational-quadratic spline between -bound and bound and the identity outside
(Durkan et al., "Neural Spline Flows", 2019, section 3.1). Both, and their inverses, are those of zuko. Splines see
nothing beyond their bound: latents should come standardised.

Every layer starts as the identity (but for a trace, which lets gradients through), so training starts at the
density of the base. With N(0, I) that is a usual flow. With another prior as the base, fitted before the first step
and then left as it is, the flow bends what is good already: a mixture of Gaussians has what no smooth map makes of one
Gaussian, the gaps between clusters.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.bases import check_base, fit_base, take_after
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.labels import LabelledPrior
from stage2_prior.nets.dropout import Dropout
from stage2_prior.nets.made import MADE
from stage2_prior.prior import Encoder, Prior, check_real_vector
from stage2_prior.sampling import Sampling
from stage2_prior.wrappers.per_class import PerClass

FIRST_GAIN = 4.0
"""As in `nets.made`: units must bend at the width of one posterior, a tenth of the whole."""
NEARLY_ZERO = 1e-4
"""Scale of the last layer's weights at the start."""
LEAST_SLOPE = math.exp(-2.0)
"""Of one affine function, and the greatest is one over it. Beyond the data a network may say anything: with zuko's own
bound, a thousandth, one sample in thousands lay far outside."""
SAMPLE_ROWS = 8192
"""Samples are drawn in blocks of this many, so that memory does not grow with their number."""
OLDEST_ZUKO = (1, 6)

Univariate = Callable[[Tensor], Any]
"""Numbers [..., P] -> monotonic functions of [...], a `Transform` of zuko."""


class Flow(LabelledPrior):
    """Normalising flow over vectors of real numbers; the density itself is in float32.

    Samples follow `temperature`: it scales the noise of N(0, I), or whatever the base scales by it; at 0 they are where
    the flow sends the mean of N(0, I), or of the component that the base has drawn.

    Args:
        transform: affine, or a spline.
        coupling: whether half of the dimensions say how the others move; else each those after it.
        num_layers: functions one after another; in every second one the dimensions come in the opposite order.
        hidden: widths of the hidden layers of each network; equal neighbours get a residual connection.
        dropout: share of hidden activations set to zero in training.
        bins: of a spline.
        bound: of a spline.
        permute: whether each pair of layers has a random order of the dimensions of its own.
        base: unfitted prior of the same latents with an exact density and a fit of its own; None: N(0, I).
        conditional: whether labels are given; a base that takes none is then fitted once a class.

    Raises:
        PriorError: for a number out of range, a base that is none, labels that are not there, or no zuko.
    """

    prior_keys: ClassVar[tuple[str, ...]] = ("base",)

    def __init__(
        self,
        spec: LatentSpec,
        transform: Literal["affine", "spline"] = "affine",
        coupling: bool = True,
        num_layers: int = 8,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        bins: int = 8,
        bound: float = 5.0,
        permute: bool = False,
        base: Prior | None = None,
        conditional: bool = False,
    ) -> None:
        knobs = frozenset({"temperature"}) if base is None else base.knobs & {"temperature"}
        super().__init__(spec, conditional, knobs=knobs)
        for name, number in {"num_layers": num_layers, "bins": bins}.items():
            if number < 1 + (name == "bins"):
                raise PriorError(f"prior.{name}={number}: give at least {1 + (name == 'bins')}")
        if not hidden or min(hidden) < 1:
            raise PriorError(f"prior.hidden={list(hidden)}: give at least one width, each at least 1")
        if not 0 <= dropout < 1:
            raise PriorError(f"prior.dropout={dropout}: give a share from 0 to below 1")
        if not (bound > 0 and math.isfinite(bound)):
            raise PriorError(f"prior.bound={bound}: give a number above 0")
        if base is not None:
            check_base(base)
            base = PerClass(base) if conditional and not base.num_classes else base
            take_after(self, base)
        self.base, self.learns_jointly = base, base is None or base.learns_jointly
        univariate, num_outputs = univariates(transform, bins, bound)
        kind = Coupling if coupling else Autoregression
        self.flow = nn.ModuleList(
            kind(univariate, order, num_outputs, tuple(hidden), dropout, self.num_labels)
            for order in orders(spec.num_dims, num_layers, coupling, permute)
        )

    @property
    def layers(self) -> list["Coupling | Autoregression"]:
        return [layer for layer in self.flow if isinstance(layer, Coupling | Autoregression)]

    @property
    def num_parameters(self) -> int:
        layers = sum(layer.num_parameters for layer in self.layers)
        return layers + (0 if self.base is None else self.base.num_parameters)

    @classmethod
    def fit_version(cls, section: Mapping[str, Any]) -> int:
        return 2 if section.get("dropout") else 1  # it draws four entries at once

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("a flow", spec)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit the base as it fits itself, then the layers on it by gradient; `seconds` are of both.

        Raises:
            PriorError: as `fit_by_gradient` and the base do.
        """
        if self.base is None:
            return super().fit(train, val, run)
        base = fit_base(self.base, train, val, run)
        report = super().fit(train, val, run)
        return replace(report, seconds=base.seconds + report.seconds, notes=[*base.notes, *report.notes])

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        """Its base too; the layers are parameters already."""
        if self.base is not None:
            self.base.join(encoder, images)

    def settle(self) -> None:
        if self.base is not None:
            self.base.settle()

    def _log_prob_given(self, z: Tensor, labels: Tensor) -> Tensor:
        u, log_det = z, z.new_zeros(len(z))  # whose dtype the networks' answers take
        for layer in self.layers:
            u, moved = layer(u, labels)
            log_det = log_det + moved
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            if self.base is not None:
                return self.base.log_prob(u, self._labels_of_base(labels)) + log_det
            return log_det - 0.5 * (u.square() + math.log(2 * math.pi)).sum(1)

    def _sample_given(self, labels: Tensor, how: Sampling) -> Tensor:
        if self.base is not None:
            u = self.base.sample(len(labels), self._labels_of_base(labels), Sampling(temperature=how.temperature))
        else:
            u = how.temperature * torch.randn(len(labels), self.spec.num_dims, device=labels.device)
        blocks = zip(u.split(SAMPLE_ROWS), labels.split(SAMPLE_ROWS), strict=True)
        return torch.cat([self._invert(*block) for block in blocks])  # [n, D]

    def _labels_of_base(self, labels: Tensor) -> Tensor | None:
        return labels if self.num_classes and self.base is not None and self.base.num_classes else None

    def _invert(self, u: Tensor, labels: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            u = layer.inverse(u, labels)
        return u


class Coupling(nn.Module):
    """[B, D] -> [B, D] and log-determinants [B]: the first half of `order` stays, and says how the rest moves.

    Args:
        univariate: of [B, half, P] numbers.
        order: [D] of the dimensions.
        num_outputs: P.
        hidden, dropout: of the network.
        num_labels: that it may be given.
    """

    kept: Tensor
    moved: Tensor

    def __init__(
        self,
        univariate: Univariate,
        order: Tensor,
        num_outputs: int,
        hidden: tuple[int, ...],
        dropout: float,
        num_labels: int,
    ) -> None:
        super().__init__()
        self.univariate, self.num_outputs, self.num_labels = univariate, num_outputs, num_labels
        kept, moved = order.split([len(order) // 2, len(order) - len(order) // 2])
        self.register_buffer("kept", kept.clone())  # of one dimension none
        self.register_buffer("moved", moved.clone())
        widths = (len(kept) + num_labels, *hidden)
        self.first, *others = (nn.Linear(*pair) for pair in pairwise(widths))
        self.others = nn.ModuleList(others)
        self.head = nn.Linear(hidden[-1], len(moved) * num_outputs)
        self.dropout = Dropout(dropout)
        with torch.no_grad():
            self.first.weight.mul_(FIRST_GAIN)
            start_as_identity(self.head)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def _function(self, z: Tensor, labels: Tensor) -> Any:
        """How the moved half [B, half] moves."""
        given = F.one_hot(labels, self.num_labels).to(z.dtype)  # where there are no classes, the bias of a lone half
        h = self.first(torch.cat([z[:, self.kept], given], 1))
        for layer in self.others:
            after = layer(self.dropout(F.silu(h)))
            h = h + after if h.shape == after.shape else after
        return self.univariate(self.head(F.silu(h)).to(z.dtype).view(-1, len(self.moved), self.num_outputs))

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        moved, log_slope = self._function(z, labels).call_and_ladj(z[:, self.moved])
        return z.index_copy(1, self.moved, moved), log_slope.sum(1)

    def inverse(self, u: Tensor, labels: Tensor) -> Tensor:
        return u.index_copy(1, self.moved, self._function(u, labels).inv(u[:, self.moved]))


class Autoregression(nn.Module):
    """[B, D] -> [B, D] and log-determinants [B]: each dimension moves as those before it in `order` say.

    Args: those of `Coupling`.
    """

    order: Tensor

    def __init__(
        self,
        univariate: Univariate,
        order: Tensor,
        num_outputs: int,
        hidden: tuple[int, ...],
        dropout: float,
        num_labels: int,
    ) -> None:
        super().__init__()
        self.univariate, self.labelled = univariate, num_labels > 1
        self.net = MADE(len(order), hidden, num_outputs, dropout, num_labels if self.labelled else 0)
        self.register_buffer("order", order)
        with torch.no_grad():
            start_as_identity(self.net.head)
            if self.net.label_out is not None:
                self.net.label_out.weight.mul_(NEARLY_ZERO)

    @property
    def num_parameters(self) -> int:
        return self.net.num_parameters

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        ordered = z[:, self.order]
        outputs = self.net(ordered, labels if self.labelled else None).to(z.dtype)  # [B, D, P]
        moved, log_slope = self.univariate(outputs).call_and_ladj(ordered)
        return torch.empty_like(z).index_copy(1, self.order, moved), log_slope.sum(1)

    def inverse(self, u: Tensor, labels: Tensor) -> Tensor:
        ordered = u[:, self.order]

        def draw(outputs: Tensor, d: int) -> Tensor:
            return self.univariate(outputs.to(u.dtype)).inv(ordered[:, d])

        z = self.net.generate(len(u), draw, labels if self.labelled else None)
        return torch.empty_like(u).index_copy(1, self.order, z)


@torch.no_grad()
def start_as_identity(head: nn.Linear) -> None:
    """Make a network say nearly nothing: all of its parameters still have a gradient."""
    head.weight.mul_(NEARLY_ZERO)
    nn.init.zeros_(head.bias)


def orders(num_dims: int, num_layers: int, coupling: bool, permute: bool) -> Iterator[Tensor]:
    """Of each layer the order [D] of the dimensions; every second one is that before it, turned round."""
    dims = torch.arange(num_dims)
    order = torch.cat([dims[::2], dims[1::2]]) if coupling else dims  # neighbours in different halves
    for i in range(num_layers):
        if i % 2 == 0 and permute:
            order = torch.randperm(num_dims)
        yield order
        order = order.flip(0)


def univariates(transform: str, bins: int, bound: float) -> tuple[Univariate, int]:
    """Monotonic functions of numbers [..., P], and P.

    Raises:
        PriorError: zuko is missing or too old.
    """
    try:
        import zuko  # here, so that whoever asks for no flow need not have it
        from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform
    except ImportError:
        zuko = None
    if zuko is None or tuple(map(int, zuko.__version__.split(".")[:2])) < OLDEST_ZUKO:
        raise PriorError("flows need zuko 1.6 or later; install it by: pip install 'zuko>=1.6'")
    if transform == "affine":
        return lambda numbers: MonotonicAffineTransform(*numbers.unbind(-1), slope=LEAST_SLOPE), 2
    sizes = [bins, bins, bins - 1]
    return lambda numbers: MonotonicRQSTransform(*numbers.split(sizes, -1), bound=bound), sum(sizes)
