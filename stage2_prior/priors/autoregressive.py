"""An autoregressive density, p(z) = prod_d p(z_d | z_1 ... z_(d-1)), exact in one pass of a masked network.

Each conditional is a mixture of K Gaussians whose weights, means and log standard deviations the network gives from the
dimensions before (Germain et al., "MADE", 2015, for the network; Uria, Murray & Larochelle, "RNADE: The Real-valued
Neural Autoregressive Density-Estimator", 2013, equations 6-10, for the conditionals):

    p(z_d | z_<d) = sum_k w_k(z_<d) N(z_d; m_k(z_<d), s_k(z_<d)^2)

Any order of the dimensions is exact, but not equally easy to learn: here they come by information, the dimension whose
posteriors are narrowest within the aggregate first, so that noisy dimensions are predicted from sharp ones. On the
latents of an MNIST VAE that is worth 0.24 nats over the order of the encoder, which is arbitrary.

Training minimises -log p(z) over fresh z ~ q(z|x), which fits the aggregate posterior. `min_std` is a floor under every
s_k: where latents are point masses (a plain autoencoder), repeated values could otherwise send the likelihood to
infinity. In latents standardised by the wrapper it is a part of each dimension's standard deviation. A smooth ceiling,
twice the pooled standard deviation of the dimension, keeps what the network says far from all data within reason.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import PriorError
from stage2_prior.labels import LabelledPrior
from stage2_prior.moments import moments
from stage2_prior.nets.made import MADE
from stage2_prior.prior import check_real_vector
from stage2_prior.sampling import Sampling

LOG_WIDEST = math.log(2.0)
"""A component is at most twice as wide as the whole aggregate in its dimension."""

SMALL_HEAD = 0.1
"""Of the usual size of the last layer's weights, at the beginning."""
MOST_REACH, SPACING = 2.5, 0.6
"""Deviations to each side over which a conditional's components stand at the beginning, and from one to the next."""

SAMPLE_ROWS = 8192
"""Samples are drawn in blocks of this many, so that memory does not grow with their number."""


