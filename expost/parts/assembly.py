"""Everything that a configuration names, built and checked before any work is done.

What cannot fit together is found here: a likelihood that does not suit the images, a prior that does not support the
latents, more components than there are points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from expost.base.errors import UserError
from expost.config.build import build, refusing, target_class
from expost.config.limits import limited_evaluation
from expost.config.schema import Config, VAEParts
from expost.job import Job
from expost.parts.priors import beside_constants, build_prior, learned_node, make_prior
from expost.parts.reduced import few_latents, shortened, truncated
from expost.parts.sections import without
from expost.training.progress import clock
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import Data, DataError, Domain, ImageData, ImageSet
from stage1_vae.data.latents.data import LatentData
from stage1_vae.data.loader import Batches, Part
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.latents import LatentSpec, Support
from stage1_vae.latents.asked import num_asked, spread_over
from stage1_vae.likelihoods import FLOAT_LEVELS, FigureKind, GaussianLikelihood, Likelihood, Pixels, figure_kind
from stage1_vae.objective import Objective
from stage1_vae.ranks import ALONE, Ranks
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior
from stage2_prior.wrappers.varying import Varying

if TYPE_CHECKING:
    from stage1_vae.data.given.data import Given
    from stage1_vae.external.autoencoder import External
    from stage1_vae.external.source import ExternalSource, Loaded

PREPROCESSING = ("binarize", "dequantize", "labelled")
"""Keys of `data:` that are not its source's."""


@dataclass(frozen=True)
class Parts:
    """What the stages work with.

    Attributes:
        data: what was read.
        spec: what one latent is.
        prior: unfitted.
        device: where both stages compute.
        given: what is scored; None: nothing.
    """

    data: Data
    spec: LatentSpec
    prior: Prior
    device: torch.device
    given: "Given | None" = field(default=None, kw_only=True)

    @property
    def of_images(self) -> "ImageParts":
        """The same, of a job that has images.

        Raises:
            TypeError: it has none.
        """
        raise TypeError(f"{self.data.name} holds no images")


@dataclass(frozen=True)
class Frozen:
    """Where an autoencoder comes from that somebody else has trained, what it is, and how it was taken, in words."""

    source: "ExternalSource"
    loaded: "Loaded"
    said: tuple[str, ...] = ()

    @property
    def ingredients(self) -> dict[str, Any]:
        """Everything of it that can change latents or images; JSON."""
        return self.source.ingredients(self.loaded)

    @property
    def handed_over(self) -> Any:
        """What a user has in hand of it: the model, of diffusers without what is folded in."""
        model = self.loaded.model
        return model.net if self.is_folded else model

    @property
    def is_folded(self) -> bool:
        """Whether it is of diffusers, with its scale and shift folded in."""
        from stage1_vae.external.pretrained import Folded

        return isinstance(self.loaded.model, Folded)

    @property
    def reference(self) -> dict[str, Any]:
        """What names it in an export; JSON, of `expost.export.config.Reference`."""
        called = {
            key: self.ingredients[key] for key in ("range", "multiple", "channels", "second", "num_codes", "precision")
        }
        known = {"name": self.loaded.name, "weights_sha256": self.loaded.weights_sha256}
        return {**known, "folded": self.is_folded, **called}


@dataclass(frozen=True)
class LatentParts(Parts):
    """Of a job whose latents somebody else has encoded: no stage 1, no images, no decoder."""

    data: LatentData

    def beside_constants(self, prior_of: Callable[[LatentSpec], Prior]) -> Prior:
        """A prior of these latents; of what varies of them, with the rest beside it."""
        return beside_constants(prior_of, self.spec, self.data.fixed, self.data.dependent)


