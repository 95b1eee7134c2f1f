"""The glue between two trained stages and the judge: the parts of an evaluation of images.

Every row is measured with the same number of images against the same test images, in the same features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expost.evaluation.exploration.content import Exploration
from expost.evaluation.report import Report, Row
from expost.evaluation.sections import Clusters, InferenceGaps, TightBounds
from expost.evaluation.verdict import conclude
from expost.job import Job
from expost.measure.bounds import carries_unchanged, compare_with_truth, measure_bounds, tight_bounds
from expost.measure.feature_nets import Extractor, Nets, load_feature_net, load_own_net
from expost.measure.findings import Findings, Part, carry_out
from expost.measure.image_sets import (
    SCATTERED,
    collect_sets,
    measure_distances,
    measure_memorisation,
)
from expost.measure.inference.gaps import add_gaps, measure_gaps
from expost.measure.labelled.classes import ConditionalSamples, add_classes, measure_classes
from expost.measure.labelled.clusters import add_clusters, are_classes, measure_clusters
from expost.measure.latents import dissect
from expost.measure.remedies import fitting_of, for_empty_code
from expost.measure.rows import add_caveats, add_surgery, add_tight_bounds, build_rows, repeats_of
from expost.measure.subject import ImageSubject, baseline_prior, fit_floors, floor_ingredients
from expost.parts.assembly import ImageParts, Parts
from expost.parts.weights import Histories
from expost.training.tracking import Tracker
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import subset
from stage1_vae.latents import LatentDataset
from stage2_prior.prior import Prior
from stage2_prior.priors.learned import Learned

VERSION = 9
"""Part of the key of what `measure` makes; raised whenever its results change."""


def measure_ingredients(parts: Parts, num_samples: int) -> dict[str, Any]:
    """The versions of everything that `measure` fits and computes by itself."""
    pictured = {"scattered": num_samples} if num_samples < SCATTERED else {}  # once as many as there are images
    return {"version": VERSION, **pictured, **floor_ingredients(parts.spec)}


@dataclass
class ImageFindings(Findings):
    """An evaluation of two trained stages.

    Attributes:
        trained: both stages, their latents and the images.
        nets: what looks at the images.
        net: of these the one that distances are measured in, on the device.
        annealing: tight bounds.
        gaps: what the ELBO lacks.
    """

    trained: ImageSubject
    nets: Nets = field(kw_only=True)
    net: Extractor = field(kw_only=True)
    annealing: TightBounds | None = field(init=False)
    gaps: InferenceGaps | None = field(init=False)


def judge_classes(f: ImageFindings) -> ConditionalSamples | None:
    assert f.nets.classifier is not None
    classifier = load_own_net(f.nets.classifier, f.trained.device)
    return measure_classes(f.trained, classifier, f.settings.num_samples, f.notes)


def draw(f: ImageFindings) -> dict[str, Path]:
    """By their names."""
    from expost.measure.pictures import draw_pictures  # matplotlib is slow to import: only who draws

    codes, num = f.surgery.codes, f.settings.num_samples
    draw_pictures(f.trained, f.images, f.copies, f.name, f.histories, codes, f.classes, num, f.folder)
    return f.drawn()


def explore(f: ImageFindings) -> Exploration | None:
    """What a page lets one explore, in files beside the pictures; and of its traversals a picture."""
    from expost.evaluation import figures  # matplotlib is slow to import: only who draws
    from expost.measure.exploration.points import explore_images
    from expost.measure.exploration.traversals import traverse

    traversed = traverse(f.trained, f.surgery.dimensions, f.folder)
    if traversed is not None:
        traversals, decoded = traversed
        names = [dim.name for dim in traversals.dims]
        figures.traversals(decoded, names, traversals.starts[0], f.folder / "traversals.png")
    content = explore_images(f.trained, f.images, f.name, f.settings.num_samples, traversed and traversed[0], f.folder)
    if content is not None:
        content.save(f.folder)
    return content


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
        Part("gaps", "gaps", lambda f: measure_gaps(f.trained, f.job, f.name), shows_bar=True),
        Part("exploration", "exploration", explore),
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
    findings = ImageFindings(job, trained, histories, folder, nets=nets, net=net)
    parts = [part for part in PARTS.values() if part.fills != "classes" or nets.classifier is not None]
    return carry_out(parts, findings, build_report, tracker).named_figures()


def finish_rows(findings: ImageFindings, clusters: Clusters | None) -> dict[str, Row]:
    """The rows of the report, with what each part says of them."""
    trained, name = findings.trained, findings.name
    fit = findings.histories.fit
    rows = build_rows(name, trained, findings.images, findings.distances, findings.copies, findings.bounds, fit)
    add_surgery(rows, findings.surgery)
    add_classes(rows, name, None if findings.classes is None else findings.classes.facts)
    add_tight_bounds(rows, findings.annealing)
    add_gaps(rows, findings.gaps)
    add_caveats(rows, name, trained.prior)
    if carries_unchanged(trained.vae):
        for row_name, row in rows.items():
            notes = tuple(note for note in row.notes if note != trained.parts.kind.note)
            rows[row_name] = replace(row, distortion_nats=None, notes=notes)  # of pixels from themselves: says nothing
    add_clusters(rows, name, clusters)
    return rows


def learned_with(trained: ImageSubject) -> list[str]:
    """What N(0, I) is to a VAE that was not trained against it, in words."""
    objective = trained.parts.objective
    if not (isinstance(trained.prior, Learned) or (objective is not None and objective.prior is not None)):
        return []
    return [
        f"this VAE was trained against a prior that was learned with it: the row of {trained.baseline_name} says what "
        "another prior would cost it, and not what it was trained for"
    ]


def build_report(findings: ImageFindings) -> Report:
    """The content of `figures.json`."""
    trained, name, settings = findings.trained, findings.name, findings.settings
    data, num_compared = trained.parts.data, len(findings.images["reference"].features)
    shown = subset(data.test, settings.num_bound_images)
    clusters = measure_clusters(trained, classes_known=are_classes(findings.job, trained.prior))
    truth_nats, truth_notes = compare_with_truth(trained.parts, shown, findings.bounds, name)
    report = Report(
        data=data.name,
        features=findings.net.description,
        rows=finish_rows(findings, clusters),
        reference=f"{num_compared:,} test images",
        num_samples=num_compared,
        num_bound_images=min(settings.num_bound_images, len(data.test)),
        importance_samples=settings.importance_samples,
        neighbours=settings.neighbours,
        annealing_settings=None if settings.annealing is None else settings.annealing.model_dump(),
        num_repeats=repeats_of(findings.distances, trained, name),
        num_training_images=len(data.train),
        notes=(*findings.notes, *truth_notes, *findings.surgery.notes, *learned_with(trained)),
        true_nll_nats=truth_nats,
        baseline=trained.baseline_name,
        counted=tuple(trained.floors),
        surgery=findings.surgery,
        classes=None if findings.classes is None else findings.classes.facts,
        clusters=clusters,
        fitting={name: fitting_of(findings.job, trained, name, findings.histories.fit)},
        if_empty=for_empty_code(findings.job, trained),
        annealing=findings.annealing,
        gaps=findings.gaps,
        carries_unchanged=carries_unchanged(trained.vae),
        seconds=findings.seconds,
    )
    return conclude(report)
