"""The glue between a prior and the judge where nobody has images: the parts of an evaluation of latents.

No decoder makes anything of a latent, so all that is measured is measured between latents: what held-out ones cost,
what the latents are made of, and how far samples are from them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expost.config.limits import affordable_draws
from expost.evaluation.bounds import Bounds, Draw, importance_bounds
from expost.evaluation.distances import Distances
from expost.evaluation.exploration.content import Exploration
from expost.evaluation.latents.features import LatentFeatures
from expost.evaluation.report import Report
from expost.evaluation.row_names import MOMENT_MATCHED
from expost.evaluation.verdict import conclude
from expost.job import Job
from expost.measure.findings import Findings, Part, carry_out
from expost.measure.image_sets import SCATTERED, measure_distances
from expost.measure.labelled.classes import ConditionalSamples, add_classes
from expost.measure.labelled.clusters import add_clusters, measure_clusters
from expost.measure.labelled.latent_classes import measure_latent_classes
from expost.measure.latent_sets import CODES_DESCRIPTION, collect_latents, find_copies, vectors_of
from expost.measure.latents import dissect
from expost.measure.remedies import fitting_of, for_empty_code
from expost.measure.rows import add_caveats, add_surgery, build_rows, repeats_of
from expost.measure.subject import Floor, Subject, baseline_prior, fit_floors, floor_ingredients
from expost.parts.assembly import LatentParts
from expost.parts.weights import Histories
from expost.training.progress import bar
from expost.training.tracking import Tracker
from stage1_vae.data.latents.data import LatentData
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.rows import spread_rows
from stage2_prior.prior import Exactness, Prior
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.standardize import Standardized
from stage2_prior.wrappers.varying import Varying

VERSION = 3
"""Part of the key of what `measure_latents` makes; raised whenever its results change."""
MOST_DRAWS = 16
"""Of each test latent: more would take time and say no more, as latents differ by more than draws of one do."""
ROWS_AT_ONCE = 1024
MOST_NUMBERS = 2**22
"""Of draws whose costs are computed at once: 16 MiB."""


@dataclass
class LatentFindings(Findings):
    """An evaluation of a prior without images."""

    @cached_property
    def vectors(self) -> LatentFeatures | None:
        """What distances are measured in; None of codes."""
        return vectors_of(self.trained, self.settings.num_samples, self.notes)

    @property
    def data(self) -> LatentData:
        """What the user's files hold."""
        parts = self.trained.parts
        assert isinstance(parts, LatentParts)
        return parts.data

    @property
    def held(self) -> tuple[str, ...]:
        """What numbers that never vary, or are functions of others, do to nats, in words; nothing where none are."""
        data, fixed, notes = self.data, list(self.data.fixed), []
        states = {"never vary": len(fixed), "are sums or repeats of others": len(data.dependent)}
        for state, num in states.items():
            if num:
                notes.append(
                    f"{num:,} of the {data.spec.shape[0]:,} places {state}: nats are of the others, in every row"
                )
        if off := num_off(self.trained.baseline, data.test, self.trained.device):
            known = " or ".join(state for state, num in states.items() if num)
            notes.append(
                f"{off:,} of {len(data.test):,} test latents have other numbers in places that {known} over the "
                "training latents: every prior gives those the density 0, so no row has nats"
            )
        alone = 0 if data.constant is None else int(np.delete(data.constant, fixed, 0).sum())
        if alone and alone < data.spec.num_dims:
            notes.append(
                f"{alone:,} of {data.spec.num_dims:,} numbers never vary and stand in channels that do: a density of "
                "them has no bound, so nats say how narrow a prior makes them; compare distances"
            )
        return tuple(notes)


@torch.no_grad()
def num_off(baseline: Prior, latents: LatentDataset, device: torch.device) -> int:
    """How many `latents` are not as the numbers say that stand beside the `baseline`; 0 where none do."""
    if not isinstance(baseline, Varying):
        return 0
    return sum(int(baseline.is_off(posterior.mean.to(device)).sum()) for posterior in latents.blocks())