@dataclass(frozen=True)
class ImageParts(Parts):
    """Of a job that has images.

    Attributes:
        data, preprocess: images, and how they become x.
        vae: untrained, with the weights that `seeds.vae` gives.
        objective: what stage 1 minimises.
        kind: what figures of the likelihood on these images mean.
        num_workers: processes that read images.
        frozen: where an autoencoder that is not trained here comes from; then there is no objective.
    """

    data: ImageData
    preprocess: Preprocess
    vae: Autoencoder
    objective: Objective | None
    kind: FigureKind
    num_workers: int
    frozen: Frozen | None = None

    @property
    def of_images(self) -> "ImageParts":
        return self

    @property
    def num_pixels(self) -> int:
        """Pixels and channels of an image."""
        return math.prod(self.data.shape)

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


def assemble(job: Job, given: Data | None = None) -> tuple[Job, Parts]:
    """Build everything that the configuration of `job` names; the job, with what was left to the data decided.

    With `given`, these images or latents take the place of those that the configuration names.

    Raises:
        UserError: whatever does not fit together, in one line.
    """
    data = given or read_data(job)
    if isinstance(data, ImageData):
        return assemble_images(job, data)
    if isinstance(data, LatentData):
        return assemble_latents(job, data)
    raise UserError(f"data: {type(data).__name__} holds neither images nor latents; choose another data=NAME")


def assemble_images(job: Job, data: ImageData) -> tuple[Job, ImageParts]:
    """Both stages."""
    preprocess = build_preprocess(job.config, data)
    likelihood = build_likelihood(job.config, data, preprocess)
    vae: Autoencoder
    objective, frozen = None, None
    if isinstance(job.config.vae, VAEParts):
        vae, objective = build_vae(job, data, likelihood)
        objective.prior = build_learned(job, data, vae, objective)
    else:
        vae, frozen = load_vae(job, data, preprocess)
        if not isinstance(likelihood, (GaussianLikelihood, type(vae.likelihood))):
            raise UserError(
                f"likelihood: {type(likelihood).__name__} is not that of an autoencoder that comes trained: its "
                "decoder brings its own or gets a Gaussian one; set likelihood=gaussian"
            )
        likelihood = vae.likelihood
    job, prior = fit_to_latents(job, vae.spec, vae.family, len(data.train))
    data = data if job.max_images is None else truncated(data, job.max_images, prior)
    raw_levels = preprocess.levels if preprocess.dequantize else preprocess.num_levels
    parts = ImageParts(
        data=data,
        spec=vae.spec,
        prior=prior,
        device=job.device,
        preprocess=preprocess,
        vae=vae,
        objective=objective,
        kind=figure_kind(likelihood, raw_levels, preprocess.dequantize),
        num_workers=job.config.trainer.num_workers,
        frozen=frozen,
    )
    return job, parts


def assemble_latents(job: Job, data: LatentData) -> tuple[Job, LatentParts]:
    """Stage 2 alone, of what varies of the latents by itself."""
    if data.fixed or data.dependent:
        varying = {"_target_": f"{Varying.__module__}.{Varying.__qualname__}", "fixed": list(data.fixed)}
        if data.dependent:  # without, the section is as it was before there were such, and so are keys
            varying["dependent"] = list(data.dependent)
        wrap = [
            wrapper for wrapper in job.config.prior.get("wrap") or () if wrapper != varying
        ]  # of a rank it is there
        node = job.config.prior | {"wrap": [*wrap, varying]}
        job = replace(job, config=job.config.model_copy(update={"prior": node}))
    job, prior = fit_to_latents(job, data.spec, data.train.family, len(data.train))
    data = data if job.max_images is None else few_latents(data, job.max_images, prior)
    return job, LatentParts(data, data.spec, prior, job.device)


def check_classes(parts: Parts) -> None:
    """
    Raises:
        UserError: a class has too few images for the prior that is fitted to it alone.
    """
    labels, least = parts.data.train.labels, parts.prior.min_images_a_class
    if labels is None or least == 0:
        return
    counts = torch.bincount(labels.cpu(), minlength=parts.prior.num_classes)
    y = int(counts.argmin())
    if counts[y] < least:
        raise UserError(
            f"class {parts.data.class_names[y]} has {counts[y]} training images and needs at least "
            f"{least} for a prior of its own; set prior.conditional=false, lower "
            "prior.num_components, or give more images"
        )


