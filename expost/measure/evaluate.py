"""The glue between two trained stages and the judge: figures and pictures of one evaluation.

Every row is measured with the same number of images against the same test images, in the same features.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expost.evaluation import report
from expost.evaluation.figures import PICTURES
from expost.job import Run
from expost.measure.annealing import tight_bounds
from expost.measure.bounds import measured_bounds
from expost.measure.classes import add_classes, judged_classes, table_of
from expost.measure.counted_priors import counted_floors, floor_ingredients
from expost.measure.feature_nets import (
    Nets,
    check_feature_file,
    load_feature_net,
    load_own_net,
    try_feature_file,
)
from expost.measure.image_sets import SCATTERED, measured_distances, measured_memorisation, seen_images
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

__all__ = ["PICTURES", "VERSION", "check_feature_file", "measure", "try_feature_file"]
VERSION = 8
"""Part of the key of what `measure` makes; raised whenever its results change."""


def measure_ingredients(parts: Parts, num_samples: int) -> dict[str, Any]:
    """The versions of everything that `measure` fits and computes by itself."""
    pictured = {"scattered": num_samples} if num_samples < SCATTERED else {}  # once as many as there are images
    return {"version": VERSION, **pictured, **floor_ingredients(parts.vae.spec)}


@contextmanager
def timed(part: str, run: Run, seconds: dict[str, float], silently: bool = False) -> Iterator[None]:
    """Write down how long the block took; a clock on the terminal meanwhile, unless the block shows a bar itself.

    Each part has the same noise whatever ran before it: two priors on one VAE are asked about the same draws.
    """
    started = time.perf_counter()
    with clock(part, run.shows_progress and not silently), run.seeded(run.config.seeds.sample):
        yield
    seconds[part] = time.perf_counter() - started


def measure(
    run: Run,
    parts: Parts,
    vae: VAE,
    prior: Prior,
    nets: Nets,
    latents: tuple[LatentDataset, LatentDataset, LatentDataset],
    histories: Mapping[str, Any],
    folder: Path,
    tracker: Tracker,
) -> dict[str, Any]:
    """Write `figures.json` and the pictures into `folder`; the learned prior's figures for the run's summary.

    Args:
        run, parts: the job and its data.
        vae, prior: trained.
        nets: what looks at the images.
        latents: of training, validation and test images.
        histories: `vae`: figures an epoch; `fit`: what the fit reported.
        folder: empty.
        tracker: of the stage.
    """
    name = run.command.choices.get("prior", "learned")
    from expost.measure.pictures import draw_pictures  # matplotlib is slow to import: only who draws

    train, val, test = latents
    floors = counted_floors(train, val, run, name)
    trained = Trained(vae, prior, baseline_prior(vae.spec).to(run.device), train, test, parts, run.device, floors)
    settings = run.config.evaluation
    net = load_feature_net(nets.features, run)
    notes: list[str] = []
    seconds: dict[str, float] = {}
    with timed("samples and features", run, seconds):
        seen = seen_images(trained, net, settings.num_samples)
    with timed("distances", run, seconds):
        measured = measured_distances(trained, seen, settings.neighbours, notes)
    with timed("nearest training images", run, seconds):
        copied = measured_memorisation(trained, net, seen, notes)
    classes = None
    if nets.judge is not None:
        with timed("classes", run, seconds):
            classes = judged_classes(trained, load_own_net(nets.judge, run), settings.num_samples, notes)
    with timed("bounds", run, seconds, silently=True):
        bounded = measured_bounds(trained, run)
    truth = against_truth(parts, subset(parts.data.test, settings.num_bound_images), bounded, name)
    notes += [] if truth is None else [truth.note]
    rows = assembled_rows(name, trained, seen, measured, copied.shares, bounded, histories["fit"])
    with timed("surgery", run, seconds, silently=True):
        surgery = dissect(trained, run, name)
    add_surgery(rows, surgery)
    add_classes(rows, name, classes)
    notes += surgery["notes"]
    with timed("annealing", run, seconds, silently=True):
        tight = tight_bounds(trained, run, name)
    add_tight_bounds(rows, tight)
    if carries_unchanged(trained.vae):
        for facts in rows.values():
            said = [note for note in facts["notes"] if note != parts.kind.note]
            facts.update(distortion_nats=None, notes=said)  # of pixels from themselves: it says nothing
    with timed("pictures", run, seconds):
        draw_pictures(trained, seen, copied, name, histories, surgery["codes"], classes, settings.num_samples, folder)
    result = report.build_report(
        data=parts.data.name,
        features=net.description,
        rows=rows,
        reference=f"{len(seen['reference'].features):,} test images",
        num_samples=len(seen["reference"].features),
        num_bound_images=min(settings.num_bound_images, len(parts.data.test)),
        importance_samples=settings.importance_samples,
        neighbours=settings.neighbours,
        annealing_settings=settings.annealing and settings.annealing.model_dump(),
        num_repeats=repeats_of(measured, trained, name),
        num_training_images=len(parts.data.train),
        notes=notes,
        true_nll_nats=None if truth is None else truth.nll_nats,
        baseline=trained.baseline_name,
        counted=list(floors),
        surgery=surgery,
        classes=classes and classes.facts,
        fitting={name: told_of_fit(run, trained, name, histories["fit"])},
        annealing=tight or None,
        carries_unchanged=carries_unchanged(trained.vae),
        seconds=seconds,
    )
    (folder / "figures.json").write_text(report.to_json(result), encoding="utf-8", errors="backslashreplace")
    tracker.pictures({stem: path for stem in PICTURES if (path := folder / f"{stem}.png").is_file()})
    columns = ["row", *report.FIGURES]
    table_rows = [[row, *(facts[key] for key in report.FIGURES)] for row, facts in result["rows"].items()]
    tracker.table("report", columns, table_rows)
    if classes is not None:
        tracker.table("classes", *table_of(classes.facts))
    return {f"{row}/{key}": facts[key] for row, facts in result["rows"].items() for key in report.FIGURES}