def latent_ingredients(spec: LatentSpec, num_samples: int) -> dict[str, Any]:
    """The versions of everything that `measure_latents` fits and computes by itself."""
    shifted = {MOMENT_MATCHED: Standardized.version} if StandardNormal.check(spec) is None else {}
    pictured = {"scattered": num_samples} if num_samples < SCATTERED else {}
    return {"latents_version": VERSION, **pictured, **shifted, **floor_ingredients(spec)}


def latent_subject(job: Job, parts: LatentParts, prior: Prior, latents: Sequence[LatentDataset]) -> Subject:
    """What is judged: a fitted prior and, fitted now, the floors beside it; `latents`: training, validation, test."""
    train, val, test = latents
    floors = fit_floors(train, val, job, job.prior_name)
    baseline = parts.beside_constants(baseline_prior)
    if isinstance(baseline, Varying):
        baseline.fit(train, val, job.fit_run(Tracker()))
    if StandardNormal.check(train.spec) is None:
        shifted = parts.beside_constants(lambda spec: Standardized(StandardNormal(spec)))
        started = time.perf_counter()
        shifted.fit(train, val, job.fit_run(Tracker()))
        floors[MOMENT_MATCHED] = Floor(shifted.to(job.device).eval(), time.perf_counter() - started)
    return Subject(parts, prior, baseline.to(job.device).eval(), train, test, job.device, floors)


def measure_costs(subject: Subject, job: Job) -> dict[str, Bounds]:
    """What test latents cost under the baseline, the floors and the learned prior, from the same draws of q(z|x).

    Several draws of each where draws differ; of posteriors with a density (or a mass), the rate besides.
    """
    settings, test = job.config.evaluation, subject.test
    rows = spread_rows(len(test), settings.num_bound_images)
    most = max(1, MOST_NUMBERS // test.spec.num_dims)

    def propose(index: Tensor) -> Draw:
        posterior = test.posterior(index.cpu())

        def draw(n: int) -> tuple[Tensor, Tensor | None]:
            z = posterior.sample(torch.Size([n]))  # [n, B, *latent]
            log_q = None if test.is_point_mass else posterior.log_prob(z.double() if z.is_floating_point() else z)
            return z.to(subject.device), None if log_q is None else log_q.to(subject.device)

        return draw

    priors = {"baseline": subject.baseline, **{row: floor.prior for row, floor in subject.floors.items()}}
    densities = {
        key: prior.log_prob if prior.log_prob_is is not Exactness.NONE else None
        for key, prior in (priors | {"learned": subject.prior}).items()
    }
    batches = [index.to(subject.device) for index in rows.split(min(ROWS_AT_ONCE, most))]
    num = 1 if test.is_certain else min(MOST_DRAWS, settings.importance_samples)
    fewer = {"learned": affordable_draws(settings, subject.prior.passes, decodes=False)}
    bounded = importance_bounds(
        bar("costs", job.shows_progress, batches), propose, no_decoder, densities, num, max_rows=most, fewer=fewer
    )
    return {
        name: replace(bound, distortion_nats=None, elbo_nats=None, iwae_nats=None, ess_share=None)
        for name, bound in bounded.items()
    }


def no_decoder(index: Tensor, z: Tensor) -> Tensor:
    """In place of log p(x|z) [n, B]: there is no image that a latent could explain."""
    return torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)


def compare_vectors(f: LatentFindings) -> dict[str, Distances]:
    """Of the sets that are finite; nothing of codes."""
    if f.vectors is None:
        return {}
    finite = {row: drawn for row, drawn in f.images.items() if torch.isfinite(drawn.features).all()}
    f.notes.extend(f"{row}: some of its samples are NaN or infinite" for row in f.images.keys() - finite.keys())
    return measure_distances(f.trained, finite, f.settings.neighbours, f.notes) if "reference" in finite else {}