def fit_to_latents(job: Job, spec: LatentSpec, family: str, num: int) -> tuple[Job, Prior]:
    """The job with sections that suit `num` latents of `spec` for training, and its prior, unfitted.

    Raises:
        UserError: as for `build_prior`.
        PriorError: it has no density where posteriors are of this `family`.
    """
    job = shortened(job, spec)
    prior, node = build_prior(job, spec, num, family)
    if not prior.needs_encoder:  # latents alone have none, which is said whatever their family
        prior.check_family(family)
    evaluation = limited_evaluation(job.config.evaluation, spec, prior.passes, job.config.limits)
    return replace(job, config=job.config.model_copy(update={"prior": node, "evaluation": evaluation})), prior


def build_preprocess(config: Config, data: ImageData) -> Preprocess:
    """How raw images become x; `dequantize: auto` suits the likelihood.

    Raises:
        UserError: what cannot be done to these images.
    """
    levels = data.levels
    binarize, dequantize = config.data.get("binarize", "none"), config.data.get("dequantize", "auto")
    if dequantize == "auto":
        likelihood_class = target_class(config.likelihood)
        wants = issubclass(likelihood_class, Likelihood) and likelihood_class.pixels is Pixels.CONTINUOUS
        dequantize = wants and levels is not None and binarize == "none"
    try:
        return Preprocess(levels, data.domain, binarize, dequantize)
    except DataError as error:
        raise UserError(str(error)) from error


def read_data(job: Job) -> Data:
    """The images or latents that the configuration names.

    Raises:
        UserError: they are not there, or not as they should be.
    """
    source = build("data", without(job.config.data, PREPROCESSING))
    try:
        with clock("reading the data", job.shows_progress):
            return source.load()
    except DataError as error:
        raise UserError(str(error)) from error


def read_given(job: Job, parts: Parts) -> Parts:
    """The same parts with the images or latents of `score.root`, read as those of the run were.

    Raises:
        UserError: they are not there, or not such as this run can score.
    """
    from stage1_vae.data.given.images import read_given_images  # few jobs score, and readers are slow to import
    from stage1_vae.data.given.latents import read_given_latents
    from stage1_vae.data.latents.source import Latents

    source, root = build("data", without(job.config.data, PREPROCESSING)), str(job.config.score.root)
    try:
        with clock("reading what is scored", job.shows_progress):
            if isinstance(parts, ImageParts):
                return replace(parts, given=read_given_images(source, root, parts.data))
            assert isinstance(parts, LatentParts) and isinstance(source, Latents)
            return replace(parts, given=read_given_latents(source, root, parts.data))
    except DataError as error:
        raise UserError(str(error)) from error


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


def load_vae(job: Job, data: ImageData, preprocess: Preprocess) -> tuple["External", Frozen]:
    """An autoencoder that somebody else has trained, looked at on a few images.

    Raises:
        ExternalError: it cannot be loaded, or cannot be stage 1.
    """
    from stage1_vae.external.source import ExternalSource  # most jobs train their own

    source = build("vae", job.config.vae_node)
    if not isinstance(source, ExternalSource):
        raise UserError(f"vae._target_={job.config.vae_node['_target_']}: it loads no autoencoder; use vae=module")
    loaded = source.load()
    rows = spread_over(len(data.train), num_asked(math.prod(data.shape)))
    x = preprocess(data.train.batch(rows), torch.Generator().manual_seed(0))
    levels = preprocess.levels if preprocess.dequantize else None
    with job.seeded(0):
        vae = source.autoencoder(loaded, x, data.num_classes, levels).to(job.device)
    said = (*loaded.said, vae.said, vae.asked, *vae.guesses)
    for words in said:
        job.say("vae", words)
    return vae, Frozen(source, loaded, said)


