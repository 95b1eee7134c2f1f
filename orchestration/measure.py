"""The glue between two trained stages and the judge: figures and pictures of one evaluation.

Every row is measured with the same number of images against the same test images, in the same features.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluation import bounds, distances, features, report
from evaluation.errors import EvaluationError
from orchestration.assembly import Parts
from orchestration.build import version
from orchestration.pictures import PICTURES, draw_pictures
from orchestration.progress import bar, clock, counting
from orchestration.sampling import block_size, pixel_range
from orchestration.stages import Run, run_stage
from orchestration.store import Artifact
from orchestration.tracking import Tracker
from orchestration.trained import PICTURED, Seen, Trained
from stage1_vae.base_priors import StandardNormal as BasePrior
from stage1_vae.data.images import ImageSet, spread
from stage1_vae.latents import LatentDataset
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE
from stage2_prior.prior import Exactness, Prior
from stage2_prior.priors.standard_normal import StandardNormal

VERSION = 1
"""Part of the key of what `measure` makes; raised whenever its results change."""
FEATURE_SEED = 0
MAX_BOUND_PIXELS = 2**23
"""Decoded at once for the bounds: a dozen float32 copies of so many pixels are about 400 MB."""
MAX_FEATURE_IMAGES = 100_000
MAX_FEATURE_PIXELS = 2**28
"""What the feature net is trained on is held in memory: 1 GiB of float32, or 1,365 images of 3 x 256 x 256."""


def feature_net(run: Run, parts: Parts) -> Artifact:
    """The net whose features the distances are measured in, trained once a data set."""

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        some = spread(parts.data.train, min(MAX_FEATURE_IMAGES, MAX_FEATURE_PIXELS // math.prod(parts.data.shape)))
        images = torch.cat(list(cleaned(parts, some)))
        labels = None if some.labels is None else some.labels.cpu()
        with counting("features", run.shows_progress, tracker.log) as log:
            net = features.make_feature_net(images, labels, parts.data.num_classes, FEATURE_SEED, run.device, log=log)
        save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / "features.safetensors")
        (folder / "features.json").write_text(json.dumps(net.to_config()))
        return {"held_out_accuracy": net.config.held_out_accuracy}

    ingredients = {
        "data": parts.data.fingerprint,
        "source": version(run.config.data),
        "seed": FEATURE_SEED,
        "version": features.FeatureNet.version,
    }
    return run_stage(run, "features", ingredients, make)


def load_feature_net(artifact: Artifact, device: torch.device) -> features.FeatureNet:
    net = features.FeatureNet.from_config(json.loads((artifact.path / "features.json").read_text()))
    net.load_state_dict(load_file(artifact.path / "features.safetensors"))
    return net.to(device)


def cleaned(parts: Parts, images: ImageSet) -> Iterator[Tensor]:
    """Intensities without noise or binarisation in blocks [b, C, H, W] on the CPU; real ones scaled to [0, 1]."""
    low, high = pixel_range(parts.data)
    for index in torch.arange(len(images)).split(block_size(parts.data.shape)):
        x = parts.preprocess.clean(images.batch(index)).cpu()
        yield ((x - low) / (high - low)).clamp(0, 1)  # as decoded ones are


def measure(
    run: Run,
    parts: Parts,
    vae: VAE,
    prior: Prior,
    feature_artifact: Artifact,
    latents: tuple[LatentDataset, LatentDataset],
    histories: Mapping[str, Any],
    folder: Path,
    tracker: Tracker,
) -> dict[str, Any]:
    """Write `figures.json` and the pictures into `folder`; the learned prior's figures for the run's summary.

    Args:
        run, parts: the job and its data.
        vae, prior: trained.
        feature_artifact: the feature net.
        latents: of training and test images.
        histories: `vae`: figures an epoch; `fit`: what the fit reported.
        folder: empty.
        tracker: of the stage.
    """
    trained = Trained(vae, prior, StandardNormal(vae.spec).to(run.device), latents[0], latents[1], parts, run.device)
    name = run.launch.choices.get("prior", "learned")
    net = load_feature_net(feature_artifact, run.device)
    notes: list[str] = []
    with clock("distances", run.shows_progress):
        seen = seen_images(trained, net, run.config.evaluation.num_samples)
        measured = measured_distances(seen, run.config.evaluation.neighbours, notes)
    bounded = measured_bounds(trained, run)
    rows = assembled_rows(name, trained, measured, bounded, histories["fit"])
    draw_pictures(trained, seen, name, histories, folder)
    result = report.build_report(
        data=parts.data.name,
        features=net.description,
        rows=rows,
        reference=f"{len(seen['reference'].features):,} test images",
        num_samples=len(seen["reference"].features),
        num_bound_images=min(run.config.evaluation.num_bound_images, len(parts.data.test)),
        importance_samples=run.config.evaluation.importance_samples,
        notes=notes,
    )
    (folder / "figures.json").write_text(report.to_json(result))
    tracker.pictures({stem: folder / f"{stem}.png" for stem in PICTURES})
    columns = ["row", *report.FIGURES]
    tracker.table("report", columns, [[row, *(facts[key] for key in report.FIGURES)] for row, facts in rows.items()])
    return {f"{row}/{key}": facts[key] for row, facts in result["rows"].items() for key in report.FIGURES}


def look(net: features.FeatureNet, blocks: Iterator[Tensor]) -> Seen:
    """Features of a stream of images; only the few that will be pictured are kept."""
    rows: list[Tensor] = []
    few: list[Tensor] = []
    for block in blocks:
        rows.append(net.extract(block))
        if sum(len(kept) for kept in few) < PICTURED:
            few.append(block)
    return Seen(torch.cat(rows), torch.cat(few)[:PICTURED])


def seen_images(trained: Trained, net: features.FeatureNet, limit: int) -> dict[str, Seen]:
    """Sets of equally many images: the reference, and one a row of the table."""
    data, parts = trained.parts.data, trained.parts
    num = min(limit, len(data.test), len(data.train))
    test_rows = torch.linspace(0, len(data.test) - 1, num).round().long()
    return {
        "reference": look(net, cleaned(parts, spread(data.test, num))),
        report.BASELINE: look(net, trained.decoded(trained.draw(trained.baseline, num))),
        "learned": look(net, trained.decoded(trained.draw(trained.prior, num))),
        report.RECONSTRUCTIONS: look(net, trained.decoded(trained.test.draw(test_rows))),
        report.TRAIN_AGAINST_TEST: look(net, cleaned(parts, spread(data.train, num))),
    }


def measured_distances(seen: Mapping[str, Seen], neighbours: int, notes: list[str]) -> dict[str, distances.Distances]:
    """Distances of every set against the reference; none, with a note, where there are too few images."""
    try:
        reference = distances.Reference.of(seen["reference"].features, neighbours)
        return {name: distances.distances(reference, s.features) for name, s in seen.items() if name != "reference"}
    except EvaluationError as error:
        notes.append(str(error))
        return {}


def measured_bounds(trained: Trained, run: Run) -> dict[str, bounds.Bounds]:
    """Bounds on the test images under the baseline and the learned prior, from the same proposals."""
    settings = run.config.evaluation
    vae, images = trained.vae, spread(trained.parts.data.test, settings.num_bound_images)
    block = block_size(trained.parts.data.shape)
    max_rows = max(1, min(8192, MAX_BOUND_PIXELS // math.prod(trained.parts.data.shape)))
    batches = trained.parts.batches(images, min(settings.batch_size, block), run)
    x_batches = (x for x, _ in bar("bounds", run.shows_progress, batches))

    def propose(x: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
        posterior = vae.encode(x).posterior
        z = posterior.rsample(torch.Size([n]))  # [n, B, *latent]
        return z, None if trained.test.is_point_mass else posterior.log_prob(z)

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        image = vae.decode(z.flatten(0, 1))
        return image.log_prob(x.repeat(len(z), 1, 1, 1)).view(z.shape[:2])

    def closed_form(x: Tensor) -> Tensor:
        posterior = vae.encode(x).posterior
        return rate_nats(posterior, vae.base_prior, posterior.mean)

    densities = {
        key: prior.log_prob if prior.log_prob_is is not Exactness.NONE else None
        for key, prior in ((report.BASELINE, trained.baseline), ("learned", trained.prior))
    }
    exact = type(vae.bottleneck.base_prior) is BasePrior  # then stage 1 was trained against the baseline itself
    rates = {report.BASELINE: closed_form} if exact and not trained.test.is_point_mass else {}
    return bounds.importance_bounds(
        x_batches, propose, log_likelihood, densities, settings.importance_samples, rates, max_rows
    )


def assembled_rows(
    name: str,
    trained: Trained,
    measured: Mapping[str, distances.Distances],
    bounded: Mapping[str, bounds.Bounds],
    fit: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The rows of the report; the learned prior's under its config name."""
    kind = trained.parts.kind
    rows = {report.BASELINE: (report.BASELINE, 0.0, 0)}
    if name != report.BASELINE:
        rows[name] = ("learned", fit["seconds"], fit["num_parameters"])
    table = {}
    for row, (key, seconds, num_parameters) in rows.items():
        means = bounded[key].means()
        if not kind.is_density:
            means["iwae_nats"] = None
        table[row] = report.build_row(
            bounds=means,
            distances=measured.get(key),
            bits_per_dim=bits_of(means["iwae_nats"], trained),
            fit_seconds=seconds,
            num_parameters=num_parameters,
            notes=[kind.note] if kind.note else [],
        )
    for floor in report.FLOORS:
        table[floor] = report.build_row(distances=measured.get(floor))
    table[report.RECONSTRUCTIONS]["distortion_nats"] = bounded[report.BASELINE].means()["distortion_nats"]
    return table


def bits_of(nll_nats: float | None, trained: Trained) -> float | None:
    """Bits per dimension of a bound on a density or mass of images; None where there is none."""
    kind = trained.parts.kind
    if nll_nats is None or not kind.is_density:
        return None
    return bounds.bits_per_dim(nll_nats, math.prod(trained.parts.data.shape), kind.dequantized_levels or 1)
