"""Expost: train a VAE, encode the training set, fit a prior to what was encoded, and see what that bought.

This file reads top to bottom as the pipeline runs: `train_vae`, `encode_images`, `fit_prior`, `evaluate_priors`, then
`draw_samples`, `export_model` and `write_report`. Each stage is an artifact in the store, found there or made once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from expost.base.command import Launch
from expost.base.errors import UserError
from expost.config.schema import Config
from expost.forecast.notice import encode_parts, evaluation_parts, foretell, prior_parts, sample_parts, stage1_parts
from expost.job import Run, missing, run_stage
from expost.measure.evaluate import measure, measure_ingredients, trained_stages
from expost.measure.pictures import draw_sheet
from expost.parts.assembly import Parts, assemble, prior_ingredients, read_images, resolved_fit, vae_ingredients
from expost.parts.dataset import dataset_facts, dataset_line
from expost.parts.encoding import encode_split
from expost.parts.identity import identity
from expost.parts.reduced import reduced
from expost.parts.sampling import asked_class, block_size, deliver, drawing, knobs, write_samples
from expost.parts.weights import fitted_prior, histories, trained_vae, weights
from expost.stages.check import check_draws, check_evaluation, check_parts, check_request
from expost.stages.export import export
from expost.stages.features import feature_net, nets_of
from expost.stages.report import CIRCUMSTANCES, circumstances, publish
from expost.store.artifacts import Artifact
from expost.training.devices import resolved_precision
from expost.training.progress import counting
from expost.training.resume import LoopStates
from expost.training.tracking import Tracker, with_one_name
from stage1_vae.codes.usage import collapse
from stage1_vae.encode import ENCODE_VERSION
from stage1_vae.latents import LatentDataset
from stage1_vae.training.train import Settings, train
from stage2_prior.fitting import FitRun, NothingKept

SPLITS = ("train", "val", "test")


def check(config: Config, launch: Launch) -> None:
    """All stages on two batches each, and a sheet of training images to look at."""
    with reduced(config, launch) as job:
        check_request(job)
        data = read_images(job)
        print(f"{'data':<11}{dataset_line(data)}", flush=True)
        parts = assemble(job, given=data)
        check_all(job, parts)
        try:
            sheet = draw_sheet(parts, config.paths.root)
        except OSError as error:
            raise UserError(f"cannot write to {config.paths.root}: {error.strerror}; set paths.root=DIR") from error
        print(f"{'pictures':<11}{sheet}: are they upright, whole and called so?", flush=True)
        carry_out(job, parts)
    print("check      everything was built and ran on two batches; nothing else was kept")


def perform(job: Run) -> None:
    """The asked stage, and before it whatever it needs."""
    check_request(job)
    parts = assemble(job)
    check_all(job, parts)
    carry_out(job, parts)


def check_all(job: Run, parts: Parts) -> None:
    """What is refused of what was built, before any of it is used."""
    stage = job.config.stage
    check_parts(job, parts)
    if stage in ("sample", "all", "check"):
        check_draws(job, parts)
    if stage in ("all", "evaluate", "check"):
        check_evaluation(job, parts)


def carry_out(job: Run, parts: Parts) -> None:
    """The asked stage, and before it whatever it needs, from what was built and checked."""
    stage = job.config.stage
    if job.node.rank > 0:
        return help_along(job, parts)
    job.say("data", dataset_line(parts.data))
    if stage == "report" and (stored := stored_evaluation(job, parts)):
        return write_report(job, parts, *stored)
    if stage == "report":
        check_evaluation(job, parts)
    vae = train_vae(job, parts)
    if stage == "vae" or (stage == "sample" and job.config.sample.prior == "base"):
        return draw_samples(job, parts, vae, None) if stage == "sample" else None
    latents = encode_images(job, parts, vae)
    if stage == "encode":
        return None
    prior = fit_prior(job, parts, latents)
    if stage == "prior":
        return None
    if stage == "sample":
        return draw_samples(job, parts, vae, prior)
    if stage == "export":
        return export_model(job, parts, vae, latents, prior)
    figures = evaluate_priors(job, parts, vae, latents, prior)
    return None if stage == "check" else write_report(job, parts, vae, prior, figures)


def help_along(job: Run, parts: Parts) -> None:
    """On any machine but the first: its ranks' share of the stages that ranks make, and nothing else."""
    stage = job.config.stage
    if stage == "report" and stored_evaluation(job, parts):
        return
    vae = train_vae(job, parts)
    if stage == "vae" or (stage == "sample" and job.config.sample.prior == "base"):
        return
    latents = encode_images(job, parts, vae)
    if stage != "encode" and parts.prior.fits_in_ranks:
        fit_prior(job, parts, latents)


