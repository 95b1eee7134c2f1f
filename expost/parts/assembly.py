"""Everything that a configuration names, built and checked before any work is done.

What cannot fit together is found here: a likelihood that does not suit the images, a prior that does not support the
latents, more components than there are points.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from expost.base.errors import UserError
from expost.config.build import build, refusing, target_class
from expost.config.limits import limited_evaluation
from expost.config.schema import Config
from expost.job import Job
from expost.parts.priors import build_prior, without
from expost.parts.reduced import shortened, truncated
from expost.training.progress import clock
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet
from stage1_vae.data.loader import Batches, Part
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.likelihoods import FLOAT_LEVELS, FigureKind, Likelihood, Pixels, figure_kind
from stage1_vae.objective import Objective
from stage1_vae.ranks import ALONE, Ranks
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior

PREPROCESSING = ("binarize", "dequantize")


@dataclass(frozen=True)
class Parts:
    """What the stages work with.

    Attributes:
        data, preprocess: images, and how they become x.
        vae: untrained, with the weights that `seeds.vae` gives.
        objective: what stage 1 minimises.
        prior: unfitted.
        kind: what figures of the likelihood on these images mean.
        device: where both stages compute.
        num_workers: processes that read images.
    """

    data: ImageData
    preprocess: Preprocess
    vae: VAE
    objective: Objective
    prior: Prior
    kind: FigureKind
    device: torch.device
    num_workers: int

    def batches(
        self,
        images: ImageSet,
        batch_size: int,
        ranks: Ranks = ALONE,
        shuffle: bool = False,
        seed: int = 0,
        whole_batches: bool = False,
    ) -> Batches:
        """Batches of one split on the job's device, or a rank's part of them (see `stage1_vae.data.loader.Part`)."""
        return Batches(
            images,
            self.preprocess,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            device=self.device,
            num_workers=self.num_workers,
            part=Part(ranks.rank, ranks.world, whole_batches),
        )


def assemble(job: Job, given: ImageData | None = None) -> tuple[Job, Parts]:
    """Build everything that the configuration of `job` names; the job, with what was left to the data decided.

    With `given`, these images take the place of those that the configuration names.

    Raises:
        UserError: whatever does not fit together, in one line.
    """
    try:
        data = given or read_images(job)
        preprocess = build_preprocess(job.config, data)
    except DataError as error:
        raise UserError(str(error)) from error
    likelihood = build_likelihood(job.config, data, preprocess)
    vae, objective = build_vae(job, data, likelihood)
    job = shortened(job, vae.spec)
    prior, node = build_prior(job, vae.spec, len(data.train))
    evaluation = limited_evaluation(job.config.evaluation, vae.spec, prior.passes, job.config.limits)
    job = replace(job, config=job.config.model_copy(update={"prior": node, "evaluation": evaluation}))
    data = data if job.max_images is None else truncated(data, job.max_images, prior)
    raw_levels = preprocess.levels if preprocess.dequantize else preprocess.num_levels
    kind = figure_kind(likelihood, raw_levels, preprocess.dequantize)
    return job, Parts(data, preprocess, vae, objective, prior, kind, job.device, job.config.trainer.num_workers)


def build_preprocess(config: Config, data: ImageData) -> Preprocess:
    """How raw images become x; `dequantize: auto` suits the likelihood.

    Raises:
        DataError: what cannot be done to these images.
    """
    levels = data.levels
    binarize, dequantize = config.data.get("binarize", "none"), config.data.get("dequantize", "auto")
    if dequantize == "auto":
        likelihood_class = target_class(config.likelihood)
        wants = issubclass(likelihood_class, Likelihood) and likelihood_class.pixels is Pixels.CONTINUOUS
        dequantize = wants and levels is not None and binarize == "none"
    return Preprocess(levels, data.domain, binarize, dequantize)


def read_images(job: Job) -> ImageData:
    """The images that the configuration names.

    Raises:
        UserError, DataError: they are not there, or not as they should be.
    """
    source = build("data", without(job.config.data, PREPROCESSING))
    with clock("reading the images", job.shows_progress):
        return source.load()


def build_likelihood(config: Config, data: ImageData, preprocess: Preprocess) -> Likelihood:
    """The likelihood, told the images' levels if it asks for them.

    Raises:
        UserError: it cannot describe these images.
    """
    cls = target_class(config.likelihood)
    if cls.unit_domain and data.domain is Domain.REAL:
        raise UserError(f"{cls.__name__} needs pixels in [0, 1], {data.name} has real ones; use likelihood=gaussian")
    if cls.pixels is not Pixels.LEVELS:
        return build("likelihood", config.likelihood)
    return build("likelihood", config.likelihood, levels=preprocess.num_levels or FLOAT_LEVELS)


def build_vae(job: Job, data: ImageData, likelihood: Likelihood) -> tuple[VAE, Objective]:
    """Stage 1 with fresh weights, and what it minimises."""
    config = job.config
    objective = build("vae.objective", config.vae.objective)
    net = build("net", config.net)

    def bottleneck(**injected: Any) -> Any:
        return build("vae.bottleneck", config.vae.bottleneck, **injected, num_classes=data.num_classes)

    with job.seeded(config.seeds.vae), refusing("net"):
        vae = VAE(data.shape, net, bottleneck, likelihood)
    if objective.needs_prior and vae.base_prior is None:
        name = type(vae.bottleneck).__name__
        raise UserError(f"{type(objective).__name__} needs a posterior with noise, {name} has none; use vae=delta")
    if (reason := objective.check(vae.spec)) is not None:
        raise UserError(reason)
    return vae.to(job.device), objective
