"""What is refused before any work is done."""

from pathlib import Path

from expost.base.errors import UserError
from expost.config.build import target_class
from expost.forecast.timing import length_of_stage1
from expost.job import Job
from expost.measure.bounds import check_tight_bounds
from expost.measure.feature_nets import check_feature_file, try_feature_file
from expost.measure.inference.gaps import check_gaps
from expost.parts.assembly import ImageParts, LatentParts, Parts, check_classes
from expost.parts.labels import check_clusters
from expost.stages.delivery import check_destination
from expost.stages.export import check_export
from expost.stages.samples import check_knobs
from expost.stages.score import check_score
from stage1_vae.codes.codebook import Codebook
from stage1_vae.data.latents.source import Latents
from stage1_vae.objectives.clusters import ClusterELBO

IMAGES_ONLY = {
    "vae": "stage 1 is trained on images",
    "oracle": "the oracle judges bounds on images",
}
"""Words of `stage=` that mean nothing without images, and why."""


def check_request(job: Job) -> None:
    """Look at what was asked, before anything is built.

    Raises:
        UserError: outputs that could not be written, a feature net that is not there.
    """
    if job.config.stage == "sample":
        root = job.config.data.get("root")
        are_latents = issubclass(target_class(job.config.data), Latents)
        check_destination(job.config.sample, Path(root) if isinstance(root, str) and root else None, are_latents)
    if job.config.stage == "score":
        check_score(job)
    if job.config.stage == "export":
        check_export(job.config.export)
    check_feature_file(job.config.evaluation)


def check_all(job: Job, parts: Parts) -> None:
    """Look at what was built, before any of it is trained.

    Raises:
        UserError: images that are too few for it; what this model cannot draw, or these images cannot be judged by.
    """
    word = job.config.stage
    if word == "export" and isinstance(parts, ImageParts) and not parts.data.are_pictures:
        raise UserError("stage=export writes models of images, and data=vectors has none; stage=sample writes vectors")
    check_classes(parts)
    if isinstance(parts, LatentParts):
        check_latents(job, parts)
    else:
        check_codebooks(job, parts.of_images)
        check_clusters(job, parts.of_images)
        if isinstance(objective := parts.of_images.objective, ClusterELBO):
            check_steps(job, objective, len(parts.data.train))
    if word in ("sample", "all", "check", "plan"):
        check_draws(job, parts)
    if word in ("all", "joint", "evaluate", "check", "plan"):
        check_evaluation(job, parts)


def check_steps(job: Job, objective: ClusterELBO, num_images: int) -> None:
    """Refuse, before any work, components that come too late, and what would look at losses or weights of before them.

    Raises:
        UserError: training ends before components have their place, or may end; averages would mix them with these.
    """
    if not objective.join_after:
        return
    trainer, key = job.config.trainer, f"vae.objective.join_after={objective.join_after}"
    steps, _, _ = length_of_stage1(trainer, num_images)
    if objective.join_after >= steps and job.max_images is None:
        raise UserError(
            f"{key}: training takes {steps:,} steps, so components would never be placed; lower it, or raise "
            "trainer.max_epochs"
        )
    spans = {
        "patience": "compares losses of before with those of after, and may end training before",
        "ema_decay": "averages components of before with those of after",
    }
    for name, words in spans.items():
        if (value := getattr(trainer, name)) is not None:
            raise UserError(
                f"{key} places components within training, and trainer.{name}={value} {words}; set trainer.{name}=null"
            )


def check_latents(job: Job, parts: LatentParts) -> None:
    """
    Raises:
        UserError: what needs images, an encoder or a decoder, of a job that has none.
    """
    word, settings = job.config.stage, job.config
    if word in IMAGES_ONLY:
        raise UserError(f"stage={word}: {IMAGES_ONLY[word]}, and data=latents has neither images nor an autoencoder")
    if parts.prior.needs_encoder:
        raise UserError(
            f"prior={job.prior_name} needs the images and the encoder of a VAE, and data=latents has latents alone; "
            "prior=mixture does without"
        )
    if settings.sample.noise and word == "sample":
        raise UserError("sample.noise=true draws from p(x|z), and data=latents has no decoder; leave it out")
    if settings.evaluation.annealing is not None:
        raise UserError("evaluation=tight bounds log p(x), and data=latents has no images; leave it out")
    if settings.evaluation.gaps:
        raise UserError("evaluation.gaps looks at posteriors of images, and data=latents has none; leave it out")
    if settings.evaluation.features is not None:
        raise UserError("evaluation.features looks at images, and data=latents has none; leave it out")


def check_codebooks(job: Job, parts: ImageParts) -> None:
    """
    Raises:
        UserError: more codes than all training images together have places for.
    """
    places = max((height * width for height, width in parts.vae.spec.grids), default=0)
    num = places * len(parts.data.train)
    for book in parts.vae.modules():
        if isinstance(book, Codebook) and len(book.vectors) > num and job.max_images is None:
            raise UserError(
                f"vae.bottleneck.num_codes={len(book.vectors)}: the {len(parts.data.train):,} training images have "
                f"{num:,} places in all, so some could never be used; give at most {num:,}"
            )


def check_draws(job: Job, parts: Parts) -> None:
    """
    Raises:
        UserError: samples that this model cannot draw.
    """
    if job.config.sample.prior == "base" and isinstance(parts, ImageParts) and parts.vae.base_prior is None:
        raise UserError("this autoencoder is trained against no prior; use sample.prior=learned")
    out = job.config.sample.out
    if isinstance(parts, ImageParts) and not parts.data.are_pictures and out is not None and out.suffix != ".npz":
        raise UserError(f"sample.out={out}: vectors are no pictures; give sample.out=FILE.npz")
    check_knobs(job.config.sample, parts.prior, parts.data.class_names)


def check_evaluation(job: Job, parts: Parts) -> None:
    """
    Raises:
        UserError: a feature net that does not fit the images.
        EvaluationError: bounds that these latents do not have.
    """
    if isinstance(parts, ImageParts):
        try_feature_file(job.config.evaluation, parts)
        check_tight_bounds(job, parts)
        check_gaps(job, parts)
