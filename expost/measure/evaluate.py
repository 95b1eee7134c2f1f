"""The glue between two trained stages and the judge: an evaluation is a list of parts that fill one result.

Every row is measured with the same number of images against the same test images, in the same features. `stage=plan`
times the same parts, by name.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expost.config.schema import Evaluation
from expost.evaluation.bounds import Bounds
from expost.evaluation.distances import Distances
from expost.evaluation.page import PICTURES
from expost.evaluation.report import FIGURES, Report, Row
from expost.evaluation.sections import Surgery, TightBounds
from expost.evaluation.verdict import conclude
from expost.job import Job
from expost.measure.bounds import carries_unchanged, compare_with_truth, measure_bounds, tight_bounds
from expost.measure.classes import ConditionalSamples, add_classes, class_table, measure_classes
from expost.measure.feature_nets import Extractor, Nets, load_feature_net, load_own_net
from expost.measure.image_sets import (
    SCATTERED,
    Copies,
    FeaturedSet,
    collect_sets,
    measure_distances,
    measure_memorisation,
)
from expost.measure.latents import dissect
from expost.measure.remedies import fitting_of
from expost.measure.rows import add_surgery, add_tight_bounds, build_rows, repeats_of
from expost.measure.subject import ImageSubject, baseline_prior, fit_floors, floor_ingredients
from expost.parts.assembly import ImageParts, Parts
from expost.parts.weights import Histories
from expost.training.progress import clock
from expost.training.tracking import Tracker
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import subset
from stage1_vae.latents import LatentDataset
from stage2_prior.prior import Prior

VERSION = 8
"""Part of the key of what `measure` makes; raised whenever its results change."""


def measure_ingredients(parts: Parts, num_samples: int) -> dict[str, Any]:
    """The versions of everything that `measure` fits and computes by itself."""
    pictured = {"scattered": num_samples} if num_samples < SCATTERED else {}  # once as many as there are images
    return {"version": VERSION, **pictured, **floor_ingredients(parts.spec)}


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
        notes: in words, what is missing and why, but for that of the surgery.
        seconds: wall time of each part.
        others: each is filled in by one of `PARTS`.
    """

    job: Job
    trained: ImageSubject
    nets: Nets
    net: Extractor
    histories: Histories
    folder: Path
    notes: list[str] = field(init=False, default_factory=list)
    seconds: dict[str, float] = field(init=False, default_factory=dict)
    images: Mapping[str, FeaturedSet] = field(init=False)
    distances: Mapping[str, Distances] = field(init=False)
    copies: Copies = field(init=False)
    classes: ConditionalSamples | None = field(init=False, default=None)
    bounds: Mapping[str, Bounds] = field(init=False)
    surgery: Surgery = field(init=False)
    annealing: TightBounds | None = field(init=False)
    pictures: dict[str, Path] = field(init=False)

    @property
    def name(self) -> str:
        """Of the learned prior's row."""
        return self.job.prior_name

    @property
    def settings(self) -> Evaluation:
        return self.job.config.evaluation


@dataclass(frozen=True)
class Part:
    """Of an evaluation.

    Attributes:
        name: in the seconds of `figures.json`.
        fills: the attribute of `Findings` that it is there for.
        find: the value of that attribute.
        shows_bar: by itself; any other part has a clock on the terminal.
    """

    name: str
    fills: str
    find: Callable[[Findings], Any]
    shows_bar: bool = False

    def carry_out(self, findings: Findings) -> None:
        """Fill in what is found, and how long it took.

        Each part has the same noise whatever ran before it: two priors on one VAE are asked about the same draws.
        """
        job, started = findings.job, time.perf_counter()
        with clock(self.name, job.shows_progress and not self.shows_bar), job.seeded(job.config.seeds.sample):
            setattr(findings, self.fills, self.find(findings))
        findings.seconds[self.name] = time.perf_counter() - started


def judge_classes(f: Findings) -> ConditionalSamples | None:
    assert f.nets.classifier is not None
    classifier = load_own_net(f.nets.classifier, f.trained.device)
    return measure_classes(f.trained, classifier, f.settings.num_samples, f.notes)


def draw(f: Findings) -> dict[str, Path]:
    """By their names."""
    from expost.measure.pictures import draw_pictures  # matplotlib is slow to import: only who draws

    codes, num = f.surgery.codes, f.settings.num_samples
    draw_pictures(f.trained, f.images, f.copies, f.name, f.histories, codes, f.classes, num, f.folder)
    return {stem: path for stem in PICTURES if (path := f.folder / f"{stem}.png").is_file()}


