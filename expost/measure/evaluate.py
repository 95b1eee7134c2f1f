"""The glue between two trained stages and the judge: an evaluation is a list of parts that fill one result.

Every row is measured with the same number of images against the same test images, in the same features. `stage=plan`
times the same parts, by name.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expost.evaluation.bounds import Bounds
from expost.evaluation.distances import Distances
from expost.evaluation.page import PICTURES
from expost.evaluation.report import FIGURES, Report, Row
from expost.evaluation.sections import Surgery, TightBounds
from expost.evaluation.verdict import conclude
from expost.job import Run
from expost.measure.bounds import measure_bounds, tight_bounds
from expost.measure.classes import ConditionalSamples, add_classes, class_table, measure_classes
from expost.measure.feature_nets import (
    Extractor,
    Nets,
    check_feature_file,
    load_feature_net,
    load_own_net,
    try_feature_file,
)
from expost.measure.image_sets import (
    SCATTERED,
    Copies,
    FeaturedSet,
    collect_sets,
    measure_distances,
    measure_memorisation,
)
from expost.measure.latents import dissect
from expost.measure.pictures import draw_pictures
from expost.measure.remedies import fitting_of
from expost.measure.rows import add_surgery, add_tight_bounds, build_rows, repeats_of
from expost.measure.subject import Subject, baseline_prior, fit_floors, floor_ingredients
from expost.measure.truth import Truth, carries_unchanged, compare_with_truth
from expost.parts.assembly import Parts
from expost.parts.weights import Histories
from expost.training.progress import clock
from expost.training.tracking import Tracker
from stage1_vae.data.images import spread
from stage1_vae.latents import LatentDataset
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior

__all__ = ["VERSION", "check_feature_file", "measure", "try_feature_file"]
VERSION = 8
"""Part of the key of what `measure` makes; raised whenever its results change."""


def measure_ingredients(parts: Parts, num_samples: int) -> dict[str, Any]:
    """The versions of everything that `measure` fits and computes by itself."""
    pictured = {"scattered": num_samples} if num_samples < SCATTERED else {}  # once as many as there are images
    return {"version": VERSION, **pictured, **floor_ingredients(parts.vae.spec)}


@dataclass
class Findings:
    """One evaluation: what it is about, and what its parts have found so far.

    Attributes:
        job: whose `evaluation` section says how much is measured.
        trained: both stages, their latents and the images.
        nets: what looks at the images.
        net: of these the one that distances are measured in, on the device.
        histories: what training and fitting recorded.
        folder: where the pictures go.
        notes: in words, what is missing and why.
        seconds: wall time of each part.
        others: of `PARTS`, each of one.
    """

    job: Run
    trained: Subject
    nets: Nets
    net: Extractor
    histories: Histories
    folder: Path
    notes: list[str] = field(init=False, default_factory=list)
    seconds: dict[str, float] = field(init=False, default_factory=dict)
    seen: Mapping[str, FeaturedSet] = field(init=False)
    distances: Mapping[str, Distances] = field(init=False)
    copied: Copies = field(init=False)
    classes: ConditionalSamples | None = field(init=False, default=None)
    bounded: Mapping[str, Bounds] = field(init=False)
    truth: Truth | None = field(init=False)
    surgery: Surgery = field(init=False)
    tight: TightBounds | None = field(init=False)

    @property
    def name(self) -> str:
        """Of the learned prior's row."""
        return prior_name(self.job)

    @property
    def num_samples(self) -> int:
        return self.job.config.evaluation.num_samples


@dataclass(frozen=True)
class Part:
    """Of an evaluation.

    Attributes:
        name: in the seconds of `figures.json`.
        run: fills in what it finds.
        shows_bar: by itself; any other part has a clock on the terminal.
        applies: whether there is anything to do.
    """

    name: str
    run: Callable[[Findings], None]
    shows_bar: bool = False
    applies: Callable[[Findings], bool] = lambda findings: True

    def carry_out(self, findings: Findings) -> None:
        """Run it and write down how long it took.

        Each part has the same noise whatever ran before it: two priors on one VAE are asked about the same draws.
        """
        job, started = findings.job, time.perf_counter()
        with clock(self.name, job.shows_progress and not self.shows_bar), job.seeded(job.config.seeds.sample):
            self.run(findings)
        findings.seconds[self.name] = time.perf_counter() - started


def look_at_images(findings: Findings) -> None:
    findings.seen = collect_sets(findings.trained, findings.net, findings.num_samples)


def compare_images(findings: Findings) -> None:
    neighbours = findings.job.config.evaluation.neighbours
    findings.distances = measure_distances(findings.trained, findings.seen, neighbours, findings.notes)


def search_for_copies(findings: Findings) -> None:
    findings.copied = measure_memorisation(findings.trained, findings.net, findings.seen, findings.notes)


def judge_classes(findings: Findings) -> None:
    assert findings.nets.classifier is not None
    judge = load_own_net(findings.nets.classifier, findings.job)
    findings.classes = measure_classes(findings.trained, judge, findings.num_samples, findings.notes)


