"""A VAE without hidden layers and with Gaussian pixels of one scale: its log p(x) and its p(z|x) are known.

x ~ N(W z + b, s^2 I), z ~ N(0, I) is probabilistic principal component analysis (Tipping & Bishop, 1999), whatever the
encoder; a linear VAE that maximises the ELBO ends there (Lucas et al., "Don't Blame the ELBO!", 2019).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from expost.base.errors import UserError
from expost.parts.assembly import ImageParts
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import ImageSet
from stage1_vae.data.linear_gaussian import LinearGaussianDensity
from stage1_vae.posteriors import LOG_2PI, DiagonalNormal

ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class LinearModel:
    """The generative half of such a VAE, float64.

    Attributes:
        weights: W, [P, D].
        offset: b, [P].
        sigma: s.
    """

    weights: Tensor
    offset: Tensor
    sigma: float

    @classmethod
    @torch.no_grad()
    def of(cls, vae: Autoencoder) -> "LinearModel":
        """
        Raises:
            UserError: its decoder bends, or its pixels are not normal with one scale.
        """
        dims = vae.spec.num_dims
        z = torch.cat([torch.zeros(1, dims), torch.eye(dims), torch.full((1, dims), 2.0)]).to(vae.device)
        image = vae.decode(z)
        if not (isinstance(image, Independent) and isinstance(image.base_dist, Normal)):
            raise UserError("this question needs pixels that are normal with one scale; leave out likelihood=")
        offset, *columns, double = image.mean.double().flatten(1).cpu()
        weights = torch.stack(columns, 1) - offset[:, None]
        if not torch.allclose(offset + 2 * weights.sum(1), double, rtol=1e-3, atol=1e-3):
            raise UserError("this question needs a linear decoder, whose log p(x) is known; leave out net=")
        return cls(weights, offset, float(image.base_dist.stddev.flatten()[0]))

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Precision M / s^2 of p(z|x), [D, D], and its Cholesky factor; M = W'W + s^2 I."""
        precision = self.weights.T @ self.weights / self.sigma**2 + torch.eye(self.weights.shape[1]).double()
        return precision, torch.linalg.cholesky(precision)

    def log_prob(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> log p(x), exact, [B] nats."""
        centred = x.double().flatten(1) - self.offset  # [B, P]
        _, factor = self._moments()
        projected = torch.linalg.solve_triangular(factor, (centred @ self.weights).T, upper=False) / self.sigma**2
        square = centred.square().sum(1) / self.sigma**2 - projected.square().sum(0)  # by Woodbury's identity
        log_det = 2 * factor.diagonal().log().sum() + 2 * len(self.offset) * math.log(self.sigma)
        return -0.5 * (square + log_det + len(self.offset) * LOG_2PI)

    def kl_nats(self, q: DiagonalNormal, x: Tensor) -> Tensor:
        """KL(q(z|x) || p(z|x)), exact, [B] nats: what the ELBO lacks."""
        precision, factor = self._moments()
        centred = x.double().flatten(1) - self.offset
        mean = torch.cholesky_solve((centred @ self.weights).T, factor).T / self.sigma**2  # [B, D]
        variance, apart = (2 * q.log_std.double()).exp(), q.loc.double() - mean
        square = torch.einsum("bd,de,be->b", apart, precision, apart)
        log_det = -2 * factor.diagonal().log().sum() - 2 * q.log_std.double().sum(1)
        return 0.5 * ((variance * precision.diagonal()).sum(1) + square - variance.shape[1] + log_det)


def check_dims(dims: int, num_pixels: int) -> None:
    """
    Raises:
        UserError: as many dimensions as pixels.
    """
    if dims >= num_pixels:
        raise UserError(f"question.dims: {dims} components of {num_pixels} pixels leave no noise; give fewer")


def principal_components(x: Tensor, dims: int) -> LinearGaussianDensity:
    """The linear model that is likeliest for images x [N, C, H, W] (Tipping & Bishop, 1999, eq. 7 and 8).

    Raises:
        UserError: as many components as pixels.
    """
    flat = x.double().flatten(1)
    check_dims(dims, flat.shape[1])
    offset = flat.mean(0)
    variances, axes = torch.linalg.eigh((flat - offset).T @ (flat - offset) / len(flat))  # ascending
    sigma = variances[:-dims].mean().clamp_min(1e-12).sqrt()
    lengths = (variances[-dims:] - sigma**2).clamp_min(1e-12).sqrt()
    return LinearGaussianDensity(axes[:, -dims:].flip(1), lengths.flip(0), offset, float(sigma))


def prepared(parts: ImageParts, images: ImageSet) -> Tensor:
    """Images as stage 1 takes them, [N, C, H, W], on the CPU."""
    return torch.cat([x.cpu() for x, _ in parts.batches(images, ROWS_AT_ONCE)])


def encoded(vae: Autoencoder, x: Tensor) -> Iterator[tuple[Tensor, DiagonalNormal]]:
    """Blocks of images and their q(z|x), on the CPU."""
    for block in x.split(ROWS_AT_ONCE):
        with torch.no_grad():
            posterior = vae.encode(block.to(vae.device)).posterior
        if not isinstance(posterior, DiagonalNormal):
            raise UserError("this question needs normal posteriors; leave out vae=")
        yield block, DiagonalNormal(posterior.loc.cpu(), posterior.log_std.cpu())