class Autoregressive(LabelledPrior):
    """Masked autoregressive network with mixture-of-Gaussians conditionals; the density itself is in float32.

    Samples follow `temperature`: in each conditional it divides the logits of the Gaussians and scales their widths.

    Args:
        hidden: widths of the hidden layers; equal neighbours get a residual connection.
        num_components: Gaussians a conditional.
        dropout: share of hidden activations set to zero in training.
        min_std: smallest standard deviation of a component.
        conditional: whether labels are given.

    Raises:
        PriorError: for a number out of range, or labels that are not there.
    """

    version: ClassVar[int] = 2
    learns_jointly = True
    order: Tensor
    max_log_std: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        hidden: Sequence[int] = (512, 512, 512, 512, 512),
        num_components: int = 10,
        dropout: float = 0.2,
        min_std: float = 1e-3,
        conditional: bool = False,
    ) -> None:
        super().__init__(spec, conditional, knobs=frozenset({"temperature"}))
        if num_components < 1:
            raise PriorError(f"prior.num_components={num_components}: give at least 1")
        if not hidden or min(hidden) < 1:
            raise PriorError(f"prior.hidden={list(hidden)}: give at least one width, each at least 1")
        if not 0 <= dropout < 1:
            raise PriorError(f"prior.dropout={dropout}: give a share from 0 to below 1")
        if min_std <= 0:
            raise PriorError(f"prior.min_std={min_std}: give a number above 0")
        self.num_components, self.min_log_std = num_components, math.log(min_std)
        self.net = MADE(
            spec.num_dims, tuple(hidden), 3 * num_components, dropout, self.num_labels if conditional else 0
        )
        self.register_buffer("order", torch.arange(spec.num_dims))  # [D] order[i]: the dimension that comes i-th
        self.register_buffer("max_log_std", torch.full((spec.num_dims,), LOG_WIDEST))  # [D], in that order
        self._begin()

    @property
    def num_parameters(self) -> int:
        return self.net.num_parameters

    @classmethod
    def fit_version(cls, section: Mapping[str, Any]) -> int:
        return 2  # dropout draws four entries at once

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("autoregressive", spec)

    @torch.no_grad()
    def _begin(self) -> None:
        """Start with every conditional near N(0, 1), whatever the dimensions before it: the Gaussian of whitened
        latents, from which nothing has to be unlearned (3,000 latents in tight clusters: 2 nats better after 20
        epochs). It is made of components that stand apart, for equal ones would stay equal.
        """
        weight, bias = self.net.head.weight, self.net.head.bias.view(self.spec.num_dims, 3, self.num_components)
        weight.mul_(SMALL_HEAD)
        reach = min(MOST_REACH, SPACING * (self.num_components - 1) / 2)
        between = min(0.75, (reach / 2) ** 2)  # variance of the means, about
        means = torch.linspace(-reach, reach, self.num_components)
        bias[:, 0] = -0.5 * means.square() / max(between, 1e-6)
        bias[:, 1] = means
        below = LOG_WIDEST - 0.5 * math.log(1 - between)  # of the logarithm under its ceiling, which is smooth
        bias[:, 2] = LOG_WIDEST - math.log(math.expm1(below))

    def prepare(self, train: LatentDataset) -> None:
        """Order the dimensions by information; point masses, which tell nothing of it, keep the encoder's order."""
        super().prepare(train)
        aggregate = moments(train)
        if aggregate.log_std is not None:
            information = 0.5 * aggregate.total.log() - aggregate.log_std  # [D] nats, of Gaussians with these widths
            self.order.copy_(information.argsort(descending=True, stable=True))
        widest = LOG_WIDEST + 0.5 * torch.where(aggregate.total > 0, aggregate.total, 1.0).log()
        self.max_log_std.copy_(widest[self.order.cpu()].clamp_min(self.min_log_std + LOG_WIDEST))

    def _conditionals(self, outputs: Tensor, max_log_std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., 3 K] and ceilings [...] -> log weights, means and log_stds, each [..., K] and float32."""
        logits, means, log_stds = outputs.float().unflatten(-1, (3, self.num_components)).unbind(-2)
        ceiling = max_log_std[..., None]
        log_stds = ceiling - F.softplus(ceiling - log_stds)  # smooth, so that no gradient is lost at the ceiling
        return torch.log_softmax(logits, dim=-1), means, log_stds.clamp_min(self.min_log_std)

    def _log_prob_given(self, z: Tensor, labels: Tensor) -> Tensor:
        z = z[:, self.order]  # [B, D]
        outputs = self.net(z, labels if self.num_classes else None)  # [B, D, 3 K]
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            log_weights, means, log_stds = self._conditionals(outputs, self.max_log_std)  # [B, D, K]
            scaled = (z[..., None].float() - means) * torch.exp(-log_stds)
            joint = log_weights - 0.5 * scaled.square() - log_stds
            per_dim = torch.logsumexp(joint, dim=-1) - 0.5 * math.log(2 * math.pi)  # [B, D]
            return per_dim.sum(1)

    def _sample_given(self, labels: Tensor, how: Sampling) -> Tensor:
        blocks = labels.split(SAMPLE_ROWS)  # one, if empty, of none
        draw = partial(self._draw, how.temperature)
        drawn = [self.net.generate(len(block), draw, block if self.num_classes else None) for block in blocks]
        return torch.cat(drawn)[:, self.order.argsort()]  # [n, D]

    def _draw(self, temperature: float, outputs: Tensor, d: int) -> Tensor:
        """One value from each row's mixture for the dimension that comes d-th, [n, 3 K] -> [n]."""
        log_weights, means, log_stds = self._conditionals(outputs, self.max_log_std[d])  # [n, K]
        gumbel = -torch.log(torch.empty_like(log_weights).exponential_())
        chosen = (log_weights + temperature * gumbel).argmax(-1, keepdim=True)  # [n, 1] a draw from the weights
        mean, log_std = means.gather(-1, chosen).squeeze(-1), log_stds.gather(-1, chosen).squeeze(-1)
        return mean + temperature * torch.exp(log_std) * torch.randn_like(mean)
