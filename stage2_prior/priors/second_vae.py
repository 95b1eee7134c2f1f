"""A second VAE, of the latents of the first: p(z) = integral p(z|u) N(u; 0, I) du, with u of as many dimensions as z.

Dai & Wipf ("Diagnosing and Enhancing VAE Models", 2019, section 4) show why it can succeed where the first one has
failed: images lie on a surface of fewer dimensions than pixels, where a Gaussian VAE may reach the optimum of its bound
without q(z) = N(0, I); latents fill all of their space, and there the optimum of the bound is the right density. The
decoder is N(f(u), diag(gamma)^2) with learned gamma: one number for all dimensions, as there, or one for each.

log p(z) has no closed form. What is returned is the bound of K samples (Burda, Grosse & Salakhutdinov, "Importance
Weighted Autoencoders", 2016, equation 8),

    log 1/K sum_k p(z|u_k) N(u_k; 0, I) / q(u_k|z),    u_k ~ q(u|z) = N(m(z), diag(s(z))^2)

whose mean is at most log p(z), and no less than the ELBO (K = 1). The noise of u_k is a scrambled Sobol sequence
(Buchholz, Wenzel & Mandt, "Quasi-Monte Carlo Variational Inference", 2018), shifted modulo 1 by an amount of each
latent's own (Cranley & Patterson, "Randomization of Number Theoretic Methods for Multiple Integration", 1976): a latent
has one number, whatever stands beside it, and the error of a mean over latents is in their spread
(`stage2_prior.row_noise`).

Training maximises the same bound of a few samples. On the latents of an MNIST VAE five epochs with widths from the
network gave 2.3 nats over N(0, I) with one sample and 3.0 with four; without the linear map around each net, and from
widths of 1, u was left unused (0.1 nats).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.quasirandom import SobolEngine

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Exactness, GradientPrior, check_support
from stage2_prior.row_noise import RowNoise
from stage2_prior.sampling import Sampling

MOST_DIMS = 4096
"""Numbers of a map that is flattened: more are not for layers that join each with each."""
BLOCK_ELEMENTS = 2**22
"""Numbers of a layer that are computed at once where no gradient is wanted."""
SAMPLE_ROWS = 2**14
"""Samples are drawn in blocks of this many, so that memory does not grow with their number."""
EVAL_SAMPLES = 4
"""Samples of the bound that is measured while training."""
MIN_LOG_STD, MAX_LOG_STD = math.log(1e-3), math.log(10.0)
"""Of q(u|z), and of p(z|u) of standardised latents: point masses would send the likelihood to infinity."""


INITIAL_LOG_STD = math.log(0.2)
"""Of both, at the start: behind a wide decoder it does not pay to say anything in u."""


class ResidualNet(nn.Module):
    """[..., inputs] -> [..., outputs]: layers of equal width, each behind a norm and added to what came in, beside a
    linear map that starts as the identity, as far as there are inputs."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.input, self.output = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.skip = nn.Linear(inputs, outputs, bias=False)
        nn.init.eye_(self.skip.weight)
        nn.init.normal_(self.output.weight, std=0.1 / math.sqrt(width))
        nn.init.zeros_(self.output.bias)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.input(x)
        *norms, last = self.norms
        for norm, up, down in zip(norms, self.up, self.down, strict=True):
            h = h + down(F.silu(up(norm(h))))
        return self.skip(x) + self.output(F.silu(last(h)))


