"""The glue between two trained stages and the judge: an evaluation is a list of parts that fill one result.

Every row is measured with the same number of images against the same test images, in the same features. `stage=plan`
times the same parts, by name.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expost.config.schema import Evaluation
from expost.evaluation import report
from expost.evaluation.bounds import Bounds
from expost.evaluation.distances import Distances
from expost.evaluation.figures import PICTURES
from expost.job import Run
from expost.measure.annealing import tight_bounds
from expost.measure.bounds import measured_bounds
from expost.measure.classes import Classes, add_classes, judged_classes, table_of
from expost.measure.counted_priors import counted_floors, floor_ingredients
from expost.measure.feature_nets import Extractor, Nets, load_feature_net, load_own_net
from expost.measure.image_sets import SCATTERED, Copied, Seen, measured_distances, measured_memorisation, seen_images
from expost.measure.latents import dissect
from expost.measure.remedies import told_of_fit
from expost.measure.rows import add_surgery, add_tight_bounds, assembled_rows, repeats_of
from expost.measure.subject import Trained, baseline_prior
from expost.measure.truth import against_truth, carries_unchanged
from expost.parts.assembly import Parts
from expost.training.progress import clock
from expost.training.tracking import Tracker
from stage1_vae.data.images import subset
from stage1_vae.latents import LatentDataset
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior

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
        histories: `vae`: figures an epoch; `fit`: what the fit reported.
        folder: where the pictures go.
        notes: in words, what is missing and why, but for that of the surgery.
        seconds: wall time of each part.
        others: each is filled in by one of `PARTS`.
    """

    job: Run
    trained: Trained
    nets: Nets
    net: Extractor
    histories: Mapping[str, Any]
    folder: Path
    notes: list[str] = field(init=False, default_factory=list)
    seconds: dict[str, float] = field(init=False, default_factory=dict)
    seen: Mapping[str, Seen] = field(init=False)
    distances: Mapping[str, Distances] = field(init=False)
    copied: Copied = field(init=False)
    classes: Classes | None = field(init=False, default=None)
    bounded: Mapping[str, Bounds] = field(init=False)
    surgery: dict[str, Any] = field(init=False)
    tight: dict[str, Any] = field(init=False)
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


def judge_classes(f: Findings) -> Classes | None:
    assert f.nets.judge is not None
    return judged_classes(f.trained, load_own_net(f.nets.judge, f.job), f.settings.num_samples, f.notes)


def draw(f: Findings) -> dict[str, Path]:
    """By their names."""
    from expost.measure.pictures import draw_pictures  # matplotlib is slow to import: only who draws

    codes, num = f.surgery["codes"], f.settings.num_samples
    draw_pictures(f.trained, f.seen, f.copied, f.name, f.histories, codes, f.classes, num, f.folder)
    return {stem: path for stem in PICTURES if (path := f.folder / f"{stem}.png").is_file()}


PARTS = {
    part.name: part
    for part in (
        Part("samples and features", "seen", lambda f: seen_images(f.trained, f.net, f.settings.num_samples)),
        Part("distances", "distances", lambda f: measured_distances(f.trained, f.seen, f.settings.neighbours, f.notes)),
        Part("nearest training images", "copied", lambda f: measured_memorisation(f.trained, f.net, f.seen, f.notes)),
        Part("classes", "classes", judge_classes),
        Part("bounds", "bounded", lambda f: measured_bounds(f.trained, f.job), shows_bar=True),
        Part("surgery", "surgery", lambda f: dissect(f.trained, f.job, f.name), shows_bar=True),
        Part("annealing", "tight", lambda f: tight_bounds(f.trained, f.job, f.name), shows_bar=True),
        Part("pictures", "pictures", draw),
    )
}
"""By name, in their order: a part may read what those before it found. Only conditional priors have classes."""


def trained_stages(
    job: Run, parts: Parts, vae: VAE, prior: Prior, latents: tuple[LatentDataset, LatentDataset, LatentDataset]
) -> Trained:
    """What is judged: both stages and, fitted now, the priors by counting beside them.

    Args:
        job, parts: the job and its data.
        vae, prior: trained.
        latents: of training, validation and test images.
    """
    train, val, test = latents
    floors = counted_floors(train, val, job, job.prior_name)
    return Trained(vae, prior, baseline_prior(vae.spec).to(job.device), train, test, parts, job.device, floors)


def measure(
    job: Run, trained: Trained, nets: Nets, histories: Mapping[str, Any], folder: Path, tracker: Tracker
) -> dict[str, Any]:
    """Write `figures.json` and the pictures into the empty `folder`; the learned prior's figures for the run's summary.

    The arguments are those of `Findings`, and the tracker of the stage.
    """
    findings = Findings(job, trained, nets, load_feature_net(nets.features, job), histories, folder)
    for part in PARTS.values():
        if part.fills != "classes" or nets.judge is not None:
            part.carry_out(findings)
    result = build_result(findings)
    (folder / "figures.json").write_text(report.to_json(result), encoding="utf-8", errors="backslashreplace")
    tracker.pictures(findings.pictures)
    columns = ["row", *report.FIGURES]
    table_rows = [[row, *(facts[key] for key in report.FIGURES)] for row, facts in result["rows"].items()]
    tracker.table("report", columns, table_rows)
    if findings.classes is not None:
        tracker.table("classes", *table_of(findings.classes.facts))
    return {f"{row}/{key}": facts[key] for row, facts in result["rows"].items() for key in report.FIGURES}


def finished_rows(findings: Findings) -> dict[str, dict[str, Any]]:
    """The rows of the report, with what each part says of them."""
    trained, name = findings.trained, findings.name
    shares, fit = findings.copied.shares, findings.histories["fit"]
    rows = assembled_rows(name, trained, findings.seen, findings.distances, shares, findings.bounded, fit)
    add_surgery(rows, findings.surgery)
    add_classes(rows, name, findings.classes)
    add_tight_bounds(rows, findings.tight)
    if carries_unchanged(trained.vae):
        for facts in rows.values():
            notes = [note for note in facts["notes"] if note != trained.parts.kind.note]
            facts.update(distortion_nats=None, notes=notes)  # of pixels from themselves: it says nothing
    return rows


def build_result(findings: Findings) -> dict[str, Any]:
    """The content of `figures.json`."""
    trained, name, settings = findings.trained, findings.name, findings.settings
    data, num_compared = trained.parts.data, len(findings.seen["reference"].features)
    truth = against_truth(trained.parts, subset(data.test, settings.num_bound_images), findings.bounded, name)
    return report.build_report(
        data=data.name,
        features=findings.net.description,
        rows=finished_rows(findings),
        reference=f"{num_compared:,} test images",
        num_samples=num_compared,
        num_bound_images=min(settings.num_bound_images, len(data.test)),
        importance_samples=settings.importance_samples,
        neighbours=settings.neighbours,
        annealing_settings=settings.annealing and settings.annealing.model_dump(),
        num_repeats=repeats_of(findings.distances, trained, name),
        num_training_images=len(data.train),
        notes=[*findings.notes, *([] if truth is None else [truth.note]), *findings.surgery["notes"]],
        true_nll_nats=None if truth is None else truth.nll_nats,
        baseline=trained.baseline_name,
        counted=list(trained.floors),
        surgery=findings.surgery,
        classes=findings.classes and findings.classes.facts,
        fitting={name: told_of_fit(findings.job, trained, name, findings.histories["fit"])},
        annealing=findings.tight or None,
        carries_unchanged=carries_unchanged(trained.vae),
        seconds=findings.seconds,
    )
