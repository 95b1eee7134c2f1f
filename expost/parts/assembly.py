"""Everything that a configuration names, built and checked before any work is done.

What cannot fit together is found here: a likelihood that does not suit the images, a prior that does not support the
latents, more components than there are points.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import OmegaConf

from expost.base.command import Launch
from expost.base.errors import UserError, nearest
from expost.base.places import CONF
from expost.config.build import build, construct, origins, refusing, target_class
from expost.config.limits import limited_evaluation, limited_prior
from expost.config.schema import Config, Node
from expost.job import Run
from expost.parts.priors import suited
from expost.parts.reduced import shorten, truncated
from expost.training.devices import has_native_bf16, resolved_precision
from expost.training.progress import clock
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet
from stage1_vae.data.loader import Batches, Part
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.latents import LatentSpec
from stage1_vae.likelihoods import FLOAT_LEVELS, FigureKind, Likelihood, Pixels, figure_kind
from stage1_vae.objective import Objective
from stage1_vae.training.train import TRAIN_VERSION
from stage1_vae.vae import VAE
from stage2_prior.fit_settings import FIT_VERSION, FitSettings
from stage2_prior.labels import LABELS_VERSION
from stage2_prior.prior import GradientPrior, Prior
from stage2_prior.wrappers.per_class import PerClass
from stage2_prior.wrappers.standardize import Standardized

PREPROCESSING = ("binarize", "dequantize")
WRAPPERS = {"standardize": Standardized}


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
    prior = build_prior(run, vae.spec, len(data.train))
    evaluation = limited_evaluation(config.evaluation, vae.spec, prior.passes, run.config.limits)
    run.config = run.config.model_copy(update={"evaluation": evaluation})
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


def without(node: Node, keys: tuple[str, ...]) -> Node:
    return {key: value for key, value in node.items() if key not in keys}


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


def build_prior(run: Run, spec: LatentSpec, num_images: int) -> Prior:
    """Stage 2, unfitted, in its wrappers; `run.config` then says which one `prior.otherwise` left to the latents.

    Raises:
        UserError: it does not support the latents (with those that do), or needs more points than there are.
    """
    offered = prior_nodes()
    node = suited(run.config.prior, spec, offered, run.launch)
    cls = target_class(node)
    if cls is not target_class(run.config.prior):
        run.say("prior", f"{run.config.prior['otherwise']}, for these latents are {spec.words}")
    if node.get("fit") is not None and not isinstance(node["fit"], Mapping):
        raise UserError(f"prior.fit={node['fit']}: it is a section; set its keys, such as prior.fit.max_epochs=10")
    a_class = bool(node.get("conditional")) and not takes_labels(cls)
    node = limited_prior(node, spec, num_images, run.config.limits, a_class)
    run.config = run.config.model_copy(update={"prior": node})
    if (reason := cls.check(spec)) is not None:
        best = {name: suited(other, spec, offered, Launch()) for name, other in offered.items()}
        able = [name for name, other in best.items() if target_class(other).check(spec) is None]
        raise UserError(f"{reason}; priors that do: {', '.join(able) or 'none'}")
    learns = issubclass(cls, GradientPrior)
    if learns:
        construct("prior.fit", FitSettings, node.get("fit") or {})  # refused here, not after stage 1 was trained
    with run.seeded(run.config.seeds.prior):
        prior = build("prior", constructor_node(node), spec=spec)
    if prior.min_images > num_images:
        raise UserError(
            f"{cls.__name__} needs at least {prior.min_images} training images and there are {num_images}; "
            "lower prior.num_components or give more images"
        )
    for wrapper in wrappers_of(node, spec):
        prior = wrapper(prior)
    return prior.to(run.device)


def constructor_node(node: Node) -> Node:
    """What of a prior's section its constructor takes."""
    cls = target_class(node)
    others = ["fit"] * issubclass(cls, GradientPrior) + ["conditional"] * (not takes_labels(cls))
    return without(node, ("wrap", "otherwise", *others))


def takes_labels(cls: type) -> bool:
    """Whether a prior has its own way with classes; the others are fitted once a class."""
    return "conditional" in inspect.signature(cls).parameters


def wrappers_of(node: Node, spec: LatentSpec) -> list[type[Standardized] | type[PerClass]]:
    """What stands around a prior of latents of `spec`, the innermost first.

    Raises:
        UserError: no such wrapper, one that needs labels where there are none, or no answer to whether labels count.
    """
    wrappers: list[type[Standardized] | type[PerClass]] = []
    if not isinstance(conditional := node.get("conditional", False), bool):
        raise UserError(f"prior.conditional={conditional}: give true or false")
    if conditional and not takes_labels(target_class(node)):
        if (reason := PerClass.check(spec)) is not None:
            raise UserError(reason)
        wrappers.append(PerClass)
    for name in listed("prior.wrap", node.get("wrap")):
        if name not in WRAPPERS:
            raise UserError(f"prior.wrap={name}: no such wrapper; {nearest(name, WRAPPERS)}")
        if WRAPPERS[name].check(spec) is None:  # codes have no scale; one file suits them and real numbers
            wrappers.append(WRAPPERS[name])
    return wrappers


def listed(key: str, value: Any) -> list[str]:
    """A list of names; None is the empty one.

    Raises:
        UserError: `value` is something else.
    """
    if value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        return value or []
    raise UserError(f"{key}={value}: give a list of names, such as {key}=[{next(iter(WRAPPERS))}]")


def prior_nodes() -> dict[str, Node]:
    """All priors that `conf/prior/` offers, by name."""
    files = sorted(CONF.glob("prior/*.yaml"))
    return {path.stem: cast(Node, OmegaConf.to_container(OmegaConf.load(path))) for path in files}


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


def prior_ingredients(run: Run, prior: Prior, latents_key: str) -> dict[str, Any]:
    """Everything that can change a fitted prior."""
    ranks = run.config.trainer.num_ranks if prior.fits_in_ranks else 1
    node = run.config.prior
    wrappers = {name: WRAPPERS[name].version for name in node.get("wrap") or []}
    if not node.get("conditional"):
        node = without(node, ("conditional", "label_dropout"))
    elif not takes_labels(target_class(node)):
        wrappers["per_class"] = PerClass.version
    else:
        wrappers["labels"] = LABELS_VERSION
    return {
        "latents": latents_key,
        "prior": node | ({"fit": resolved_fit(run)} if "fit" in node else {}),
        "seed": run.config.seeds.prior,
        "versions": {**origins([node]), **wrappers, "fit": FIT_VERSION},
    } | ({"ranks": ranks} if ranks > 1 else {})


def resolved_fit(run: Run) -> Node:
    """The `fit:` section of the prior with `precision: auto` decided for this machine."""
    settings = dict(run.config.prior.get("fit") or {})
    if settings.get("precision") == "auto":
        settings["precision"] = "bf16-mixed" if has_native_bf16(run.device) else "32-true"
    return settings
