"""A trained two-stage model in three lines:

    from expost.export.two_stage import TwoStage
    model = TwoStage.load("my_model")
    images = model.sample(64)  # [64, C, H, W] in [0, 1]

`stage=export export.out=my_model` wrote the folder. Images come from z ~ prior, x = E[p(x|z)]; the bound on log p(x) is
the importance-weighted one of `expost.evaluation.bounds` (Burda, Grosse & Salakhutdinov, "Importance Weighted
Autoencoders", 2016, equation 8), with q(z|x) as the proposal and the learned prior as p(z). Loading runs no code and
reads nothing that it cannot account for: see `expost.store.safe`.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from expost.evaluation.bounds import Draw, importance_bounds, rows_at_once
from expost.export.config import (
    VAE_FILE,
    ExportedImages,
    ExportedModel,
    ExportedReference,
    load_prior,
    load_stages,
    preprocess_of,
    read_config,
)
from expost.export.hub import SCHEME, download
from expost.export.learned_prior import LearnedPrior
from expost.store.safe import UnsafeError
from expost.store.tensors import layouts, read_tensors
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import Domain
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.external.autoencoder import External
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.module import Given
from stage1_vae.latents import LatentSpec
from stage1_vae.likelihoods import figure_kind
from stage2_prior.prior import Exactness, Prior

MAX_IMAGES, DECODED_PIXELS = 500, 2**22
"""Images decoded at once, and their pixels."""


class TwoStage:
    """Encoder, decoder and learned prior of one trained model.

    Latents are [N, *latent] as `latent_shape` says; x is what the model was trained on, float32 [B, C, H, W], which
    `preprocess` makes of raw pixels. Everything random uses torch's global generator: `torch.manual_seed` repeats it.

    Args:
        vae, prior: trained, on one device.
        preprocess: how raw images become x.
        pixel_range: which values of x are black and white: (0, 1), but for images of real numbers.
        class_names: what the classes of the training images are called; empty: they are numbers from 0.
    """

    def __init__(
        self,
        vae: Autoencoder,
        prior: Prior,
        preprocess: Preprocess,
        pixel_range: tuple[float, float],
        class_names: Sequence[str] = (),
    ) -> None:
        self.vae, self.prior = vae.eval(), prior.eval()
        self.preprocess, self.pixel_range = preprocess, pixel_range
        self._drawing = LearnedPrior(prior, class_names)

    @classmethod
    def load(cls, path: str | os.PathLike[str], autoencoder: Any = None) -> "TwoStage":
        """The model in a folder that `stage=export` wrote, or on the Hugging Face hub; on the CPU.

        Args:
            path: the folder, or `hf://USER/NAME`, or `hf://USER/NAME@REVISION` (the extra `hub`).
            autoencoder: of a model whose autoencoder was not trained here: that very object, which the folder names
                and does not hold.

        Raises:
            ValueError: in one line, when there is none, it is damaged, or it is not safe to load; when the autoencoder
                is another.
        """
        if isinstance(path, str) and path.startswith(SCHEME):
            with download(path) as copy:
                return cls.load(copy, autoencoder)
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UnsafeError(
                f"{folder} is no folder; write one with: python pipeline.py stage=export export.out={folder}"
            )
        config = read_config(folder)
        if isinstance(config, ExportedReference):
            vae, prior = join(folder, config, autoencoder)
            return cls(vae, prior, *facts_of(config))
        if not isinstance(config, ExportedModel):
            raise UnsafeError(f"{folder} holds a prior of latents alone; load it with LearnedPrior.load")
        if autoencoder is not None:
            raise UnsafeError(f"{folder} holds its autoencoder; leave out autoencoder=")
        own, prior = load_stages(folder, config)
        return cls(own, prior, *facts_of(config))

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes of the training images are called."""
        return self._drawing.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.vae.image_shape

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.vae.spec.shape

    @property
    def device(self) -> torch.device:
        return self.prior.anchor.device

    def to(self, device: torch.device | str) -> "TwoStage":
        """This model, moved there."""
        self.vae.to(device)
        self.prior.to(device)
        return self

    def sample(
        self,
        n: int,
        label: int | str | Sequence[str] | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        guidance: float = 0.0,
        truncation: float = 1.0,
    ) -> Tensor:
        """n images [n, C, H, W] in [0, 1]: means of p(x|z) for z ~ prior, or z ~ p(z|label).

        Args:
            n: how many.
            label: a class for all, by its name (of `class_names`; where these are words, its number will do), or one
                for each, as a list of names or int64 [n]; of a model whose prior was fitted with
                `prior.conditional=true`. None: all classes, as often as among the training images.
            temperature, top_k, top_p, guidance, truncation: of `stage2_prior.sampling.Sampling`; what the prior can
                follow of these is `prior.knobs`, and truncation.

        Raises:
            ValueError: in one line: n is negative, a class that the prior does not know, a number out of range, or what
                this prior cannot follow.
        """
        return self.decode(self.sample_latents(n, label, temperature, top_k, top_p, guidance, truncation))

    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        label: int | str | Sequence[str] | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        guidance: float = 0.0,
        truncation: float = 1.0,
    ) -> Tensor:
        """n latents [n, *latent] from the learned prior; arguments and errors are those of `sample`."""
        return self._drawing.sample(n, label, temperature, top_k, top_p, guidance, truncation)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Distribution:
        """q(z|x): batch [B], event [*latent]; `.rsample()` is a fresh draw. Codes have no `.mean`, all else has.

        Raises:
            ValueError: x is not what the model was trained on.
        """
        return self.vae.encode(self._check_images(x)).posterior

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1]: means of p(x|z) for latents [B, *latent].

        Raises:
            ValueError: latents of another shape, or codes that are none of the codebook.
        """
        z = self._drawing.check_latents(z)
        low, high = self.pixel_range
        size = max(1, min(MAX_IMAGES, DECODED_PIXELS // math.prod(self.image_shape)))
        means = [self.vae.decode(block).mean for block in z.split(size)]
        return ((torch.cat(means) - low) / (high - low)).clamp(0, 1)

    @torch.no_grad()
    def log_prob_bound(self, x: Tensor, num_samples: int = 100) -> Tensor:
        """An importance-weighted lower bound on log p(x) of each image under the learned prior, float64 [B] nats.

        A lower bound in expectation over the draws, and tighter for more of them; on dequantised images it bounds the
        log-density of x, which falls short of the log-probability of the levels by log(levels) a pixel.

        Args:
            x: [B, C, H, W].
            num_samples: z drawn for each image; of codes, all of whose draws are the same, one is.

        Raises:
            ValueError: the model has no such bound (no density of images, or none of latents), x is not what it was
                trained on, or `num_samples` is below 1.
        """
        if (reason := self.why_no_bound()) is not None:
            raise ValueError(f"there is no bound on log p(x): {reason}")
        x = self._check_images(x)
        if len(x) == 0:
            return torch.zeros(0, dtype=torch.float64)
        levels = self.preprocess.num_levels
        if levels is not None and (x * (levels - 1)).frac().sub(0.5).abs().amin() < 0.499:
            raise ValueError(f"x must lie on {levels} levels from 0 to 1; `preprocess` makes such of raw pixels")

        def propose(x: Tensor) -> Draw:
            posterior = self.vae.encode(x).posterior

            def draw(n: int) -> tuple[Tensor, Tensor]:
                z = posterior.rsample(torch.Size([n]))  # [n, B, *latent]
                return z, posterior.log_prob(z)

            return draw

        def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
            return self.vae.decode(z.flatten(0, 1)).log_prob(x.repeat(len(z), 1, 1, 1)).view(z.shape[:2])

        rows = rows_at_once(self.image_shape)
        densities = {"learned": self.prior.log_prob}
        num = min(num_samples, 1) if self.vae.family == "codes" else num_samples  # all draws are the same
        bounds = importance_bounds(x.split(rows), propose, log_likelihood, densities, num, max_rows=rows)
        upper = bounds["learned"].iwae_nats  # on -log p(x)
        assert upper is not None
        return -upper

    def why_no_bound(self) -> str | None:
        """In words, why `log_prob_bound` means nothing for this model; None: it does."""
        facts = self.preprocess
        levels = facts.levels if facts.dequantize else facts.num_levels
        kind = figure_kind(self.vae.likelihood, levels, facts.dequantize)
        if not kind.is_density:
            return kind.note
        if self.vae.base_prior is None:
            return "its q(z|x) are point masses, which have no density"
        if self.prior.log_prob_is not in (Exactness.EXACT, Exactness.LOWER_BOUND):
            return f"log p(z) of its prior is {self.prior.log_prob_is.value}"
        return None

    def _check_images(self, x: Tensor) -> Tensor:
        """x on this model's device, float32.

        Raises:
            ValueError: another shape or type, or values that the model was not trained on.
        """
        if x.ndim != 4 or x.shape[1:] != self.image_shape or not x.is_floating_point():
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"x is {x.dtype} {tuple(x.shape)}; expected float32 [B, {wanted}], as `preprocess` makes it"
            )
        x = x.to(self.device, torch.float32)
        if not torch.isfinite(x).all():
            raise ValueError("x is not finite")
        if self.preprocess.domain is Domain.UNIT and ((x < 0) | (x > 1)).any():
            raise ValueError(f"x must lie in [0, 1] and has values from {x.min():.3g} to {x.max():.3g}")
        return x


def facts_of(config: ExportedImages) -> tuple[Preprocess, tuple[float, float], Sequence[str]]:
    """What a model of images knows beside its stages."""
    low, high = config.pixel_range
    return preprocess_of(config), (low, high), config.class_names


def join(folder: Path, config: ExportedReference, autoencoder: Any) -> tuple[External, Prior]:
    """The autoencoder that `folder` names, and the prior that it holds.

    Raises:
        UnsafeError: no autoencoder is given, or another one.
    """
    reference = config.autoencoder
    if autoencoder is None:
        raise UnsafeError(
            f"{folder} holds a prior over latents of {reference.name}, which is yours: "
            "TwoStage.load(FOLDER, autoencoder=YOURS)"
        )
    low, high = reference.range
    try:
        source = Given(
            model=autoencoder,
            folded=reference.folded,
            range=(low, high),
            multiple=reference.multiple,
            channels=reference.channels,
            second=reference.second,
            num_codes=reference.num_codes,
            precision=reference.precision,
        )
        loaded = source.load()
        if loaded.weights_sha256 != reference.weights_sha256:
            raise UnsafeError(
                f"this {loaded.name} is another autoencoder than {reference.name}: the SHA-256 of its weights is "
                f"{loaded.weights_sha256[:12]}..., and the prior was fitted to {reference.weights_sha256[:12]}..."
            )
        channels, height, width = config.image_shape
        levels = config.preprocess.levels if config.preprocess.dequantize else None
        spec = LatentSpec.from_json(config.latent)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x = torch.rand(2, channels, height, width)
            vae = source.autoencoder(loaded, x, spec.num_classes, levels)
    except ExternalError as error:
        raise UnsafeError(f"autoencoder: {error}") from error
    if vae.spec != spec:
        raise UnsafeError(f"this {loaded.name} makes latents that are {vae.spec.words}; the prior is of {spec.words}")
    vae.load_state_dict(read_tensors(folder, VAE_FILE, layouts(vae), config.files[VAE_FILE].sha256))
    return vae, load_prior(folder, config)
