"""The judge: figures and pictures of the baseline prior and of the learned one, side by side."""

import json
from collections.abc import Mapping
from typing import Any

from expost.config.limits import affordable_draws
from expost.config.schema import Config
from expost.evaluation.images import class_accuracy
from expost.evaluation.latents import clusters
from expost.forecast.latents import latent_evaluation_parts
from expost.forecast.notice import Expectation, evaluation_parts
from expost.job import Job
from expost.measure.evaluate import measure, measure_ingredients, trained_stages
from expost.measure.feature_nets import Nets
from expost.measure.inference.gaps import GAPS_VERSION
from expost.measure.latent_evaluation import latent_ingredients, latent_subject, measure_latents
from expost.parts.assembly import ImageParts, LatentParts, Parts
from expost.parts.identity import CIRCUMSTANCES, circumstances
from expost.parts.weights import histories
from expost.stages.making import Making, Stage
from expost.training.tracking import with_one_name
from stage1_vae.data.splits import SPLITS
from stage1_vae.objectives.clusters import ClusterELBO


def needs(config: Config, parts: Parts) -> tuple[str, ...]:
    """Samples of classes are shown to a classifier: to the features' net, where that is the data set's own."""
    if isinstance(parts, LatentParts):
        return "latents", "prior"
    classifier = bool(parts.prior.num_classes) and config.evaluation.features is not None
    return "vae", "latents", "prior", "features", *["classifier"] * classifier


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change a figure, and what the learned prior is called in them."""
    num_samples = job.config.evaluation.num_samples
    decodes = isinstance(parts, ImageParts)
    draws = affordable_draws(job.config.evaluation, parts.prior.passes, decodes)
    unseen = {"features", "features_sha256", *([] if job.config.evaluation.gaps else ["gaps"])}
    if isinstance(parts, LatentParts):
        measured, judge = {name: keys[name] for name in ("latents", "prior")}, {}
        versions = latent_ingredients(parts.spec, num_samples)
    else:
        measured = {name: keys[name] for name in ("vae", "latents", "prior", "features")}
        judge = {"judge": keys.get("classifier", keys["features"])}
        versions = measure_ingredients(parts, num_samples)
    return {
        **measured,
        **({**judge, "classes": class_accuracy.VERSION} if parts.prior.num_classes else {}),
        **({"clusters": clusters.VERSION} if finds_clusters(parts) else {}),
        "name": job.prior_name,
        "evaluation": job.config.evaluation.model_dump(exclude=unseen),  # features by their key
        "seed": job.config.seeds.sample,
        **versions,
        **({"gaps": GAPS_VERSION} if job.config.evaluation.gaps else {}),
        **({"draws": draws} if draws < job.config.evaluation.importance_samples else {}),
    }


def finds_clusters(parts: Parts) -> bool:
    """Whether the VAE was trained to, or latents may be in no component, which once counted as the first; any other
    mixture is measured so too, but its key is that of before."""
    if isinstance(parts, LatentParts):
        return bool(parts.data.fixed and parts.data.num_classes and parts.prior.num_clusters)
    return isinstance(parts, ImageParts) and isinstance(parts.objective, ClusterELBO)


def evaluate_priors(making: Making) -> Mapping[str, Any]:
    """`figures.json`, the pictures, and the circumstances in which they were made."""
    job, parts, inputs = making.job, making.parts, making.inputs
    (making.folder / CIRCUMSTANCES).write_text(json.dumps(circumstances()), encoding="utf-8")
    latents = [making.latents(split) for split in SPLITS]
    recorded = histories(inputs.get("vae"), inputs["prior"])
    if isinstance(parts, LatentParts):
        with job.seeded(job.config.seeds.sample):
            subject = latent_subject(job, parts, making.prior, latents)
            figures = measure_latents(job, subject, recorded, making.folder, making.tracker).named_figures()
        return with_one_name(figures, job.prior_name)
    nets = Nets(inputs["features"], inputs.get("classifier", inputs["features"]) if parts.prior.num_classes else None)
    with job.seeded(job.config.seeds.sample):
        trained = trained_stages(job, parts.of_images, making.vae, making.prior, latents)
        figures = measure(job, trained, nets, recorded, making.folder, making.tracker)
    return with_one_name(figures, job.prior_name)


def expected(making: Making) -> list[Expectation]:
    settings = making.job.config.evaluation
    if isinstance(making.parts, LatentParts):
        train, test = making.latents("train"), making.latents("test")
        return latent_evaluation_parts(settings, making.prior, train, test, making.job.device)
    parts = making.parts.of_images
    return evaluation_parts(settings, parts, making.vae, making.prior, making.latents("train"))


STAGE = Stage(
    name="evaluation",
    typed="evaluate",
    needs=needs,
    ingredients=ingredients,
    make=evaluate_priors,
    expected=expected,
    reads_images=True,
)
