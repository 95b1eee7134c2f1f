"""Somebody else's autoencoder as stage 1: frozen, its weights its own, and a likelihood of ours where it has none.

A decoder that gives images and no density gets a Gaussian one, whose scale is the maximum-likelihood one on training
images: sigma^2 is the mean squared error of decode(z), z ~ q(z|x), over pixels and images (Rybkin, Daniilidis & Levine,
"Simple and Effective VAE Training with Calibrated Decoders", 2021, section 3.2). With it distortion, ELBO and bound
exist.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.autoencoder import Autoencoder
from stage1_vae.bottleneck import Encoding
from stage1_vae.external.calling import Caller
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.readings import Reading
from stage1_vae.external.weights import modules, sha256, tensors
from stage1_vae.latents.dataset import PARAMETERS, Posterior
from stage1_vae.latents.spec import LatentDensity, LatentSpec
from stage1_vae.likelihoods import GaussianLikelihood, Likelihood, Pixels
from stage1_vae.posteriors import Bits, Codes, Draws

SMALLEST_SCALE = 1e-4
"""Of the Gaussian scale, in units of x: a decoder that is exact would have a density without bounds."""


CHECKED_IMAGES = 1000
"""Whose reconstructions from the mean latent are compared with the mean image: a wide q(z|x) is no mistake."""
MUCH_WORSE = 0.1
"""By how much of its squared error they may be worse: a model that has collapsed decodes the mean image, or nearly."""


class OwnDensity(Likelihood):
    """For a decoder that returns distributions over images: they are p(x|z)."""

    pixels = Pixels.CONTINUOUS
    unit_domain = False

    def forward(self, output: Tensor) -> Distribution:
        raise TypeError("its decoder's output is a distribution already")


class External(Autoencoder):
    """A model that is not ours behind what the rest of the house knows of stage 1.

    Its modules are none of ours: `parameters()` is empty, and `state_dict` holds what is ours to keep, the scale of the
    likelihood. `to` moves them all the same.

    Args:
        caller: the model and how it is called; in evaluation mode, without gradients.
        reading: what its latents are.
        shape: of one latent event, as we keep it.
        likelihood: p(x|z) of the images that it decodes; where it decodes to distributions, what those are.
        num_classes: labels kept beside the latents.
        said: one line that says what was recognised.
        guesses: what could be otherwise, each with the key that changes it.
        is_differentiable: whether gradients go through its decoder to z.
        watched: names of the tensors that must not move.
        asked: one line that says what came of asking it twice.
    """

    def __init__(
        self,
        caller: Caller,
        reading: Reading,
        shape: tuple[int, ...],
        likelihood: Likelihood,
        num_classes: int = 0,
        said: str = "",
        guesses: tuple[str, ...] = (),
        is_differentiable: bool = False,
        watched: tuple[str, ...] = (),
        asked: str = "",
    ) -> None:
        super().__init__()
        self.image_shape = caller.format.shape
        self.likelihood = likelihood
        self.caller, self.reading = caller, reading
        self.said, self.guesses, self.is_differentiable = said, guesses, is_differentiable
        self.watched, self.asked = watched, asked
        self._spec = reading.spec(shape, num_classes)
        self._dtype = caller.dtype
        self._prior = reading.base_prior(self._spec)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device

    @property
    def spec(self) -> LatentSpec:
        return self._spec

    @property
    def family(self) -> str:
        return self.reading.family

    @property
    def base_prior(self) -> LatentDensity | None:
        return self._prior

    def encode(self, x: Tensor) -> Encoding:
        """x [B, C, H, W] -> q(z|x), batch [B], its parameters in float32; without gradients.

        Raises:
            ExternalError: the model raised something, or what it returned is NaN or infinite.
        """
        return Encoding(self.posterior(x))

    def posterior(self, x: Tensor) -> Posterior:
        """The same, q(z|x) alone."""
        posterior = self.reading.posterior(self.caller.encode(x, self._dtype))
        for name in PARAMETERS[self.family]:
            check_finite(name, getattr(posterior, name))
        return posterior

    def embed(self, z: Tensor) -> Tensor:
        """z itself: what the decoder makes of a code, only it knows."""
        return z

    def decode_embedded(self, h: Tensor) -> Distribution:
        decoded = self.caller.decode(self.reading.latents(h), self._dtype)
        return decoded if isinstance(decoded, Distribution) else self.likelihood(decoded)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "External":
        """Moves what is not ours along."""
        super()._apply(fn, recurse)
        outside = modules(self.caller.model)
        for module in outside.values():
            module._apply(fn)
        if not outside and callable(move := getattr(self.caller.model, "to", None)):
            move(self.device)
        self._dtype = self.caller.dtype
        return self

    def check_unchanged(self, weights_sha256: str) -> None:
        """What encoded all images must be what was hashed before.

        Raises:
            ExternalError: a parameter or buffer has moved since.
        """
        now = tensors(self.caller.model)
        if sha256({name: now[name] for name in self.watched if name in now}) != weights_sha256:
            raise ExternalError(
                "the model has changed its own parameters or buffers while it encoded, so its latents belong to no one "
                "model: let encode(x) leave them alone"
            )


def likeliest(posterior: Posterior) -> Tensor:
    """The latent where q(z|x) is largest, [B, *shape]: no draw."""
    if isinstance(posterior, Codes):
        return posterior.codes
    if isinstance(posterior, Bits):
        return (posterior.logits > 0).float()
    assert not isinstance(posterior, Draws)  # which no reading makes
    return posterior.loc


def check_finite(name: str, values: Tensor) -> None:
    """
    Raises:
        ExternalError: a NaN or an infinity; or, of a logarithm, a spread that is none.
    """
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        if name == "log_std":
            raise ExternalError(
                "encode(x) returns standard deviations that are zero, negative or not finite: return log-variances, or "
                "say what they are, vae.second=log_var|log_std|std|var"
            )
        raise ExternalError(
            "encode(x) returns NaN or infinity: look at the weights, and at vae.range and vae.precision"
        )


@dataclass
class _Sums:
    """Running sums over images x and reconstructions r, float64; `squashed`: the squared error of sigmoid(r)."""

    num: int = 0
    squared_error: float = 0.0
    r: float = 0.0
    rr: float = 0.0
    rx: float = 0.0
    squashed: float = 0.0
    x: Tensor = field(default_factory=lambda: torch.zeros(()))  # [C, H, W] from the first batch on
    xx: float = 0.0

    def add(self, x: Tensor, r: Tensor) -> None:
        x, r = x.double(), r.double()
        self.num += len(x)
        self.squared_error += float((x - r).square().sum())
        self.r += float(r.sum())
        self.rr += float(r.square().sum())
        self.rx += float((r * x).sum())
        self.xx += float(x.square().sum())
        self.squashed += float((x - r.sigmoid()).square().sum())
        self.x = x.sum(0) + self.x.to(x)

    @property
    def spread(self) -> float:
        """Squared error of the mean image."""
        return max(self.xx - float(self.x.square().sum()) / self.num, 0.0)

    @property
    def explained(self) -> float:
        """Share of the variance around the mean image that reconstructions explain; below 0: they are worse than it."""
        return 1 - self.squared_error / self.spread if self.spread > 0 else 1.0

    @property
    def straightened(self) -> float:
        """Squared error of the best a r + b, one a and b for all pixels."""
        n, x = self.num * self.x.numel(), float(self.x.sum())
        rr, rx, xx = self.rr - self.r**2 / n, self.rx - self.r * x / n, self.xx - x**2 / n
        return xx - (rx**2 / rr if rr > 0 else 0.0)


@dataclass(frozen=True)
class Calibration:
    """How well a model decodes what it encodes.

    Attributes:
        num_images: on so many.
        scale: of the Gaussian likelihood, in units of x; None where the decoder has a density of its own.
        explained: share of the variance around the mean image that reconstructions explain.
        words: the same, for reports.
    """

    num_images: int
    scale: float | None
    explained: float
    words: str


@torch.no_grad()
def calibrate(autoencoder: External, batches: Iterable[tuple[Tensor, Any]], max_images: int = 10_000) -> Calibration:
    """Set the scale of the Gaussian likelihood to the maximum-likelihood one, in one pass.

    Args:
        autoencoder: on the device to compute on.
        batches: pairs of x [B, C, H, W] of training images and anything; read until there are `max_images`.
        max_images: at most so many count.

    z is drawn with torch's global generator.

    Raises:
        ExternalError: the model explains less of the images than their mean does.
    """
    sums, without_noise = _Sums(), _Sums()
    for x, _ in batches:
        x = x[: max_images - sums.num].to(autoencoder.device)
        posterior = autoencoder.posterior(x)
        sums.add(x, autoencoder.decode(posterior.sample()).mean)
        if without_noise.num < CHECKED_IMAGES:
            without_noise.add(x, autoencoder.decode(likeliest(posterior)).mean)
        if sums.num >= max_images:
            break
    if sums.num == 0:
        raise ValueError("no images to calibrate on")
    if without_noise.num > 1 and without_noise.explained < -MUCH_WORSE:
        raise ExternalError(_nothing_explained(autoencoder, without_noise))
    explained = sums.explained
    share = f"reconstructions explain {100 * explained:.1f} % of the variance around the mean image"
    if not isinstance(autoencoder.likelihood, GaussianLikelihood):
        return Calibration(sums.num, None, explained, f"density of the decoder's own; {share}")
    pixels = sums.num * math.prod(autoencoder.image_shape)
    scale = max(math.sqrt(sums.squared_error / pixels), SMALLEST_SCALE)
    autoencoder.likelihood.log_std.fill_(math.log(scale))
    words = f"Gaussian scale {scale:.3g}, maximum likelihood on {sums.num:,} training images; {share}"
    return Calibration(sums.num, scale, explained, words)


def _nothing_explained(autoencoder: External, sums: _Sums) -> str:
    ratio = 1 - sums.explained
    line = (
        f"decode(encode(x)) of {sums.num:,} images is {ratio:.3g} times as far from them as their mean image is: "
        "encode and decode do not speak of the same latents, or not of the same pixels"
    )
    if sums.squashed < min(sums.straightened, 0.5 * sums.spread):
        return (
            f"{line}; the sigmoid of it fits: it is logits, so let decode(z) return torch.distributions.Bernoulli("
            "logits=...), or their sigmoid"
        )
    if sums.straightened < 0.5 * sums.spread:
        return f"{line}; with another brightness and contrast it fits: give vae.range, such as vae.range=[-1,1]"
    noisy = autoencoder.family == "diagonal_normal"
    return f"{line}; look at vae.range" + (" and vae.second, and at the weights" if noisy else " and at the weights")