class SecondVAE(GradientPrior):
    """A VAE over vectors of real numbers, or over maps as long vectors.

    Its samples follow a temperature: u is drawn from N(0, t^2 I), and the noise of the decoder is scaled as much, so
    that 0 gives f(0).

    Args:
        width: of the hidden layers of both nets.
        depth: residual layers of each.
        num_dims: of u; None: as many as z has.
        gamma: widths of the decoder's noise, learned: scalar (one), dimension (one a dimension of z) or network
            (given by the decoder with the mean).
        num_samples: K of the bound that `log_prob` returns.
        num_train_samples: the same of the bound that training maximises; 1: the ELBO.

    Raises:
        PriorError: for a number out of range or an unknown gamma.
    """

    log_prob_is = Exactness.LOWER_BOUND
    knobs = frozenset({"temperature"})
    points: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        width: int = 256,
        depth: int = 3,
        num_dims: int | None = None,
        gamma: str = "network",
        num_samples: int = 32,
        num_train_samples: int = 4,
    ) -> None:
        super().__init__(spec)
        dims = spec.num_dims if num_dims is None else num_dims
        numbers = {"width": width, "depth": depth, "num_dims": dims, "num_samples": num_samples}
        numbers["num_train_samples"] = num_train_samples
        for name, number in numbers.items():
            if number < 1:
                raise PriorError(f"prior.{name}={number}: give at least 1")
        if gamma not in ("scalar", "dimension", "network"):
            raise PriorError(f"prior.gamma={gamma} is unknown; choose scalar, dimension or network")
        if dims > SobolEngine.MAXDIM:
            raise PriorError(f"prior.num_dims={dims}: give at most {SobolEngine.MAXDIM}")
        self.passes, self.num_train_samples = num_samples, num_train_samples
        self.encoder = ResidualNet(spec.num_dims, 2 * dims, width, depth)
        self.decoder = ResidualNet(dims, (1 + (gamma == "network")) * spec.num_dims, width, depth)
        start_narrow(self.encoder, dims)
        if gamma == "network":
            start_narrow(self.decoder, spec.num_dims)
        widths = {"scalar": 1, "dimension": spec.num_dims}
        self.log_gamma = nn.Parameter(torch.full((widths[gamma],), INITIAL_LOG_STD)) if gamma in widths else None
        with torch.device("cpu"):
            points = SobolEngine(dims, scramble=True, seed=0).draw(num_samples, dtype=torch.float64)
        self.register_buffer("points", points.to(self.anchor.device))  # [K, U] in [0, 1)

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if (why := check_support("second_vae models real numbers", spec, Support.REAL)) is not None:
            return why
        if spec.num_dims > MOST_DIMS:
            return f"second_vae models up to {MOST_DIMS} numbers; these latents are {spec.words}, {spec.num_dims}"
        return None

    @property
    def caveats(self) -> list[str]:
        return [f"its densities are lower bounds, of {len(self.points)} importance samples each."]

    def prepare(self, train: LatentDataset) -> None:
        """Nothing is taken from the data but through training."""

    def _bound(self, z: Tensor, num: int) -> Tensor:
        """The bound of `num` samples with the noise of each latent, [B, *shape] -> [B] nats."""
        elements = num * max(self.spec.num_dims, self.points.shape[1], self.decoder.input.out_features)
        rows = max(1, len(z) if torch.is_grad_enabled() else BLOCK_ELEMENTS // elements)
        return torch.cat([log_mean_exp(self._log_weights(block, self._noise(block, num))) for block in z.split(rows)])

    def _noise(self, z: Tensor, num: int) -> Tensor:
        """Standard normal numbers [K, B, U], float32, of the first `num` points."""
        shift = RowNoise(z).uniform(self.points.shape[1]).T  # [B, U]
        uniform = (self.points[:num, None] + shift).remainder(1.0)
        return torch.special.ndtri(uniform.clamp(2.0**-32, 1 - 2.0**-32)).float()

    def _log_weights(self, z: Tensor, noise: Tensor) -> Tensor:
        """log p(z|u) p(u) / q(u|z) of u from `noise` [K, B, U], for z [B, *shape]: [K, B] nats."""
        z = z.flatten(1)
        mean, log_std = self.encoder(z).float().chunk(2, dim=-1)  # [B, U]
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            log_std = within(log_std)
            u = mean + torch.exp(log_std) * noise  # [K, B, U]
            ratio = (0.5 * (noise.square() - u.square()) + log_std).sum(-1)  # log p(u) / q(u|z)
        loc, log_gamma = self._decode(u)  # [K, B, D]
        with torch.autocast(z.device.type, enabled=False):
            scaled = (z - loc) * torch.exp(-log_gamma)
            return ratio - (0.5 * (scaled.square() + math.log(2 * math.pi)) + log_gamma).sum(-1)

    def _decode(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u [..., U] -> mean and logarithm of the width of every number of z, [..., D] each, float32."""
        outputs = self.decoder(u).float()
        if self.log_gamma is None:
            loc, log_gamma = outputs.chunk(2, dim=-1)
            return loc, within(log_gamma)
        return outputs, within(self.log_gamma).expand_as(outputs)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._bound(z, len(self.points))

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        """The negative bound, of fresh noise in training and of a few of the samples of `log_prob` outside of it."""
        if not self.training:
            return -self._bound(z, EVAL_SAMPLES)
        noise = torch.randn(self.num_train_samples, len(z), self.points.shape[1], device=z.device)
        return -log_mean_exp(self._log_weights(z, noise))

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        blocks = range(0, max(n, 1), SAMPLE_ROWS)  # one, if empty, of none
        drawn = [self._draw(min(SAMPLE_ROWS, n - start), how.temperature) for start in blocks]
        return torch.cat(drawn).view(n, *self.spec.shape)

    def _draw(self, n: int, temperature: float) -> Tensor:
        u = temperature * torch.randn(n, self.points.shape[1], device=self.points.device)
        loc, log_gamma = self._decode(u)
        return loc + temperature * torch.exp(log_gamma) * torch.randn_like(loc)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """[K, B] -> [B]."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


@torch.no_grad()
def start_narrow(net: ResidualNet, num: int) -> None:
    """Give the last `num` outputs, which are logarithms of widths, their start."""
    net.output.bias[-num:] = INITIAL_LOG_STD


def within(log_std: Tensor) -> Tensor:
    """Logarithms of widths between the floor and a smooth ceiling, where no gradient is lost."""
    return (MAX_LOG_STD - F.softplus(MAX_LOG_STD - log_std)).clamp_min(MIN_LOG_STD)
