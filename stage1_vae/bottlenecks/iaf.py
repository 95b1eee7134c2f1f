"""Inverse autoregressive posterior (Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling, "Improving Variational
Inference with Inverse Autoregressive Flow", 2016, equations 10-14 and algorithm 1).

A draw begins as one of a diagonal Gaussian, z_0 = loc + exp(log_std) eps, and goes through T steps, each with a masked
network whose outputs for dimension d see the dimensions of z_(t-1) before d, and the context h that the encoder gives:

    (m_t, s_t) = network_t(z_(t-1), h),   z_t = sigma_t z_(t-1) + (1 - sigma_t) m_t,   sigma_t = sigmoid(s_t)
    log q(z_T|x) = -sum_d [eps_d^2 / 2 + log(2 pi) / 2 + log_std_d + sum_t log sigma_td]

The order of the dimensions is reversed between steps. The gate starts nearly open, s_t = 2, so that training starts at
a diagonal Gaussian. A draw and its density take T passes. The density of any other z takes D T passes, since a step
is undone a dimension after another; nothing in training asks for it.

No few numbers tell this posterior, as stage 2 would have it: what is stored of an image are draws. Rates and bounds are
of the posterior itself, and what needs its density for an image and the draw of another is not measured.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.base_priors import StandardNormal
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents.spec import LatentSpec
from stage1_vae.nets.masked import MaskedLinear, spread_degrees
from stage1_vae.posteriors import LOG_2PI, Shape, Unchecked

OPEN = 2.0
"""What the gates' logits start at."""
SMALL = 0.1
"""Gain of the last layers, so that a step starts near the identity."""
MOMENT_DRAWS = 128
"""Half of them the mirror images of the other half: the mean and the variance of a posterior are of these."""


class Step(nn.Module):
    """The network of one step: z [..., B, D] and h [B, C] -> m and s, [..., B, D] each, autoregressive in z.

    Args:
        num_dims: D.
        context_dim: C.
        hidden: widths of its layers.
    """

    def __init__(self, num_dims: int, context_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        degrees = [torch.arange(1, num_dims + 1), *(spread_degrees(width, num_dims) for width in hidden)]
        self.layers = nn.ModuleList(MaskedLinear(*pair) for pair in pairwise(degrees))
        self.head = MaskedLinear(degrees[-1], torch.arange(num_dims).repeat(2), SMALL)
        self.context_in = nn.Linear(context_dim, hidden[0])
        self.context_out = nn.Linear(context_dim, 2 * num_dims)
        with torch.no_grad():
            self.context_out.weight.mul_(SMALL)
            self.head.bias.zero_()
            self.context_out.bias.copy_(torch.cat([torch.zeros(num_dims), torch.full((num_dims,), OPEN)]))

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = self.layers[0](z) + self.context_in(context)  # [..., B, hidden]
        for layer in self.layers[1:]:
            h = layer(F.silu(h))
        shift, gate = (self.head(F.silu(h)) + self.context_out(context)).chunk(2, dim=-1)
        return shift, gate


class InverseAutoregressive(Unchecked):
    """The posterior of a batch.

    Args:
        loc, log_std: [B, D] of the Gaussian that draws begin with.
        context: h, [B, C].
        steps: shared by all images.
    """

    def __init__(self, loc: Tensor, log_std: Tensor, context: Tensor, steps: Sequence[Step] | nn.ModuleList) -> None:
        self.loc, self.log_std, self.context, self.steps = loc, log_std, context, steps
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        """[B, D], an estimate from the same noise for every image."""
        return self._fixed_draws().mean(0)

    @property
    def variance(self) -> Tensor:
        return self._fixed_draws().var(0)

    def _fixed_draws(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        half = torch.randn(MOMENT_DRAWS // 2, 1, *self.event_shape, generator=generator).to(self.loc)
        return self._transform(torch.cat([half, -half]))[0]

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """[*sample_shape, B, D]; the density of what was drawn last is kept."""
        noise = torch.randn(*sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        self._drawn = self._transform(noise)
        return self._drawn[0]

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        noise = torch.randn(num, 1, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        self._drawn = self._transform(noise)
        return self._drawn[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x) in nats, [..., B, D] -> [..., B]; of what was drawn last without another pass."""
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        return self._transform(self._undo(value))[1]

    def _transform(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """eps [..., B or 1, D] -> z [..., B, D] and log q(z|x) [..., B]."""
        with torch.autocast(noise.device.type, enabled=False):  # densities are never in half precision
            z = self.loc + torch.exp(self.log_std) * noise
            log_q = -0.5 * (noise.square() + LOG_2PI) - self.log_std  # of each dimension
            for i, step in enumerate(self.steps):
                if i > 0:
                    z, log_q = z.flip(-1), log_q.flip(-1)
                shift, gate = step(z, self.context)
                share = torch.sigmoid(gate)
                z, log_q = share * z + (1 - share) * shift, log_q - F.logsigmoid(gate)
            return z, log_q.sum(-1)

    def _undo(self, z: Tensor) -> Tensor:
        """The noise that becomes z [..., B, D]."""
        with torch.autocast(z.device.type, enabled=False):
            for i, step in reversed(list(enumerate(self.steps))):
                before = torch.zeros_like(z)
                for _ in range(z.shape[-1]):  # pass d makes dimension d right, from those before it
                    shift, gate = step(before, self.context)
                    share = torch.sigmoid(gate)
                    before = (z - (1 - share) * shift) / share
                z = before.flip(-1) if i > 0 else before
            return (z - self.loc) * torch.exp(-self.log_std)


class IAF(Bottleneck):
    """Args:
    latent_dim: D.
    num_flows: T, steps.
    hidden: widths of the layers of each step's network.
    context_dim: C, numbers that each step is told of an image.
    min_log_std, max_log_std: of the first Gaussian; bounds that keep exp() finite.

    Raises:
        ValueError: sizes that make no such posterior.
    """

    family = "draws"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        latent_dim: int,
        num_flows: int = 2,
        hidden: Sequence[int] = (128,),
        context_dim: int = 32,
        num_classes: int = 0,
        min_log_std: float = -8.0,
        max_log_std: float = 5.0,
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"vae.bottleneck.latent_dim={latent_dim}: a dimension must have others before it; give at least 2, or "
                "use vae=gaussian"
            )
        if num_flows < 1:
            raise ValueError(f"vae.bottleneck.num_flows={num_flows}: give at least 1, or use vae=gaussian")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"vae.bottleneck.hidden needs at least one positive size, got {list(hidden)}")
        if context_dim < 1:
            raise ValueError(f"vae.bottleneck.context_dim must be at least 1, got {context_dim}")
        self.spec = LatentSpec(shape=(latent_dim,), num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = StandardNormal(self.spec.shape)
        self.min_log_std, self.max_log_std = min_log_std, max_log_std
        self.sizes = [latent_dim, latent_dim, context_dim]
        self.linear = nn.Linear(math.prod(features_shape), sum(self.sizes))
        self.steps = nn.ModuleList(Step(latent_dim, context_dim, hidden) for _ in range(num_flows))

    def forward(self, features: Tensor) -> Encoding:
        loc, log_std, context = self.linear(features.flatten(1)).float().split(self.sizes, dim=1)
        log_std = torch.clamp(log_std, self.min_log_std, self.max_log_std)
        return Encoding(InverseAutoregressive(loc, log_std, context, self.steps))
