"""A finite mixture of Gaussians, however it is fitted: its density and its samples."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec
from stage2_prior.em.covariances import COVARIANCES
from stage2_prior.em.gaussian import Components
from stage2_prior.em.moving import FreeComponents, MovingMixture
from stage2_prior.em.points import Scaling
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Encoder, Exactness, Prior
from stage2_prior.sampling import Sampling

BLOCK_ELEMENTS, LEAST_ROWS = 2**19, 40
"""Log-densities are computed in blocks of rows whose [rows, K, D] stays below this: 4 MiB, which caches hold. With
2**21 they took twice as long on 16 dimensions. Of fewer rows, the factors would be read more often than they are used:
ten rows took four times as long, a row, as forty on 200 components in 256 dimensions."""


class FiniteMixture(Prior):
    """p(z) = sum_k pi_k N(z; m_k, S_k) over vectors of real numbers; densities are computed in float64.

    Samples follow `temperature`: it scales all widths, and at 0 they are means of components.

    Args:
        num_components: K, the fewest latents that it can be fitted to.
        covariance: a key of `COVARIANCES`.

    Raises:
        PriorError: no components, or an unknown covariance.
    """

    log_prob_is = Exactness.EXACT
    fits_in_ranks = True
    learns_jointly = True
    knobs = frozenset({"temperature"})
    log_weights: Tensor
    means: Tensor
    scale: Tensor

    def __init__(self, spec: LatentSpec, num_components: int, covariance: str) -> None:
        super().__init__(spec)
        if covariance not in COVARIANCES:
            raise PriorError(f"prior.covariance={covariance} is unknown; choose one of {', '.join(COVARIANCES)}")
        check_numbers({"num_components": num_components}, {})
        self.num_components, self.covariance = num_components, COVARIANCES[covariance]
        self.covariance_name = covariance
        self.min_images = self.num_clusters = num_components
        self.moving: MovingMixture | None = None  # between `join` and `settle`
        shape = self.covariance.scale_shape(num_components, spec.num_dims)
        unit = torch.eye(spec.num_dims) if len(shape) == 3 else torch.ones(shape[1])
        uniform = torch.full((num_components,), -math.log(num_components))
        self.register_buffer("log_weights", uniform.double())  # [K]
        self.register_buffer("means", torch.zeros(num_components, spec.num_dims).double())  # [K, D]
        # Cholesky factors, shaped as the covariance has them; doubled before they are many, for the sake of memory
        self.register_buffer("scale", unit.double().expand(shape).contiguous())

    @property
    def num_parameters(self) -> int:
        dims = self.spec.num_dims
        a_scale = dims * (dims + 1) // 2 if self.scale.ndim == 3 else self.scale.shape[1]  # a triangle, or a diagonal
        used = int(self.log_weights.isfinite().sum())
        return used - 1 + used * dims + min(len(self.scale), used) * a_scale

    @property
    def is_fitted(self) -> bool:
        """Whether the components are those of a fit: before it all stand at the origin."""
        return bool(self.means.any())

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        """Make parameters of the components; several that stand in one place are first drawn apart, as N(0, I)."""
        if self.num_clusters > 1 and not self.is_fitted and getattr(self, "chooses_number", False):
            raise PriorError(
                "num_components=auto chooses by a fit, and there was none: give a number where it is learned"
            )
        means = self.means if self.num_components == 1 or self.is_fitted else torch.randn_like(self.means)
        self.moving = MovingMixture(
            self.spec, self.covariance, FreeComponents(Components(self.log_weights, means, self.scale))
        )

    def settle(self) -> None:
        if self.moving is not None:
            with torch.no_grad():
                self.keep(self.moving.components())
            self.moving = None

    def move_to(self, order: Tensor) -> None:
        """After `join`, begin anew where the components of a fit stand, in the `order` [K] of their numbers."""
        scale = self.scale if len(self.scale) == 1 < self.num_components else self.scale[order]
        self.keep(Components(self.log_weights[order], self.means[order], scale.clone()))
        if self.moving is not None and isinstance(self.moving.source, FreeComponents):
            self.moving.source.move_to(Components(self.log_weights, self.means, self.scale))

    def keep(self, known: Components) -> None:
        """Take components as they are."""
        self.log_weights.copy_(known.log_weights)
        self.means.copy_(known.means)
        self.scale.copy_(known.scale)

    def keep_few(self, known: Components) -> None:
        """Take fewer components than there is room for; the others have no weight."""
        num = len(known.log_weights)
        self.log_weights.fill_(-torch.inf)[:num] = known.log_weights
        self.means.zero_()[:num] = known.means
        self.scale[: len(known.scale)] = known.scale

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        if self.moving is not None:
            return self.moving.log_prob(z)
        return torch.cat([torch.logsumexp(terms, dim=1) for terms in self._log_terms(z)]).to(z.dtype)

    def _log_joint(self, z: Tensor) -> Tensor:
        if self.moving is not None:
            return self.moving.log_joint(z)
        return torch.cat(list(self._log_terms(z))).to(z.dtype)

    def _log_terms(self, z: Tensor) -> Iterator[Tensor]:
        """log pi_k + log N(z; m_k, S_k), [N, D] -> float64 [rows, K], block by block."""
        log_density = self.covariance.log_density(self.means, self.scale)
        for block in z.split(max(LEAST_ROWS, BLOCK_ELEMENTS // self.means.numel())):
            yield self.log_weights + log_density(block.double())

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        if self.moving is not None:
            return self.moving.sample(n)
        component = (
            torch.multinomial(self.log_weights.exp(), n, replacement=True) if n else self.means.new_zeros(0).long()
        )
        noise = torch.randn(n, self.spec.num_dims, dtype=self.means.dtype, device=self.means.device)
        z = self.means[component] + how.temperature * self.covariance.colour(noise, self.scale, component)  # [n, D]
        return z.to(self.anchor.dtype)

    def set_components(self, fitted: Components, scaling: Scaling) -> None:
        """Take the components of standardised points, in the units of the latents."""
        means = scaling.shift + scaling.unit * fitted.means
        self.keep(Components(fitted.log_weights, means, self.covariance.rescale(fitted.scale, scaling.unit)))

    def check_number(self, num: int) -> None:
        """
        Raises:
            PriorError: more components than the `num` training latents.
        """
        if self.num_components > num:
            raise PriorError(
                f"{self.num_components} components for {num} training images: set prior.num_components to {num} or less"
            )


def check_numbers(counts: Mapping[str, int], amounts: Mapping[str, float]) -> None:
    """
    Raises:
        PriorError: a count below 1, or an amount below 0.
    """
    for name, count in counts.items():
        if count < 1:
            raise PriorError(f"prior.{name}={count}: give at least 1")
    for name, value in amounts.items():
        if value < 0:
            raise PriorError(f"prior.{name}={value}: give a number that is not negative")
