"""The glue between two trained stages and the judge: figures and pictures of one evaluation.

Every row is measured with the same number of images against the same test images, in the same features.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluation import bounds, distances, features, figures, report
from evaluation.errors import EvaluationError
from orchestration.assembly import Parts
from orchestration.progress import bar, clock, counting
from orchestration.sampling import block_size, pixel_range
from orchestration.stages import Run, run_stage
from orchestration.store import Artifact
from orchestration.tracking import Tracker
from stage1_vae.base_priors import StandardNormal as BasePrior
from stage1_vae.data.images import ImageSet
from stage1_vae.latents import LatentDataset, LatentDensity
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE
from stage2_prior.prior import Exactness, Prior
from stage2_prior.priors.standard_normal import StandardNormal

VERSION = 1
"""Part of the key of what `measure` makes; raised whenever its results change."""
FEATURE_SEED = 0
MAX_FEATURE_IMAGES = 100_000
PICTURED = 64
SCATTERED = 4000

PICTURES = {
    "samples": "Decoded draws of N(0, I) beside decoded draws of the learned prior.",
    "latents": "Latents of training images on their first two principal axes, against N(0, I) and the learned prior.",
    "reconstructions": "Test images and their reconstructions, the mean of p(x|z) at z ~ q(z|x).",
    "interpolations": "From one test image to another, through latent space.",
    "curves": "Training of both stages.",
}
"""File stem -> caption, in the order of the report."""


def feature_net(run: Run, parts: Parts) -> Artifact:
    """The net whose features the distances are measured in, trained once a data set."""

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        train = parts.data.train
        index = torch.arange(min(len(train), MAX_FEATURE_IMAGES))
        images = clean_images(parts, train, index)
        labels = None if train.labels is None else train.labels.cpu()[index]
        with counting("features", run.shows_progress, tracker.log) as log:
            net = features.make_feature_net(images, labels, parts.data.num_classes, FEATURE_SEED, run.device, log=log)
        save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / "features.safetensors")
        (folder / "features.json").write_text(json.dumps(net.to_config()))
        return {"held_out_accuracy": net.config.held_out_accuracy}

    ingredients = {"data": parts.data.fingerprint, "seed": FEATURE_SEED, "version": features.FeatureNet.version}
    return run_stage(run, "features", ingredients, make)


def load_feature_net(artifact: Artifact, device: torch.device) -> features.FeatureNet:
    net = features.FeatureNet.from_config(json.loads((artifact.path / "features.json").read_text()))
    net.load_state_dict(load_file(artifact.path / "features.safetensors"))
    return net.to(device)


def clean_images(parts: Parts, images: ImageSet, index: Tensor) -> Tensor:
    """Intensities [N, C, H, W] without noise or binarisation, on the CPU; real-valued ones scaled to [0, 1]."""
    low, high = pixel_range(parts.data)
    blocks = [(parts.preprocess.clean(images.batch(part)).cpu() - low) / (high - low) for part in index.split(1000)]
    return torch.cat(blocks)


@dataclass(frozen=True)
class Trained:
    """Both stages and what they know of the images.

    Attributes:
        vae, prior: trained, in evaluation mode.
        baseline: N(0, I) on the same latents.
        train, test: their latents.
        parts: data and preprocessing.
    """

    vae: VAE
    prior: Prior
    baseline: Prior
    train: LatentDataset
    test: LatentDataset
    parts: Parts
    device: torch.device

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Means of p(x|z), scaled to [0, 1]: [N, C, H, W] on the CPU for z [N, *latent]."""
        low, high = pixel_range(self.parts.data)
        blocks = z.split(block_size(self.parts.data.shape))
        means = [self.vae.decode(block.to(self.device)).mean.cpu() for block in blocks]
        return ((torch.cat(means) - low) / (high - low)).clamp(0, 1)

    @torch.no_grad()
    def draw(self, prior: LatentDensity, num: int) -> Tensor:
        """z [num, *latent] from `prior`, on the CPU."""
        sizes = [min(1000, num - start) for start in range(0, num, 1000)]
        return torch.cat([prior.sample(size).cpu() for size in sizes])


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
        images = drawn_images(trained, run.config.evaluation.num_samples)
        measured = measured_distances(images, net, run, notes)
    bounded = measured_bounds(trained, run)
    rows = assembled_rows(name, trained, measured, bounded, histories["fit"])
    draw_pictures(trained, images, name, histories, folder)
    result = report.build_report(
        data=parts.data.name,
        features=net.description,
        rows=rows,
        reference=f"{len(images['reference']):,} test images",
        num_samples=len(images["reference"]),
        num_bound_images=min(run.config.evaluation.num_bound_images, len(parts.data.test)),
        importance_samples=run.config.evaluation.importance_samples,
        notes=notes,
    )
    (folder / "figures.json").write_text(report.to_json(result))
    tracker.pictures({stem: folder / f"{stem}.png" for stem in PICTURES})
    columns = ["row", *report.FIGURES]
    tracker.table("report", columns, [[row, *(facts[key] for key in report.FIGURES)] for row, facts in rows.items()])
    return {f"{row}/{key}": facts[key] for row, facts in result["rows"].items() for key in report.FIGURES}


