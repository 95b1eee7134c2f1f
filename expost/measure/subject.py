"""What is judged: two trained stages, asked for latents and for images in blocks, and priors beside the learned one.

Of discrete latents, priors by counting are fitted besides: floors that a learned prior must beat.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from expost.evaluation.nouns import IMAGES, LATENTS, Nouns
from expost.job import Job
from expost.parts.assembly import ImageParts, Parts
from expost.parts.decoding import block_size, pixel_range
from expost.training.tracking import Tracker
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import ImageData, ImageSet
from stage1_vae.latents import LatentDataset, LatentDensity, LatentSpec, Support
from stage1_vae.likelihoods import FigureKind
from stage2_prior.counting import CountingPrior
from stage2_prior.prior import Prior
from stage2_prior.priors.bigram import Bigram
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.priors.uniform import Uniform
from stage2_prior.priors.unigram import Unigram

COUNTED: dict[str, type[CountingPrior]] = {"unigram": Unigram, "bigram": Bigram}
"""Row -> prior by counting."""


@dataclass(frozen=True)
class Floor:
    """A prior by counting, and the wall time of its fit."""

    prior: Prior
    seconds: float


@dataclass(frozen=True)
class Subject:
    """A prior, and the latents that it was fitted to.

    Attributes:
        parts: what else there is; the data.
        prior: fitted, in evaluation mode.
        baseline: N(0, I) on the same latents; of codes, bits and bounded latents, the uniform prior.
        train, test: latents.
        floors: row -> a prior of few numbers or none that a learned one must beat.
    """

    parts: Parts
    prior: Prior
    baseline: Prior
    train: LatentDataset
    test: LatentDataset
    device: torch.device
    floors: Mapping[str, Floor] = field(default_factory=dict)

    @property
    def nouns(self) -> Nouns:
        """The words for what is judged."""
        return LATENTS

    @property
    def kind(self) -> FigureKind | None:
        """What -log p(x|z) is; None without a decoder."""
        return None

    @property
    def baseline_name(self) -> str:
        return baseline_name(self.train.spec)

    def priors(self, name: str) -> dict[str, Prior]:
        """Row -> prior: the baseline, the floors, and the learned one, called `name`, where it is another."""
        known = {self.baseline_name: self.baseline} | {row: floor.prior for row, floor in self.floors.items()}
        return known | ({} if name == self.baseline_name else {name: self.prior})

    @torch.no_grad()
    def draw(self, prior: LatentDensity, num: int, labels: Tensor | None = None) -> Tensor:
        """z [num, *latent] from `prior`, on the CPU; `labels`: the class of each, [num]."""
        sizes = [min(1000, num - start) for start in range(0, num, 1000)]
        context = [None] * len(sizes) if labels is None else labels.split(1000)
        return torch.cat([prior.sample(size, y).cpu() for size, y in zip(sizes, context, strict=True)])


@dataclass(frozen=True)
class ImageSubject(Subject):
    """Both stages and what they know of the images.

    Attributes:
        parts: images, preprocessing, likelihood.
        vae: trained, in evaluation mode.
    """

    parts: ImageParts
    vae: Autoencoder = field(kw_only=True)

    @property
    def nouns(self) -> Nouns:
        return IMAGES

    @property
    def kind(self) -> FigureKind:
        return self.parts.kind

    def decode(self, z: Tensor) -> Iterator[Tensor]:
        """Means of p(x|z), scaled to [0, 1], in blocks [b, C, H, W] on the CPU for z [N, *latent]."""
        return self._means(z, self.vae.decode)

    def decode_embedded(self, h: Tensor) -> Iterator[Tensor]:
        """The same for what the decoder is given of a latent, h [N, *embedded]."""
        return self._means(h, self.vae.decode_embedded)

    def _means(self, latents: Tensor, decode: Callable[[Tensor], Distribution]) -> Iterator[Tensor]:
        return decoded_means(latents, decode, self.parts.data, self.device)

    @torch.no_grad()
    def embed(self, z: Tensor) -> Tensor:
        """What the decoder is given of z [N, *latent], on the CPU: of codes, their vectors."""
        return torch.cat([self.vae.embed(block.to(self.device)).cpu() for block in z.split(1000)])


def baseline_name(spec: LatentSpec) -> str:
    """Name of the prior that latents of `spec` are compared with."""
    return "standard_normal" if spec.support is Support.REAL else "uniform"


def baseline_prior(spec: LatentSpec) -> Prior:
    """What stage 1 trained against, or would have, as a prior of stage 2."""
    return StandardNormal(spec) if spec.support is Support.REAL else Uniform(spec)


def clean_images(parts: ImageParts, images: ImageSet) -> Iterator[Tensor]:
    """Intensities without noise or binarisation in blocks [b, C, H, W] on the CPU; real ones scaled to [0, 1]."""
    low, high = pixel_range(parts.data)
    for index in torch.arange(len(images)).split(block_size(parts.data.shape)):
        x = parts.preprocess.clean(images.batch(index)).cpu()
        yield ((x - low) / (high - low)).clamp(0, 1)  # as decoded ones are


def floor_ingredients(spec: LatentSpec) -> dict[str, Any]:
    """What of the floors can change an evaluation: `floors`, row -> version; nothing for latents that have none."""
    versions = {row: cls.version for row, cls in COUNTED.items() if cls.check(spec) is None}
    return {"floors": versions} if versions else {}


def fit_floors(train: LatentDataset, val: LatentDataset, job: Job, name: str) -> dict[str, Floor]:
    """Those that suit the latents, fitted, but for the learned prior `name` itself; none for real numbers."""
    floors = {}
    for row, cls in COUNTED.items():
        if row == name or cls.check(train.spec) is not None:
            continue
        started = time.perf_counter()
        prior = cls(train.spec)
        prior.fit(train, val, job.fit_run(Tracker()))
        floors[row] = Floor(prior.to(job.device).eval(), time.perf_counter() - started)
    return floors


@torch.no_grad()
def decoded_means(
    latents: Tensor, decode: Callable[[Tensor], Distribution], data: ImageData, device: torch.device
) -> Iterator[Tensor]:
    """Means of `decode` of latents [N, ...], scaled from the pixels of `data` to [0, 1]: blocks [b, C, H, W], on the
    CPU."""
    low, high = pixel_range(data)
    for block in latents.split(block_size(data.shape)):
        mean = decode(block.to(device)).mean.cpu()
        yield ((mean - low) / (high - low)).clamp(0, 1)
