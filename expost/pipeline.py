"""The pipeline: images -> VAE -> latents -> prior -> figures, and samples on the way.

Each stage is an artifact in the store, found there or made once; `STAGES` holds them, each with what it needs, and the
order follows from that. What is no artifact comes last: samples are delivered, a model exported, a report written.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from expost.job import Job
from expost.parts.assembly import Parts, assemble, read_given
from expost.parts.dataset import dataset_facts, dataset_line, describe
from expost.parts.identity import identity
from expost.stages import delivery, evaluation, export, features, joint, latents, prior, samples, score, vae
from expost.stages.check import check_all, check_evaluation, check_request
from expost.stages.making import Making, Recipe, Stage, find_or_make, make_files, missing, training_states
from expost.stages.report import publish
from expost.store.answers import Answer
from expost.store.artifacts import Artifact
from expost.training.tracking import Tracker

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        vae.STAGE,
        latents.STAGE,
        prior.STAGE,
        joint.STAGE,
        features.STAGE,
        features.CLASSIFIER,
        evaluation.STAGE,
        samples.STAGE,
        score.REFERENCE,
        score.STAGE,
    )
}
GOALS = {stage.typed: stage.name for stage in STAGES.values()} | {
    **dict.fromkeys(("all", "joint", "check", "report", "evaluate"), "evaluation"),
    "export": "prior",
}
"""The word of stage=WORD -> the stage that it takes."""


def perform(job: Job) -> Answer | None:
    """What the job asks for, and before it whatever that needs; what is known now, where that is a report."""
    check_request(job)
    job, parts = assemble(job)
    check_all(job, parts)
    if joint.is_asked(job.config):
        joint.check_joint(job, parts)
    if job.config.stage == "score":
        parts = read_given(job, parts)
    return carry_out(job, parts)


def carry_out(job: Job, parts: Parts) -> Answer | None:
    """The same, from what was built and checked."""
    word, is_first, given = job.config.stage, job.machine.rank == 0, dict[str, Artifact]()
    if is_first:
        job.say("data", dataset_line(parts.data))
        if parts.given is not None:
            job.say("given", score.given_line(parts))
    opening_lines = list(job.lines)
    if joint.is_asked(job.config):
        given["vae"] = made("joint", job, parts)["joint"]
        job, parts = joint.after_joint(job, parts.of_images)
    if word == "report":
        evaluation_keys = keys("evaluation", job, parts, given)
        if figures := stored_figures(job, evaluation_keys["evaluation"]):
            return report(job, parts, figures, evaluation_keys, opening_lines) if is_first else None
        if is_first:
            check_evaluation(job, parts)
    artifacts = made(GOALS[word], job, parts, given)
    if not is_first or word == "check":
        return None
    if word == "sample":
        delivery.deliver(job, parts, artifacts["samples"])
    if word == "score":
        score.deliver_scores(job, parts, artifacts)
    if word == "export":
        figures = job.stored("evaluation", keys("evaluation", job, parts, given)["evaluation"])
        export.export(job, parts, artifacts, figures)
    if GOALS[word] == "evaluation":
        known = {name: artifact.key for name, artifact in artifacts.items() if name in STAGES}
        return report(job, parts, artifacts["evaluation"], known, opening_lines)
    return None


def order(goal: str, job: Job, parts: Parts, given: Collection[str] = ()) -> list[Stage]:
    """The stages that `goal` needs, each after what it needs itself; `goal` is the last. Those `given` are left out."""
    names: list[str] = []

    def add(name: str) -> None:
        if name in given or name in names:
            return
        for needed in STAGES[name].needs(job.config, parts):
            add(needed)
        names.append(name)

    add(goal)
    return [STAGES[name] for name in names]


def recipes(goal: str, job: Job, parts: Parts, given: Mapping[str, Artifact]) -> list[Recipe]:
    """What each stage before `goal`, and `goal` itself, is made from: without store or work, but that a user's feature
    file is hashed."""
    known, in_order = {name: artifact.key for name, artifact in given.items()}, list[Recipe]()
    for stage in order(goal, job, parts, given):
        in_order += with_parts(stage, job, parts, known)
        known[stage.name] = in_order[-1].key
    return in_order


def with_parts(
    stage: Stage, job: Job, parts: Parts, known: Mapping[str, str], inside: str = "", title: str = ""
) -> list[Recipe]:
    """The recipe of one stage behind those of what it is made of.

    Args:
        stage: whose.
        job, parts: what is asked of it, and what was built for it.
        known: keys of what comes before it.
        inside: its place in what is made of it, and in what that is a part of: -0-1; empty: it is no part.
        title: of it in words, where it is one.
    """
    in_order, keys, names = list[Recipe](), dict(known), {name: name for name in known}
    for place, alone in enumerate(stage.parts_alone(job, parts)):
        part = f"{inside}-{place}"
        words = f"{title}{': ' * bool(title)}member {place + 1}, {alone.title}"
        in_order += with_parts(stage, alone.job, alone.parts, known, part, words)
        keys[f"{stage.name}-{place}"], names[f"{stage.name}-{place}"] = in_order[-1].key, f"{stage.name}{part}"
    ingredients = stage.ingredients(job, parts, keys)
    return [*in_order, Recipe(stage, job, parts, ingredients, keys, names, f"{stage.name}{inside}", title)]


def keys(goal: str, job: Job, parts: Parts, given: Mapping[str, Artifact] | None = None) -> dict[str, str]:
    """Key of `goal` and of every stage before it, by name, beside the artifacts that are `given`."""
    known = {name: artifact.key for name, artifact in (given or {}).items()}
    return known | {
        recipe.name: recipe.key for recipe in recipes(goal, job, parts, given or {}) if recipe.name in STAGES
    }


def made(goal: str, job: Job, parts: Parts, given: Mapping[str, Artifact] | None = None) -> dict[str, Artifact]:
    """The artifact of `goal` and of every stage before it, by name: found, waited for, or made.

    A machine other than the first takes part in what ranks make, and in nothing else.

    Args:
        goal: name of a stage.
        job, parts: what was asked, and what was built for it.
        given: artifacts to take as they are, by the name of their stage.
    """
    artifacts = dict(given or {})
    for recipe in recipes(goal, job, parts, artifacts):
        stage = recipe.stage
        if job.machine.rank > 0 and not stage.in_ranks(recipe.parts):
            continue
        if words := recipe.title or stage.announced(job.config, recipe.ingredients):
            job.say(stage.place, words)
        after_joint = job.config.stage == "joint" and given is not None and "vae" in given
        asked = after_joint or job.config.stage in (stage.typed, "all", "check")
        artifacts[recipe.name] = find_or_make(recipe, recipe.inputs_of(artifacts), asked)
    return artifacts


def take_part(goal: str, key: str, job: Job, folder: Path, tracker: Tracker, keeps: bool = True) -> Mapping[str, Any]:
    """One rank's part of the stage `goal`, whose artifact gets `key`; what comes before it is in the store.

    Unless it `keeps` states of its training, it starts over when it is stopped.

    Raises:
        RuntimeError: this rank would make something else than was ordered.
    """
    job, parts = assemble(job)
    *before, recipe = recipes(goal, job, parts, {})
    if recipe.key != key:
        raise RuntimeError(f"rank {job.ranks.rank} would make {goal}/{recipe.key} and not {key}")
    tracker.states = training_states(recipe) if keeps else None
    artifacts = {needed.name: needed.artifact(job.store) for needed in before}
    inputs = recipe.inputs_of(artifacts)
    return make_files(recipe.stage, Making(job, parts, inputs, recipe.ingredients, folder, tracker))


def stored_figures(job: Job, key: str) -> Artifact | None:
    """The evaluation of that key; None: no figures yet. Of what it was made from the files may be gone to make room.

    Raises:
        UserError: with `upstream=require`, where there are no figures.
    """
    if figures := job.stored("evaluation", key):
        job.say("evaluation", f"unchanged, skipped: {figures.path}")
    elif job.config.upstream == "require":
        raise missing(job, STAGES["evaluation"])
    return figures


def report(
    job: Job, parts: Parts, figures: Artifact, known: dict[str, str], opening_lines: list[tuple[str, str]]
) -> Answer:
    """The table on the terminal, report.json, report.html and the pictures in the run's folder.

    Args:
        job, parts: what was asked, and what was built for it.
        figures: the evaluation's artifact.
        known: its key and those of all that it was made from, by stage.
        opening_lines: said before any stage.
    """
    facts = dataset_facts(parts.data)
    provenance = {name: known[name] for name in ("vae", "prior", "features") if name in known} | {
        "data": parts.data.fingerprint
    }
    answer = Answer(
        keys=known,
        said=opening_lines,
        prior=job.config.prior,
        evaluation=job.config.evaluation,
        provenance=provenance | identity(job, parts),
        dataset=facts.to_json(),
        dataset_words=describe(facts),
    )
    publish(job, figures, answer)
    return answer