def drawn_images(trained: Trained, limit: int) -> dict[str, Tensor]:
    """Sets of equally many images [N, C, H, W]: the reference, and one a row of the table."""
    data, parts = trained.parts.data, trained.parts
    num = min(limit, len(data.test), len(data.train))
    index = torch.arange(num)
    return {
        "reference": clean_images(parts, data.test, index),
        report.BASELINE: trained.decode(trained.draw(trained.baseline, num)),
        "learned": trained.decode(trained.draw(trained.prior, num)),
        report.RECONSTRUCTIONS: trained.decode(trained.test.draw(index)),
        report.TRAIN_AGAINST_TEST: clean_images(parts, data.train, index),
    }


def measured_distances(
    images: Mapping[str, Tensor], net: features.FeatureNet, run: Run, notes: list[str]
) -> dict[str, distances.Distances]:
    """Distances of every set against the reference; none, with a note, where there are too few images."""
    try:
        reference = distances.Reference.of(net.extract(images["reference"]), run.config.evaluation.neighbours)
        others = {name: x for name, x in images.items() if name != "reference"}
        return {name: distances.distances(reference, net.extract(x)) for name, x in others.items()}
    except EvaluationError as error:
        notes.append(str(error))
        return {}


def measured_bounds(trained: Trained, run: Run) -> dict[str, bounds.Bounds]:
    """Bounds on the test images under the baseline and the learned prior, from the same proposals."""
    settings = run.config.evaluation
    vae, batches = trained.vae, trained.parts.batches(trained.parts.data.test, settings.batch_size, run)
    num_batches = math.ceil(settings.num_bound_images / settings.batch_size)

    def x_batches() -> Iterator[Tensor]:
        left = settings.num_bound_images
        for (x, _), _ in bar(
            "bounds", run.shows_progress, zip(batches, range(num_batches), strict=False), total=num_batches
        ):
            yield x[:left]
            left -= len(x)

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
    return bounds.importance_bounds(x_batches(), propose, log_likelihood, densities, settings.importance_samples, rates)


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


def draw_pictures(
    trained: Trained, images: Mapping[str, Tensor], name: str, histories: Mapping[str, Any], folder: Path
) -> None:
    """The PNG files of `PICTURES`."""
    shown = {key: picture(x[:PICTURED]) for key, x in images.items()}
    figures.samples_side_by_side(shown[report.BASELINE], shown["learned"], folder / "samples.png", name)
    few = slice(0, 24)
    figures.reconstructions(shown["reference"][few], shown[report.RECONSTRUCTIONS][few], folder / "reconstructions.png")
    num = min(SCATTERED, len(trained.train))
    posterior = trained.train.draw(torch.randperm(len(trained.train))[:num])
    drawn = trained.draw(trained.baseline, num), trained.draw(trained.prior, num)
    figures.latent_scatter(posterior, *drawn, folder / "latents.png", name)
    ends = trained.test.draw(torch.arange(min(16, len(trained.test))))  # [2 * pairs, *latent]
    pairs = len(ends) // 2
    start, end = ends[:pairs], ends[pairs : 2 * pairs]
    steps = [start + t * (end - start) for t in torch.linspace(0, 1, 10)]
    paths = torch.stack(steps, 1)  # [pairs, steps, *latent]
    decoded = picture(trained.decode(paths.flatten(0, 1))).unflatten(0, paths.shape[:2])
    figures.interpolations(decoded, folder / "interpolations.png")
    figures.training_curves(histories["vae"], histories["fit"]["curve"], folder / "curves.png")


def picture(x: Tensor) -> Tensor:
    """Images of any number of channels as grey or RGB: [N, 1 or 3, H, W]."""
    channels = x.shape[1]
    return x if channels in (1, 3) else x[:, :3] if channels == 4 else x[:, :1]
