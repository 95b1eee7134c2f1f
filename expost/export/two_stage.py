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

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from expost.evaluation.bounds import importance_bounds
from expost.export.config import load_stages, preprocess_of, read_config
from expost.export.hub import SCHEME, download
from expost.store.safe import UnsafeError
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.base_priors import UniformCodes
from stage1_vae.data.images import Domain
from stage1_vae.data.labels import class_number
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.latents import Support
from stage1_vae.likelihoods import figure_kind
from stage2_prior.prior import Exactness, Prior
from stage2_prior.sampling import Sampling

MAX_DRAWS = 1000
"""Latents drawn at once."""
MAX_IMAGES, DECODED_PIXELS = 500, 2**22
"""Images decoded at once, and their pixels."""
MAX_BOUND_ROWS, BOUND_PIXELS = 8192, 2**23
"""Pairs of image and sample at once under `log_prob_bound`, and their pixels."""


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
        self.class_names = tuple(class_names) or tuple(map(str, range(self.prior.num_classes)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TwoStage":
        """The model in a folder that `stage=export` wrote, or on the Hugging Face hub; on the CPU.

        Args:
            path: the folder, or `hf://USER/NAME`, or `hf://USER/NAME@REVISION` (the extra `hub`).

        Raises:
            ValueError: in one line, when there is none, it is damaged, or it is not safe to load.
        """
        if isinstance(path, str) and path.startswith(SCHEME):
            with download(path) as copy:
                return cls.load(copy)
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UnsafeError(
                f"{folder} is no folder; write one with: python pipeline.py stage=export export.out={folder}"
            )
        config = read_config(folder)
        preprocess = preprocess_of(config)
        vae, prior = load_stages(folder, config)
        low, high = config.pixel_range
        return cls(vae, prior, preprocess, (low, high), config.class_names)

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
    ) -> Tensor:
        """n images [n, C, H, W] in [0, 1]: means of p(x|z) for z ~ prior, or z ~ p(z|label).

        Args:
            n: how many.
            label: a class for all, by its name (of `class_names`; where these are words, its number will do), or one
                for each, as a list of names or int64 [n]; of a model whose prior was fitted with
                `prior.conditional=true`. None: all classes, as often as among the training images.
            temperature, top_k, top_p, guidance: of `stage2_prior.sampling.Sampling`; what the prior can follow of
                these is `prior.knobs`.

        Raises:
            ValueError: in one line: n is negative, a class that the prior does not know, a number out of range, or what
                this prior cannot follow.
        """
        return self.decode(self.sample_latents(n, label, temperature, top_k, top_p, guidance))

    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        label: int | str | Sequence[str] | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        guidance: float = 0.0,
    ) -> Tensor:
        """n latents [n, *latent] from the learned prior; arguments and errors are those of `sample`."""
        how = Sampling(temperature, top_k, top_p, guidance)
        labels = None if label is None else self._labels(n, label)
        sizes = [min(MAX_DRAWS, n - start) for start in range(0, n, MAX_DRAWS)] or [n]
        context = [None] * len(sizes) if labels is None else labels.split(MAX_DRAWS)
        return torch.cat([self.prior.sample(size, y, how) for size, y in zip(sizes, context, strict=True)])

    def _labels(self, n: int, label: int | str | Sequence[str] | Tensor) -> Tensor:
        """The number of the class of each sample, [n].

        Raises:
            ValueError: they are not, or not of this prior's classes.
        """
        are_numbered = self.class_names == tuple(map(str, range(len(self.class_names))))  # and called by their numbers
        if isinstance(label, (np.ndarray, np.generic)):
            label = label.tolist()
        if isinstance(label, str) and self.prior.num_classes:
            label = class_number(label, self.class_names)
        elif isinstance(label, (list, tuple)) and label and all(type(name) in (int, str) for name in label):
            label = torch.tensor([class_number(name, self.class_names) for name in label])
        elif not are_numbered and isinstance(label, (int, Tensor)) and not isinstance(label, bool):
            label = self._class_numbers(torch.as_tensor(label))
        try:
            given = torch.as_tensor(label)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"label={label!r}: give one class, or one for each: [{n}]") from error
        if given.ndim > 1 or (given.ndim == 1 and len(given) != n):
            raise ValueError(f"label is {tuple(given.shape)}; give one class, or one for each: [{n}]")
        self.prior.check_labels(given.reshape(-1))
        return given.expand(max(n, 0)) if given.ndim == 0 else given

    def _class_numbers(self, labels: Tensor) -> Tensor:
        """Class numbers of whole numbers that name classes."""
        if labels.is_floating_point() or labels.dtype == torch.bool or not self.prior.num_classes:
            return labels
        names, place = labels.unique(return_inverse=True)
        return torch.tensor([class_number(name, self.class_names) for name in names.tolist()])[place]

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
        z = self._latents(z)
        low, high = self.pixel_range
        size = max(1, min(MAX_IMAGES, DECODED_PIXELS // math.prod(self.image_shape)))
        means = [self.vae.decode(block).mean for block in z.split(size)]
        return ((torch.cat(means) - low) / (high - low)).clamp(0, 1)

    def _latents(self, z: Tensor) -> Tensor:
        """z on this model's device: codes int64, all else float32.

        Raises:
            ValueError: another shape, or codes that are none of the codebook.
        """
        if z.shape[1:] != self.latent_shape:
            raise ValueError(f"z is {tuple(z.shape)}; expected [B, {', '.join(map(str, self.latent_shape))}]")
        if self.vae.spec.support is not Support.CODES:
            return z.to(self.device, torch.float32)
        if z.is_floating_point() or z.dtype == torch.bool:
            raise ValueError(f"z is {z.dtype}; expected codes, which are whole numbers")
        z = z.to(self.device, torch.int64)  # a byte would be taken for a mask
        wrong = z[(z < 0) | (z >= UniformCodes(self.vae.spec).sizes.to(self.device))]
        if len(wrong):
            sizes = " and ".join(f"{size:,}" for size in dict.fromkeys(self.vae.spec.num_codes))
            raise ValueError(f"z has the code {wrong[0]:,}; the codebook has {sizes} codes, counted from 0")
        return z

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

        def propose(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
            posterior = self.vae.encode(x).posterior
            z = posterior.rsample(torch.Size([n]))  # [n, B, *latent]
            return z, posterior.log_prob(z)

        def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
            return self.vae.decode(z.flatten(0, 1)).log_prob(x.repeat(len(z), 1, 1, 1)).view(z.shape[:2])

        rows = max(1, min(MAX_BOUND_ROWS, BOUND_PIXELS // math.prod(self.image_shape)))
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
