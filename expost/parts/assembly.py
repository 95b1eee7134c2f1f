"""Everything that a configuration names, built and checked before any work is done.

What cannot fit together is found here: a likelihood that does not suit the images, a prior that does not support the
latents, more components than there are points.
"""

from dataclasses import dataclass
from typing import Any

from expost.base.errors import UserError
from expost.config.build import build, origins, refusing, target_class
from expost.config.limits import limited_evaluation
from expost.config.schema import Config
from expost.job import Run
from expost.parts.priors import build_prior, without
from expost.parts.reduced import shorten, truncated
from expost.training.devices import resolved_precision
from expost.training.progress import clock
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet
from stage1_vae.data.loader import Batches, Part
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.likelihoods import FLOAT_LEVELS, FigureKind, Likelihood, Pixels, figure_kind
from stage1_vae.objective import Objective
from stage1_vae.training.train import TRAIN_VERSION
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
    """

    data: ImageData
    preprocess: Preprocess
    vae: VAE
    objective: Objective
    prior: Prior
    kind: FigureKind

    def batches(
        self,
        images: ImageSet,
        batch_size: int,
        run: Run,
        shuffle: bool = False,
        seed: int = 0,
        whole_batches: bool = False,
    ) -> Batches:
        """Batches of one split on the run's device, or a rank's part of them (see `stage1_vae.data.loader.Part`)."""
        return Batches(
            images,
            self.preprocess,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            device=run.device,
            num_workers=run.config.trainer.num_workers,
            part=Part(run.ranks.rank, run.ranks.world, whole_batches),
        )


def assemble(run: Run, given: ImageData | None = None) -> Parts:
    """Build everything that the configuration of `run` names.

    With `given`, these images take the place of those that the configuration names.

    Raises:
        UserError: whatever does not fit together, in one line.
    """
    config = run.config
    try:
        data = given or read_images(run)
        run.check_images = data.check_unchanged
        levels = data.levels
        binarize, dequantize = config.data.get("binarize", "none"), config.data.get("dequantize", "auto")
        if dequantize == "auto":
            likelihood_class = target_class(config.likelihood)
            wants = issubclass(likelihood_class, Likelihood) and likelihood_class.pixels is Pixels.CONTINUOUS
            dequantize = wants and levels is not None and binarize == "none"
        preprocess = Preprocess(levels, data.domain, binarize, dequantize)
    except DataError as error:
        raise UserError(str(error)) from error
    likelihood = build_likelihood(config, data, preprocess)
    vae, objective = build_vae(run, data, likelihood)
    shorten(run, vae.spec)
    prior, prior_node = build_prior(run, vae.spec, len(data.train))
    evaluation = limited_evaluation(config.evaluation, vae.spec, prior.passes, run.config.limits)
    run.config = run.config.model_copy(update={"prior": prior_node, "evaluation": evaluation})
    data = data if run.max_images is None else truncated(data, run.max_images, prior)
    raw_levels = preprocess.levels if preprocess.dequantize else preprocess.num_levels
    return Parts(data, preprocess, vae, objective, prior, figure_kind(likelihood, raw_levels, preprocess.dequantize))


def read_images(run: Run) -> ImageData:
    """The images that the configuration names.

    Raises:
        UserError, DataError: they are not there, or not as they should be.
    """
    source = build("data", without(run.config.data, PREPROCESSING))
    with clock("reading the images", run.shows_progress):
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


def build_vae(run: Run, data: ImageData, likelihood: Likelihood) -> tuple[VAE, Objective]:
    """Stage 1 with fresh weights, and what it minimises."""
    config = run.config
    objective = build("vae.objective", config.vae.objective)
    net = build("net", config.net)

    def bottleneck(**injected: Any) -> Any:
        return build("vae.bottleneck", config.vae.bottleneck, **injected, num_classes=data.num_classes)

    with run.seeded(config.seeds.vae), refusing("net"):
        vae = VAE(data.shape, net, bottleneck, likelihood)
    if objective.needs_prior and vae.bottleneck.base_prior is None:
        name = type(vae.bottleneck).__name__
        raise UserError(f"{type(objective).__name__} needs a posterior with noise, {name} has none; use vae=delta")
    if (reason := objective.check(vae.spec)) is not None:
        raise UserError(reason)
    return vae.to(run.device), objective


def vae_ingredients(run: Run, parts: Parts) -> dict[str, Any]:
    """Everything that can change a trained VAE."""
    config = run.config
    nodes = [config.data, config.net, config.vae.bottleneck, config.vae.objective, config.likelihood]
    left_out = config.trainer.NEUTRAL | config.trainer.SPREAD
    trainer = {k: v for k, v in config.trainer.model_dump().items() if k not in left_out} | config.trainer.spread
    return {
        "data": parts.data.fingerprint,
        "preprocess": {
            "binarize": parts.preprocess.binarize,
            "dequantize": parts.preprocess.dequantize,
            "domain": parts.preprocess.domain.value,
            "version": Preprocess.version,
        },
        "net": config.net,
        "vae": config.vae.model_dump(),
        "likelihood": config.likelihood,
        "trainer": {**trainer, "precision": resolved_precision(config.trainer)},
        "seed": config.seeds.vae,
        "versions": origins(nodes) | {"train": TRAIN_VERSION},
        "limits": run.trainer_overrides,
    }