PARTS = {
    part.name: part
    for part in (
        Part("samples and features", "images", lambda f: collect_sets(f.trained, f.net, f.settings.num_samples)),
        Part(
            "distances", "distances", lambda f: measure_distances(f.trained, f.images, f.settings.neighbours, f.notes)
        ),
        Part("nearest training images", "copies", lambda f: measure_memorisation(f.trained, f.net, f.images, f.notes)),
        Part("classes", "classes", judge_classes),
        Part("bounds", "bounds", lambda f: measure_bounds(f.trained, f.job), shows_bar=True),
        Part("surgery", "surgery", lambda f: dissect(f.trained, f.job, f.name), shows_bar=True),
        Part("annealing", "annealing", lambda f: tight_bounds(f.trained, f.job, f.name), shows_bar=True),
        Part("pictures", "pictures", draw),
    )
}
"""By name, in their order: a part may read what those before it found. Only conditional priors have classes."""


def trained_stages(
    job: Job, parts: ImageParts, vae: Autoencoder, prior: Prior, latents: Sequence[LatentDataset]
) -> ImageSubject:
    """What is judged: both trained stages and, fitted now, the priors by counting beside them; `latents` of training,
    validation and test images."""
    train, val, test = latents
    floors = fit_floors(train, val, job, job.prior_name)
    baseline = baseline_prior(vae.spec).to(job.device)
    return ImageSubject(parts, prior, baseline, train, test, job.device, floors, vae=vae)


def measure(
    job: Job, trained: ImageSubject, nets: Nets, histories: Histories, folder: Path, tracker: Tracker
) -> dict[str, float | None]:
    """Write `figures.json` and the pictures into the empty `folder`; the learned prior's figures for the run's summary.

    The arguments are those of `Findings`, and the tracker of the stage.
    """
    net = load_feature_net(nets.features, job.config.evaluation.features, trained.device)
    findings = Findings(job, trained, nets, net, histories, folder)
    for part in PARTS.values():
        if part.fills != "classes" or nets.classifier is not None:
            part.carry_out(findings)
    report = build_report(findings)
    (folder / "figures.json").write_text(report.text(), encoding="utf-8", errors="backslashreplace")
    tracker.pictures(findings.pictures)
    tracker.table("report", ["row", *FIGURES], [[name, *row.figures.values()] for name, row in report.rows.items()])
    if findings.classes is not None:
        tracker.table("classes", *class_table(findings.classes.facts))
    return report.named_figures()


def finish_rows(findings: Findings) -> dict[str, Row]:
    """The rows of the report, with what each part says of them."""
    trained, name = findings.trained, findings.name
    shares, fit = findings.copies.shares, findings.histories.fit
    rows = build_rows(name, trained, findings.images, findings.distances, shares, findings.bounds, fit)
    add_surgery(rows, findings.surgery)
    add_classes(rows, name, None if findings.classes is None else findings.classes.facts)
    add_tight_bounds(rows, findings.annealing)
    if carries_unchanged(trained.vae):
        for row_name, row in rows.items():
            notes = tuple(note for note in row.notes if note != trained.parts.kind.note)
            rows[row_name] = replace(row, distortion_nats=None, notes=notes)  # of pixels from themselves: says nothing
    return rows


def build_report(findings: Findings) -> Report:
    """The content of `figures.json`."""
    trained, name, settings = findings.trained, findings.name, findings.settings
    data, num_compared = trained.parts.data, len(findings.images["reference"].features)
    shown = subset(data.test, settings.num_bound_images)
    truth_nats, truth_notes = compare_with_truth(trained.parts, shown, findings.bounds, name)
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
        notes=(*findings.notes, *truth_notes, *findings.surgery.notes),
        true_nll_nats=truth_nats,
        baseline=trained.baseline_name,
        counted=tuple(trained.floors),
        surgery=findings.surgery,
        classes=None if findings.classes is None else findings.classes.facts,
        fitting={name: fitting_of(findings.job, trained, name, findings.histories.fit)},
        annealing=findings.annealing,
        carries_unchanged=carries_unchanged(trained.vae),
        seconds=findings.seconds,
    )
    return conclude(report)
