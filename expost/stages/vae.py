"""Stage 1: images -> VAE."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from safetensors.torch import save_file

from expost.config.build import origins
from expost.forecast.compiling import is_compiled
from expost.forecast.notice import Expectation, stage1_parts
from expost.job import Job
from expost.parts.assembly import ImageParts, Parts, join
from expost.parts.decoding import block_size
from expost.parts.labels import VERSION as LABELS_VERSION
from expost.parts.labels import lend
from expost.parts.priors import learned_node
from expost.parts.sections import all_held, as_before
from expost.parts.weights import LEARNED_WEIGHTS, weights
from expost.stages.making import Making, Stage
from expost.stages.prior import origins_of
from expost.training.devices import precision_words, resolved_precision
from stage1_vae.codes.usage import collapse
from stage1_vae.data.images import subset
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.external.autoencoder import External, calibrate
from stage1_vae.objective import Objective
from stage1_vae.training.train import AVERAGES_VERSION, TRAIN_VERSION, Settings, train
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior

CALIBRATE_VERSION, CALIBRATION_IMAGES = 1, 10_000
"""Part of the key of an autoencoder that comes from elsewhere; and images that its likelihood's scale is taken from."""


def vae_ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change a trained VAE."""
    config, preprocess, frozen = job.config, parts.of_images.preprocess, parts.of_images.frozen
    images = {
        "data": parts.data.fingerprint,
        "preprocess": {
            "binarize": preprocess.binarize,
            "dequantize": preprocess.dequantize,
            "domain": preprocess.domain.value,
            "version": Preprocess.version,
        },
    }
    if frozen is not None:  # nothing is trained: neither seeds nor trainer can change it
        return {**images, "autoencoder": frozen.ingredients, "version": CALIBRATE_VERSION}
    vae = config.own_vae
    nodes = [config.data, config.net, vae.bottleneck, vae.objective, config.likelihood]
    versions = origins(nodes) | {"train": TRAIN_VERSION}
    if (learned := learned_node(vae)) is not None:
        for part in (learned, *all_held(learned)):
            versions |= origins_of(part)
    left_out = config.trainer.NEUTRAL | config.trainer.DIVISION
    trainer = {k: v for k, v in config.trainer.model_dump().items() if k not in left_out} | config.trainer.division
    return {
        **images,
        "net": config.net,
        "vae": config.vae_node
        | {"objective": as_before(vae.objective)}
        | ({} if learned is None else {"prior": as_before(learned)}),
        "likelihood": config.likelihood,
        "trainer": {**trainer, "precision": resolved_precision(config.trainer)},
        "seed": config.seeds.vae,
        **({} if (num := config.data.get("labelled")) is None else {"labelled": [num, LABELS_VERSION]}),
        **({"placed": LABELS_VERSION} if vae.objective.get("join_after") else {}),
        **({} if config.trainer.ema_decay is None else {"averages": AVERAGES_VERSION}),
        "versions": versions,
        "limits": job.trainer_overrides,
    }


def learns(parts: Parts) -> bool:
    return next(parts.of_images.vae.parameters(), None) is not None


def train_vae(making: Making) -> Mapping[str, Any]:
    """`model.safetensors`, the prior that was learned with it, `learned.safetensors`, if any, and the figures of each
    epoch, `history.json`; of several ranks, the first writes them."""
    job, parts, folder = making.job, making.parts.of_images, making.folder
    history: list[dict[str, Any]] = []
    if parts.frozen is not None:
        calibrate_frozen(making)
    elif isinstance(parts.vae, VAE) and parts.objective is not None and learns(parts):
        size, seed = job.config.trainer.batch_size, job.config.seeds.vae
        batches = parts.batches(parts.data.train, size, job.ranks, shuffle=True, seed=seed)
        val_batches = parts.batches(parts.data.val, max(size, block_size(parts.data.shape)), job.ranks)
        fit = job.lightning_fit(making.tracker, "vae", making.tracker.states)
        if job.config.trainer.compile and not parts.objective.compiles:
            job.say("vae", f"not compiled: {type(parts.objective).__name__} may take a gradient of a gradient")
        if isinstance(parts.objective.prior, Prior):
            join(parts.objective.prior, job, parts)
            lend(job, parts)
            if remark := parts.objective.prior.said_when_joined:
                job.say("vae", remark)
        if words := parts.objective.words(parts.vae):
            job.say("vae", words)
        settings = settings_of(job, parts, parts.objective)
        with job.seeded(seed):
            history = train(parts.vae, parts.objective, batches, val_batches, settings, fit, seed)
    else:
        job.say("vae", "has no parameters: there is nothing to train")
    trained = {"model.safetensors": weights(parts.vae)}
    if parts.objective is not None and isinstance(learned := parts.objective.prior, Prior):
        learned.settle()
        trained[LEARNED_WEIGHTS] = weights(learned)
    for state in trained.values():
        job.ranks.check_equal(state)
    if job.ranks.rank == 0:
        for name, state in trained.items():
            save_file(state, folder / name)
        (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
        for note in collapse(history[-1]) if history else ():
            job.say("vae", note)
    return history[-1] if history else {}


def settings_of(job: Job, parts: ImageParts, objective: Objective) -> Settings:
    """How stage 1 is trained, with what is left to the machine decided for this one."""
    trainer = job.config.trainer
    if trainer.precision == "auto":
        job.say("vae", precision_words(job.device))
    decided = {"precision": resolved_precision(trainer), "compile": is_compiled(job, parts, objective)}
    chosen = trainer.model_dump() | decided
    return Settings(**{field.name: chosen[field.name] for field in fields(Settings)})


def calibrate_frozen(making: Making) -> None:
    """Give the likelihood of an autoencoder that comes from elsewhere its scale; what was seen, `external.json`."""
    job, parts = making.job, making.parts.of_images
    assert isinstance(parts.vae, External) and parts.frozen is not None
    images = subset(parts.data.train, CALIBRATION_IMAGES)
    with job.seeded(0):
        calibration = calibrate(
            parts.vae, parts.batches(images, block_size(parts.data.shape), seed=0), CALIBRATION_IMAGES
        )
    job.say("vae", calibration.words)
    facts = {"name": parts.frozen.loaded.name, "sha256": parts.frozen.loaded.sha256, "words": calibration.words}
    (making.folder / "external.json").write_text(json.dumps(facts), encoding="utf-8")


def expected(making: Making) -> list[Expectation]:
    return stage1_parts(making.job.config.trainer, making.parts.of_images) if learns(making.parts) else []


STAGE = Stage(
    name="vae",
    typed="vae",
    needs=lambda config, parts: (),
    ingredients=vae_ingredients,
    make=train_vae,
    expected=expected,
    in_ranks=learns,
    reads_images=True,
)
