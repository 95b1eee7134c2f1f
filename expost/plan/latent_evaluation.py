"""The evaluation of latents without images in small: its parts, by their names, of an unfitted prior."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from expost.evaluation.exploration.content import num_points
from expost.forecast.timing import Times, lengthen, seconds_of
from expost.measure.image_sets import FeaturedSet
from expost.measure.latent_evaluation import LATENT_PARTS, LatentFindings, latent_subject, measure_latents
from expost.measure.latent_sets import num_searched
from expost.measure.latents import MAX_DRAWS
from expost.measure.subject import Subject
from expost.parts.assembly import LatentParts
from expost.plan.costs import Facts
from expost.plan.evaluation import (
    HISTORIES,
    NUM_DRAWS,
    NUM_FEW,
    NUM_LATENTS,
    NUM_VECTORS,
    aggregate_seconds,
    change_findings,
    grown_files,
    seconds_of_part,
)
from expost.plan.probe import Probing, at_most, files_of
from expost.plan.stages import first_latents
from expost.training.tracking import Tracker

FEWEST, FEW_NUMBERS = 32, 2**14
"""Of long latents fewer are measured: one is drawn number by number."""
FLOORS = "floors"
"""What is fitted before the first part, for comparison: a pass over all training latents, or some."""


def probe_latent_evaluation(probing: Probing) -> Facts:
    """A small evaluation of an unfitted prior, and by itself each part of it that grows."""
    settings, data, spec = probing.job.config.evaluation, probing.parts.data, probing.parts.spec
    num_train = len(data.train)
    num, num_bounds = (
        min(settings.num_samples, len(data.test), num_train),
        min(settings.num_bound_images, len(data.test)),
    )
    subject = subject_of(probing, NUM_LATENTS)
    most, stored = min(num, len(subject.train), len(subject.test)), len(first_latents(probing, "train", num_train))
    findings = findings_of(probing, subject)
    num_few = min(NUM_FEW, most, max(FEWEST, FEW_NUMBERS // spec.num_dims))
    facts, few = measure_few(findings, num_few, num)
    searched = num_searched(spec, num, num_train)

    def draw(num: int) -> LatentFindings:
        return with_vectors(change_findings(findings, num_samples=num), few)

    def bound(num: int) -> LatentFindings:
        return with_vectors(change_findings(findings, num_bound_images=num), few)

    def search(num: int) -> LatentFindings:
        train = replace(subject, train=first_latents(probing, "train", num))
        return with_sets(replace(findings, trained=train), few, searched)

    growing: dict[str, tuple[int, int, int, Callable[[int], LatentFindings]]] = {
        # part: its length in the run, the first and the longest here, and an evaluation of such a length
        "samples": (num, num_few, most, draw),
        "distances": (num, NUM_VECTORS, num, partial(with_sets, findings, few)),
        "nearest training latents": (num_train, min(NUM_LATENTS, stored), stored, search),
        "costs": (num_bounds, min(num_few, num_bounds), min(num_bounds, len(subject.test)), bound),
        "surgery": (min(MAX_DRAWS, num), min(NUM_DRAWS, 2 * num_few), min(MAX_DRAWS, most), draw),
    }
    if probing.parts.prior.num_classes:
        growing["classes"] = growing["samples"]

    def times_of(part: str) -> Times:
        _, first, most, ask = growing[part]
        return lengthen(lambda num: seconds_of_part(LATENT_PARTS, part, ask(num)), first, most, probing.enough)

    def fit(num: int) -> float:
        return seconds_of(lambda: subject_of(probing, num))

    with at_most(2 * probing.enough):  # the memory of what is compared in pairs
        seconds_of_part(LATENT_PARTS, "distances", with_sets(findings, few, num))
    return {
        **facts,
        **aggregate_seconds(probing),
        "num_samples": num,
        "num_bounds": num_bounds,
        "times": {
            FLOORS: lengthen(fit, min(NUM_LATENTS, stored), stored, probing.enough),
            **{part: times_of(part) for part in growing},
        },
        "lengths": {FLOORS: num_train, **{part: length for part, (length, *_) in growing.items()}},
        "few_latents": {"train": len(subject.train), "test": len(subject.test)},
    }


def subject_of(probing: Probing, num: int) -> Subject:
    """An unfitted prior, `num` training latents, which its floors are fitted to, and few others."""
    parts = probing.parts
    assert isinstance(parts, LatentParts)
    latents = [
        first_latents(probing, split, num if split == "train" else NUM_LATENTS) for split in ("train", "val", "test")
    ]
    return latent_subject(probing.job, parts, parts.prior.eval(), latents)


def findings_of(probing: Probing, subject: Subject) -> LatentFindings:
    """An evaluation before its first part."""
    folder = probing.scratch / "evaluation"
    folder.mkdir()
    return LatentFindings(probing.job, subject, HISTORIES, folder)


def with_vectors(findings: LatentFindings, few: LatentFindings) -> LatentFindings:
    """The same evaluation, which knows how latents become vectors as `few` does."""
    findings.vectors = few.vectors
    return findings


def with_sets(findings: LatentFindings, few: LatentFindings, num: int) -> LatentFindings:
    """Another evaluation, whose sets have `num` latents: those of `few` again and again, with noise where they are
    vectors."""

    def more(one: FeaturedSet) -> FeaturedSet:
        features = one.features[torch.arange(num) % len(one.features)]
        return replace(one, features=features if few.vectors is None else features + torch.randn_like(features))

    collected = with_vectors(replace(findings), few)
    collected.images = {row: more(one) for row, one in few.images.items()}
    return collected


def measure_few(findings: LatentFindings, num: int, num_run: int) -> tuple[Facts, LatentFindings]:
    """A whole evaluation of `num` latents: seconds of what does not grow, bytes of what one of `num_run` writes; and
    what it found first."""
    few = change_findings(findings, num_samples=num, num_bound_images=num)
    measure_latents(few.job, few.trained, few.histories, few.folder, Tracker())
    LATENT_PARTS["samples"].carry_out(few)
    seconds = json.loads((few.folder / "figures.json").read_text(encoding="utf-8"))["seconds"]
    files = grown_files(files_of(few.folder), num, num_run)
    more = num_points(num_run) / num_points(num)
    return {"pictures": seconds["pictures"], "exploration": more * seconds["exploration"], "files": files}, few