def bound(findings: Findings) -> None:
    trained, num = findings.trained, findings.job.config.evaluation.num_bound_images
    findings.bounded = measure_bounds(trained, findings.job)
    images = spread(trained.parts.data.test, num)
    findings.truth = compare_with_truth(trained.parts, images, findings.bounded, findings.name)
    findings.notes += [] if findings.truth is None else [findings.truth.note]


def take_latents_apart(findings: Findings) -> None:
    findings.surgery = dissect(findings.trained, findings.job, findings.name)
    findings.notes += findings.surgery.notes


def anneal(findings: Findings) -> None:
    findings.tight = tight_bounds(findings.trained, findings.job, findings.name)


def draw(findings: Findings) -> None:
    draw_pictures(
        findings.trained,
        findings.seen,
        findings.copied,
        findings.name,
        findings.histories,
        findings.surgery.codes,
        findings.classes,
        findings.num_samples,
        findings.folder,
    )


PARTS = {
    part.name: part
    for part in (
        Part("samples and features", look_at_images),
        Part("distances", compare_images),
        Part("nearest training images", search_for_copies),
        Part("classes", judge_classes, applies=lambda findings: findings.nets.classifier is not None),
        Part("bounds", bound, shows_bar=True),
        Part("surgery", take_latents_apart, shows_bar=True),
        Part("annealing", anneal, shows_bar=True),
        Part("pictures", draw),
    )
}
"""By name, in their order: a part may read what those before it found."""


def prior_name(job: Run) -> str:
    """What the report calls the learned prior."""
    return job.launch.choices.get("prior", "learned")


def trained_stages(
    job: Run, parts: Parts, vae: VAE, prior: Prior, latents: tuple[LatentDataset, LatentDataset, LatentDataset]
) -> Subject:
    """What is judged: both stages and, fitted now, the priors by counting beside them.

    Args:
        job, parts: the job and its data.
        vae, prior: trained.
        latents: of training, validation and test images.
    """
    train, val, test = latents
    floors = fit_floors(train, val, job, prior_name(job))
    return Subject(vae, prior, baseline_prior(vae.spec).to(job.device), train, test, parts, job.device, floors)


def measure(
    job: Run, trained: Subject, nets: Nets, histories: Histories, folder: Path, tracker: Tracker
) -> dict[str, float | None]:
    """Write `figures.json` and the pictures into the empty `folder`; the learned prior's figures for the run's summary.

    The arguments are those of `Findings`, and the tracker of the stage.
    """
    findings = Findings(job, trained, nets, load_feature_net(nets.features, job), histories, folder)
    for part in PARTS.values():
        if part.applies(findings):
            part.carry_out(findings)
    report = build_report(findings)
    (folder / "figures.json").write_text(report.text(), encoding="utf-8", errors="backslashreplace")
    tracker.pictures({stem: path for stem in PICTURES if (path := folder / f"{stem}.png").is_file()})
    tracker.table("report", ["row", *FIGURES], [[name, *row.figures.values()] for name, row in report.rows.items()])
    if findings.classes is not None:
        tracker.table("classes", *class_table(findings.classes.facts))
    return report.named_figures()


def finish_rows(findings: Findings) -> dict[str, Row]:
    """The rows of the report, with what each part says of them."""
    trained, name = findings.trained, findings.name
    rows = build_rows(
        name,
        trained,
        findings.seen,
        findings.distances,
        findings.copied.shares,
        findings.bounded,
        findings.histories.fit,
    )
    add_surgery(rows, findings.surgery)
    add_classes(rows, name, None if findings.classes is None else findings.classes.facts)
    add_tight_bounds(rows, findings.tight)
    if carries_unchanged(trained.vae):
        for row_name, row in rows.items():
            notes = tuple(note for note in row.notes if note != trained.parts.kind.note)
            rows[row_name] = replace(row, distortion_nats=None, notes=notes)  # of pixels from themselves: says nothing
    return rows


def build_report(findings: Findings) -> Report:
    """The content of `figures.json`."""
    trained, name, settings = findings.trained, findings.name, findings.job.config.evaluation
    data, num_compared = trained.parts.data, len(findings.seen["reference"].features)
    report = Report(
        data=data.name,
        features=findings.net.description,
        rows=finish_rows(findings),
        reference=f"{num_compared:,} test images",
        num_samples=num_compared,
        num_bound_images=min(settings.num_bound_images, len(data.test)),
        importance_samples=settings.importance_samples,
        neighbours=settings.neighbours,
        annealing_settings=None if settings.annealing is None else settings.annealing.model_dump(),
        num_repeats=repeats_of(findings.distances, trained, name),
        num_training_images=len(data.train),
        notes=tuple(findings.notes),
        true_nll_nats=None if findings.truth is None else findings.truth.nll_nats,
        baseline=trained.baseline_name,
        counted=tuple(trained.floors),
        surgery=findings.surgery,
        classes=None if findings.classes is None else findings.classes.facts,
        fitting={name: fitting_of(findings.job, trained, name, findings.histories.fit)},
        annealing=findings.tight,
        carries_unchanged=carries_unchanged(trained.vae),
        seconds=findings.seconds,
    )
    return conclude(report)