def build_vae(job: Job, data: ImageData, likelihood: Likelihood) -> tuple[VAE, Objective]:
    """Stage 1 with fresh weights, and what it minimises."""
    config = job.config
    objective = build("vae.objective", config.own_vae.objective)
    net = build("net", config.net)

    def bottleneck(**injected: Any) -> Any:
        return build("vae.bottleneck", config.own_vae.bottleneck, **injected, num_classes=data.num_classes)

    with job.seeded(config.seeds.vae), refusing("net"):
        vae = VAE(data.shape, net, bottleneck, likelihood)
    if objective.needs_prior and vae.base_prior is None:
        name = type(vae.bottleneck).__name__
        raise UserError(f"{type(objective).__name__} needs a posterior with noise, {name} has none; use vae=delta")
    if (reason := objective.check(vae.spec) or objective.check_family(vae.family)) is not None:
        raise UserError(reason)
    return vae.to(job.device), objective


def build_learned(job: Job, data: ImageData, vae: VAE, objective: Objective) -> Prior | None:
    """The prior that is to be learned with `vae`, as it begins; None: none is.

    Raises:
        UserError: it cannot be, or `objective` knows no prior.
    """
    if (node := learned_node(job.config.own_vae)) is None:
        return None
    refuse_space(vae.spec, "vae.prior")
    prior = make_prior(node, vae.spec, len(data.train), job.config.seeds.vae, job.device, "vae.prior")
    refuse_learned(prior, target_class(node).__name__, objective, vae, "vae.prior")
    if job.config.trainer.strategy == "fsdp" and job.config.trainer.num_ranks > 1:
        raise UserError("trainer.strategy=fsdp cuts up no prior that is learned with the VAE; use trainer.strategy=ddp")
    return prior


def refuse_space(spec: LatentSpec, key: str) -> None:
    """
    Raises:
        UserError: no prior of latents of `spec`, the section `key`, is learned with a VAE.
    """
    if spec.support not in (Support.REAL, Support.BITS):
        raise UserError(
            f"{key}: priors are learned with VAEs of real numbers or bits, and these latents are "
            f"{spec.support.value}; fit one afterwards, as prior=NAME stage=all does"
        )


def refuse_learned(prior: Prior, name: str, objective: Objective, vae: VAE, key: str) -> None:
    """
    Raises:
        UserError: the prior of the class `name`, the section `key`, cannot be learned with `vae` on `objective`.
    """
    if not objective.needs_prior:
        raise UserError(
            f"vae.objective: {type(objective).__name__} trains against no prior, so none is learned with it; use "
            "vae=gaussian, whose ELBO does"
        )
    refuse_space(vae.spec, key)
    if not prior.learns_jointly:
        able = "mixture, realnvp or autoregressive" if vae.spec.support is Support.REAL else "rbm"
        raise UserError(f"{key}: {name} is not trained by the gradient of a VAE; take one that is, such as {able}")
    norms = any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in vae.encoder.modules())
    if prior.needs_encoder and norms:
        raise UserError(
            f"{key}: the encoder normalises by the images of a batch, among which pseudo-inputs would count; set "
            "net.batch_norm=false"
        )
    if prior.needs_encoder and vae.bottleneck.follows_batches:
        raise UserError(
            f"{key}: the moments of q(z) follow the images of a batch, among which pseudo-inputs would count; use "
            "vae=gaussian"
        )
    if (reason := objective.check_learned(vae.spec)) is not None:
        raise UserError(reason)


def join(prior: Prior, job: Job, parts: ImageParts) -> None:
    """Let `prior` learn with the VAE from now on."""
    seed, device, data, preprocess = job.config.seeds.vae, job.device, parts.data, parts.preprocess

    def images(num: int) -> torch.Tensor:
        rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:num].sort().values
        return preprocess(data.train.batch(rows).to(device), torch.Generator(device).manual_seed(seed))

    with job.seeded(seed):
        prior.join(partial(posterior_of, parts.vae), images)


def posterior_of(vae: Autoencoder, x: torch.Tensor) -> torch.distributions.Distribution:
    """q(z|x) of images [B, C, H, W]."""
    return vae.encode(x).posterior
