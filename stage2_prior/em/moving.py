"""A mixture of Gaussians while gradients move it: its components are what a module says, not numbers that EM has set.

Where they come from is the module's: numbers of their own, or the posteriors of images that are moved. Their density is
the product of statistics and natural parameters (`stage2_prior.em.covariances`), in float64, whose gradient reaches the
components and the latents alike.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec
from stage2_prior.em.covariances import Covariance
from stage2_prior.em.gaussian import Components
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Exactness, GradientPrior, check_real_vector
from stage2_prior.sampling import Sampling

NO_WIDTHS = (
    "vamp_expost stands on normal posteriors with widths, and those of this autoencoder are none; use prior=mixture"
)

NO_WEIGHT = -1e4
"""Logarithm of what counts for nothing, and has averages and differences, as that of 0 has not."""


class FreeComponents(nn.Module):
    """Components whose numbers are parameters: log-weights up to a constant, means, and the scale's own entries, those
    on its diagonal as logarithms.

    Args:
        known: where they begin.
    """

    def __init__(self, known: Components) -> None:
        super().__init__()
        matrix = known.scale.ndim == 3
        diagonal = known.scale.diagonal(dim1=1, dim2=2) if matrix else known.scale
        self.logits = nn.Parameter(known.log_weights.clamp_min(NO_WEIGHT).float())  # [K]
        self.means = nn.Parameter(known.means.float())  # [K, D]
        self.log_diagonal = nn.Parameter(diagonal.log().float())
        self.below = nn.Parameter(known.scale.tril(-1).float()) if matrix else None  # [K, D, D], or [1, D, D]

    @torch.no_grad()
    def move_to(self, known: Components) -> None:
        """Begin anew elsewhere; the parameters stay those that an optimiser knows."""
        for name, value in FreeComponents(known).named_parameters():
            self.get_parameter(name).copy_(value)

    def forward(self) -> Components:
        scale = self.log_diagonal.double().exp()
        if self.below is not None:
            scale = torch.diag_embed(scale) + self.below.double().tril(-1)
        return Components(self.logits.double().log_softmax(0), self.means.double(), scale)


class PseudoInputs(nn.Module):
    """Components that are posteriors of images, which are parameters and stay within the range of images.

    Args:
        images: [K, C, H, W] to begin with.
        encoder: of such images; what it is made of is no part of this module.

    Raises:
        PriorError: posteriors of the encoder have no widths.
    """

    def __init__(self, images: Tensor, encoder: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.encoder = encoder
        self.low, self.high = min(0.0, float(images.min())), max(1.0, float(images.max()))
        self.pixels = nn.Parameter(images.detach().clone())
        self.logits = nn.Parameter(images.new_zeros(len(images)))
        with torch.no_grad():
            posterior = encoder(images[:1])
        if not isinstance(posterior, DiagonalNormal):
            raise PriorError(NO_WIDTHS)

    def forward(self) -> Components:
        if self.training:
            with torch.no_grad():
                self.pixels.clamp_(self.low, self.high)
        posterior = self.encoder(self.pixels.clamp(self.low, self.high))
        assert isinstance(posterior, DiagonalNormal)
        log_weights = self.logits.double().log_softmax(0)
        return Components(log_weights, posterior.loc.double(), posterior.log_std.double().exp())


class MovingMixture(GradientPrior):
    """Args:
    spec: of vectors.
    covariance: of the components.
    components: says where they stand now; float64, on the device of its parameters.
    """

    log_prob_is = Exactness.EXACT

    def __init__(self, spec: LatentSpec, covariance: Covariance, components: nn.Module) -> None:
        super().__init__(spec)
        self.covariance, self.source = covariance, components
        self.to(next(components.parameters()).device)

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("a mixture", spec)

    def prepare(self, train: LatentDataset) -> None:
        """Nothing is taken from the data but through training."""

    def components(self) -> Components:
        """Where they stand now, float64, on the device."""
        with torch.autocast(self.anchor.device.type, enabled=False):  # densities are never in half precision
            found = self.source()
        assert isinstance(found, Components)
        return found

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return torch.logsumexp(self._log_terms(z), dim=1).to(z.dtype)

    def _log_joint(self, z: Tensor) -> Tensor:
        return self._log_terms(z).to(z.dtype)

    def _log_terms(self, z: Tensor) -> Tensor:
        """log pi_k + log N(z; m_k, S_k), [B, D] -> float64 [B, K]."""
        with torch.autocast(self.anchor.device.type, enabled=False):
            known, points = self.components(), z.double()
            features = self.covariance.features(points, torch.zeros_like(points))  # [B, F]
            return features @ self.covariance.natural(known.log_weights, known.means, known.scale)  # [B, K]

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        return -self._log_prob(z, context)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        known = self.components()
        component = torch.multinomial(known.log_weights.exp(), n, replacement=True)
        noise = torch.randn(n, self.spec.num_dims, dtype=known.means.dtype, device=known.means.device)
        return (known.means[component] + self.covariance.colour(noise, known.scale, component)).to(self.anchor.dtype)
