"""Images whose log p(x) and p(z|x) are known: probabilistic principal component analysis.

z ~ N(0, I_D), x = W z + mu + sigma eps, eps ~ N(0, I_P) (Tipping & Bishop, "Probabilistic Principal Component
Analysis", 1999, eq. 2-8). Then x ~ N(mu, W W' + sigma^2 I), and p(z|x) = N(M^-1 W'(x - mu), sigma^2 M^-1) with
M = W'W + sigma^2 I.

W is known up to a rotation of z, so its columns may be chosen orthogonal, W = Q diag(l) with Q'Q = I. Then M is
diagonal, and a posterior N(loc, diag(std^2)) is exact and not an approximation: with u = Q'(x - mu),

    loc_d = l_d u_d / (l_d^2 + sigma^2),   std_d^2 = sigma^2 / (l_d^2 + sigma^2),
    -2 log p(x) = sum_d [u_d^2 / (l_d^2 + sigma^2) + log(l_d^2 + sigma^2)]
                  + (|x - mu|^2 - |u|^2) / sigma^2 + (P - D) log sigma^2 + P log 2 pi.

The aggregate of the exact posteriors over p(x) is N(0, I) itself: what a fitted prior should find.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain, ImageData, InMemory, Source, fingerprint
from stage1_vae.posteriors import LOG_2PI, DiagonalNormal

LONGEST, SHORTEST = 2.0, 0.5
"""Lengths of the first and of the last column of W: latents that the images show well, and some that they show less."""


@dataclass(frozen=True)
class LinearGaussianDensity:
    """The known model; everything is computed in float64, on the device of the images.

    Attributes:
        basis: Q, [P, D] orthonormal columns.
        lengths: l, [D].
        offset: mu, [P].
        sigma: standard deviation of the noise of a pixel.
    """

    basis: Tensor
    lengths: Tensor
    offset: Tensor
    sigma: float

    @property
    def latent_dim(self) -> int:
        return len(self.lengths)

    def log_prob(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> log p(x), exact, [B] nats."""
        centred = x.double().flatten(1) - self.offset.to(x.device)  # [B, P]
        u = centred @ self.basis.to(x.device)  # [B, D]
        variance = self.lengths.to(x.device).square() + self.sigma**2  # [D] variance of u
        # [B], without the cancellation of |x|^2 - |u|^2
        residual = (centred - u @ self.basis.to(x.device).T).square().sum(1)
        num, dims = self.basis.shape
        log_det = variance.log().sum() + (num - dims) * 2 * math.log(self.sigma)
        return -0.5 * ((u.square() / variance).sum(1) + residual / self.sigma**2 + log_det + num * LOG_2PI)

    def posterior(self, x: Tensor) -> DiagonalNormal:
        """x [B, C, H, W] -> p(z|x), exact, batch [B], event [D]."""
        lengths = self.lengths.to(x.device)
        u = (x.double().flatten(1) - self.offset.to(x.device)) @ self.basis.to(x.device)  # [B, D]
        variance = lengths.square() + self.sigma**2
        loc = u * (lengths / variance)
        log_std = (math.log(self.sigma) - 0.5 * variance.log()).expand_as(loc)
        return DiagonalNormal(loc, log_std)

    def decode(self, z: Tensor) -> Tensor:
        """Means of p(x|z): z [..., D] -> [..., P]."""
        weights = self.basis * self.lengths  # [P, D]
        return z @ weights.T.to(z) + self.offset.to(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """x [B, C, H, W], z [..., B, D] -> log p(x|z), [..., B] nats."""
        scaled = (x.double().flatten(1) - self.decode(z.double())) / self.sigma  # [..., B, P]
        return -0.5 * (scaled.square() + LOG_2PI).sum(-1) - scaled.shape[-1] * math.log(self.sigma)

    def log_prior(self, z: Tensor) -> Tensor:
        """z [..., D] -> log p(z) = log N(z; 0, I), [...] nats: also the density of the aggregate posterior."""
        return -0.5 * (z.double().square() + LOG_2PI).sum(-1)


@dataclass(frozen=True)
class LinearGaussian(Source):
    """Images drawn from one such model.

    Args:
        image_shape: (C, H, W).
        latent_dim: D, at most the number of pixels.
        sigma: standard deviation of the noise of a pixel.
        num_train, num_val, num_test: images a split.
        seed: of W, mu and the images; the seeds of a run do not change the data.

    Raises:
        DataError: sizes or a sigma that make no such model.
    """

    image_shape: Sequence[int] = (1, 6, 6)
    latent_dim: int = 8
    sigma: float = 0.5
    num_train: int = 20000
    num_val: int = 2000
    num_test: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise DataError(f"data.image_shape={list(self.image_shape)}: give [channels,height,width], such as [1,6,6]")
        num_pixels = math.prod(self.image_shape)
        if not 1 <= self.latent_dim <= num_pixels:
            raise DataError(f"data.latent_dim={self.latent_dim}: give 1 to {num_pixels}, the pixels of an image")
        if not 0 < self.sigma < math.inf:
            raise DataError(f"data.sigma={self.sigma}: give a positive number")
        if min(self.num_train, self.num_val, self.num_test) < 2:
            raise DataError("data.num_train, data.num_val and data.num_test must be at least 2")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"data.seed={self.seed}: give a whole number from 0 to 2^32 - 1")

    def density(self) -> LinearGaussianDensity:
        """The model that `seed` names."""
        random = np.random.RandomState([self.seed, 0])  # its stream is frozen, unlike those of newer generators
        num_pixels = math.prod(self.image_shape)
        basis, upper = np.linalg.qr(random.standard_normal((num_pixels, self.latent_dim)))
        basis *= np.sign(np.diag(upper))  # libraries of linear algebra differ in the signs
        return LinearGaussianDensity(
            basis=torch.from_numpy(basis),
            lengths=torch.linspace(LONGEST, SHORTEST, self.latent_dim, dtype=torch.float64),
            offset=torch.from_numpy(0.5 * random.standard_normal(num_pixels)),
            sigma=float(self.sigma),
        )

    def images(self, num: int, stream: int) -> Tensor:
        """`num` images, float32 [num, C, H, W]; another `stream` gives others."""
        random = np.random.RandomState([self.seed, stream])
        z = torch.from_numpy(random.standard_normal((num, self.latent_dim)))
        noise = torch.from_numpy(random.standard_normal((num, math.prod(self.image_shape))))
        return (self.density().decode(z) + self.sigma * noise).float().view(num, *self.image_shape)

    def load(self) -> ImageData:
        """Three splits, drawn independently."""
        counts = (self.num_train, self.num_val, self.num_test)
        splits = (InMemory(self.images(num, stream)) for stream, num in enumerate(counts, start=1))
        channels, height, width = self.image_shape
        return ImageData(
            "linear_gaussian",
            *splits,
            shape=(channels, height, width),
            domain=Domain.REAL,
            # The recipe and not the images: two machines may differ in the last bit of a matrix product.
            fingerprint=fingerprint(("linear_gaussian", str(self.version), repr(self))),
            density=self.density(),
        )