def judge_classes(f: LatentFindings) -> ConditionalSamples | None:
    """None of a prior that knows no classes."""
    if not f.trained.prior.num_classes:
        return None
    return measure_latent_classes(f.trained, f.vectors, f.settings.num_samples, f.notes)


def draw(f: LatentFindings) -> Mapping[str, Path]:
    """By their names."""
    from expost.measure.pictures import draw_latents  # matplotlib is slow to import: only who draws

    draw_latents(f.trained, f.images, f.name, f.histories, f.surgery.codes, f.folder)
    return f.drawn()


def explore(f: LatentFindings) -> Exploration | None:
    """What a page lets one explore, in a file beside the pictures; nothing of codes, which are nowhere."""
    from expost.measure.exploration.points import explore_latents  # matplotlib is slow to import: only who draws

    if f.surgery.codes is not None:
        return None
    content = explore_latents(f.trained, f.images, f.name)
    if content is not None:
        content.save(f.folder)
    return content


LATENT_PARTS = {
    part.name: part
    for part in (
        Part("samples", "images", lambda f: collect_latents(f.trained, f.vectors, f.settings.num_samples)),
        Part("distances", "distances", compare_vectors),
        Part("nearest training latents", "copies", lambda f: find_copies(f.trained, f.vectors, f.images, f.notes)),
        Part("classes", "classes", judge_classes),
        Part("costs", "bounds", lambda f: measure_costs(f.trained, f.job), shows_bar=True),
        Part("surgery", "surgery", lambda f: dissect(f.trained, f.job, f.name), shows_bar=True),
        Part("exploration", "exploration", explore),
        Part("pictures", "pictures", draw),
    )
}
"""By name, in their order: a part may read what those before it found."""


def measure_latents(job: Job, trained: Subject, histories: Histories, folder: Path, tracker: Tracker) -> Report:
    """Write `figures.json` and the pictures into the empty `folder`; the report.

    The arguments are those of `Findings`, and the tracker of the stage.
    """
    findings = LatentFindings(job, trained, histories, folder)
    return carry_out(LATENT_PARTS.values(), findings, build_report, tracker)


def build_report(findings: LatentFindings) -> Report:
    """The content of `figures.json`."""
    trained, name, settings = findings.trained, findings.name, findings.settings
    num_compared, vectors = len(findings.images["reference"].features), findings.vectors
    rows = build_rows(
        name, trained, findings.images, findings.distances, findings.copies, findings.bounds, findings.histories.fit
    )
    add_surgery(rows, findings.surgery)
    add_classes(rows, name, None if findings.classes is None else findings.classes.facts)
    clusters = measure_clusters(trained)
    add_clusters(rows, name, clusters)
    add_caveats(rows, name, trained.prior)
    without = CODES_DESCRIPTION if trained.train.spec.support is Support.CODES else "latents that never vary"
    report = Report(
        data=trained.parts.data.name,
        features=without if vectors is None else vectors.description,
        rows=rows,
        reference=f"{num_compared:,} test latents",
        num_samples=num_compared,
        num_bound_images=min(settings.num_bound_images, len(trained.test)),
        importance_samples=findings.bounds["baseline"].num_samples,
        neighbours=settings.neighbours,
        num_repeats=repeats_of(findings.distances, trained, name),
        num_training_images=len(trained.train),
        notes=(*findings.held, *findings.notes, *findings.surgery.notes),
        baseline=trained.baseline_name,
        counted=tuple(trained.floors),
        surgery=findings.surgery,
        classes=None if findings.classes is None else findings.classes.facts,
        clusters=clusters,
        fitting={name: fitting_of(findings.job, trained, name, findings.histories.fit)},
        if_empty=for_empty_code(findings.job, trained),
        seconds=findings.seconds,
        judged="latents",
        missing=tuple(findings.data.missing),
    )
    return conclude(report)