def take_part(job: Run) -> None:
    """One rank's share of the stage that `job.share` orders; what comes before it is in the store."""
    parts = assemble(job)
    fit_prior(job, parts, encode_images(job, parts, train_vae(job, parts)))


def train_vae(job: Run, parts: Parts) -> Artifact:
    """Stage 1: images -> VAE."""

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        if next(parts.vae.parameters(), None) is None:
            job.say("vae", "has no parameters: there is nothing to train")
            save_file(weights(parts.vae), folder / "model.safetensors")
            (folder / "history.json").write_text("[]", encoding="utf-8")
            return {}
        chosen = job.config.trainer.model_dump() | {"precision": resolved_precision(job.config.trainer)}
        settings = Settings(**{field.name: chosen[field.name] for field in fields(Settings)})
        seed = job.config.seeds.vae
        batches = parts.batches(parts.data.train, job.config.trainer.batch_size, job, shuffle=True, seed=seed)
        val_batches = parts.batches(
            parts.data.val, max(job.config.trainer.batch_size, block_size(parts.data.shape)), job
        )
        fit = job.lightning_fit(tracker, "vae", tracker.keeper)
        foretell(job, "vae", lambda: stage1_parts(job, parts))
        with job.seeded(seed):
            history = train(parts.vae, parts.objective, batches, val_batches, settings, fit, seed)
        trained = weights(parts.vae)
        job.ranks.check_equal(trained)
        if job.ranks.rank == 0:
            save_file(trained, folder / "model.safetensors")
            (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
            for note in collapse(history[-1]):
                job.say("vae", note)
        return history[-1]

    learns = next(parts.vae.parameters(), None) is not None
    return run_stage(job, "vae", vae_ingredients(job, parts), make, in_ranks=learns)


def encode_images(job: Run, parts: Parts, vae: Artifact) -> Artifact:
    """The door: the parameters of q(z|x) of every image, split by split."""

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        model = trained_vae(job, parts, vae)
        foretell(job, "latents", lambda: encode_parts(job, parts, model))
        facts = {"vae": vae.key, "data": parts.data.name, "fingerprint": parts.data.fingerprint}
        for split in SPLITS:
            encode_split(job, parts, model, split, folder / split, facts)
        return {f"num_{split}": len(getattr(parts.data, split)) for split in SPLITS}

    return run_stage(job, "latents", {"vae": vae.key, "version": ENCODE_VERSION}, make, in_ranks=True)


def fit_prior(job: Run, parts: Parts, latents: Artifact) -> Artifact:
    """Stage 2: latents -> prior."""

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        train_set, val_set = (LatentDataset.load(latents.path / split) for split in ("train", "val"))
        foretell(job, "prior", lambda: prior_parts(job, parts.prior, train_set, val_set))
        with counting("prior", job.shows_progress, tracker.log) as log:
            fit_run = FitRun(
                device=job.device,
                seed=job.config.seeds.prior,
                log=log,
                lightning_fit=job.lightning_fit(tracker, keeper=tracker.keeper),
                settings=resolved_fit(job),
                kept=LoopStates(tracker.keeper, job.ranks) if tracker.keeper else NothingKept(),
                ranks=job.ranks,
            )
            report = parts.prior.fit(train_set, val_set, fit_run)
        for note in report.notes:
            job.say("prior", note)
        fitted = weights(parts.prior)
        job.ranks.check_equal(fitted)
        facts = asdict(report) | {"num_parameters": parts.prior.num_parameters}
        if job.ranks.rank == 0:
            save_file(fitted, folder / "prior.safetensors")
            (folder / "fit.json").write_text(json.dumps(facts), encoding="utf-8")
        return {name: facts[name] for name in ("seconds", "val_nll_nats", "num_parameters")}

    ingredients = prior_ingredients(job, parts.prior, latents.key)
    return run_stage(job, "prior", ingredients, make, in_ranks=parts.prior.fits_in_ranks)


def evaluate_priors(job: Run, parts: Parts, vae: Artifact, latents: Artifact, prior: Artifact) -> Artifact:
    """Figures and pictures of the baseline prior and of the learned one, side by side."""
    nets = nets_of(job, parts)
    name = job.launch.choices.get("prior", "learned")

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        train_set, val_set, test_set = (LatentDataset.load(latents.path / split) for split in SPLITS)
        (folder / CIRCUMSTANCES).write_text(json.dumps(circumstances()), encoding="utf-8")
        with job.seeded(job.config.seeds.sample):
            models = trained_vae(job, parts, vae), fitted_prior(job, parts, prior)
            foretell(job, "evaluation", lambda: evaluation_parts(job, parts, *models, train_set))
            trained = trained_stages(job, parts, *models, (train_set, val_set, test_set))
            figures = measure(job, trained, nets, histories(vae, prior), folder, tracker)
        return with_one_name(figures, name)

    ingredients = {
        "vae": vae.key,
        "latents": latents.key,
        "prior": prior.key,
        **nets.ingredients,
        "name": name,
        "evaluation": job.config.evaluation.model_dump(exclude={"features", "features_sha256"}),  # by their key
        "seed": job.config.seeds.sample,
        **measure_ingredients(parts, job.config.evaluation.num_samples),
    }
    return run_stage(job, "evaluation", ingredients, make)


def draw_samples(job: Run, parts: Parts, vae: Artifact, prior: Artifact | None) -> None:
    """Images from the learned prior, or from the one that stage 1 trained against."""
    settings = job.config.sample

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        model = trained_vae(job, parts, vae)
        label = asked_class(settings, parts.data.class_names)
        draw = model.base_prior.sample if prior is None else drawing(settings, label, fitted_prior(job, parts, prior))
        foretell(job, "samples", lambda: sample_parts(job, parts, model, draw, settings))
        write_samples(folder / "samples.npz", model, draw, parts.data, settings, job.config.seeds.sample, job)
        return {"num": settings.num}

    ingredients = {
        "vae": vae.key,
        "prior": "base" if prior is None else prior.key,
        "num": settings.num,
        "noise": settings.noise,
        "seed": job.config.seeds.sample,
        "version": 2,
        **knobs(settings, asked_class(settings, parts.data.class_names)),
    }
    samples = run_stage(job, "samples", ingredients, make)
    deliver(job, samples.path / "samples.npz", settings.out)


def export_model(job: Run, parts: Parts, vae: Artifact, latents: Artifact, prior: Artifact) -> None:
    """The trained model as a folder that stands alone, with its figures if it was evaluated."""
    key = evaluate_priors(replace(job, plans=True), parts, vae, latents, prior).key
    models = trained_vae(job, parts, vae), fitted_prior(job, parts, prior)
    keys = {"vae": vae.key, "prior": prior.key, "fingerprint of the images": parts.data.fingerprint}
    export(job, parts, *models, keys, job.stored("evaluation", key))


def stored_evaluation(job: Run, parts: Parts) -> tuple[Artifact, Artifact, Artifact] | None:
    """The VAE, the prior and their figures, found from the configuration and the data alone; None: no figures yet.

    Of the VAE and the prior only the keys are known: their files may have been deleted long ago to make room.

    Raises:
        UserError: with `upstream=require`, where there are no figures.
    """
    plan = replace(job, plans=True)
    vae = train_vae(plan, parts)
    latents = encode_images(plan, parts, vae)
    prior = fit_prior(plan, parts, latents)
    key = evaluate_priors(plan, parts, vae, latents, prior).key
    if found := job.stored("evaluation", key):
        job.say("evaluation", f"unchanged, skipped: {found.path}")
        return vae, prior, found
    if job.config.upstream == "require":
        raise missing(job, "evaluation")
    return None


def write_report(job: Run, parts: Parts, vae: Artifact, prior: Artifact, figures: Artifact) -> None:
    """The table on the terminal, report.json, report.html and the pictures in the run's folder."""
    keys = {"vae": vae.key, "prior": prior.key, "data": parts.data.fingerprint}
    keys["features"] = feature_net(replace(job, plans=True), parts).key  # its net may be gone: the figures are stored
    publish(job, figures, {**keys, **identity(job, parts)}, dataset_facts(parts.data))
