"""The PNG files of an evaluation, from trained stages and the images that were measured, and of stage=check."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from expost.evaluation import figures
from expost.evaluation.latents.pictures import maps, marginals
from expost.evaluation.row_names import AGGREGATE, BASELINES, RECONSTRUCTIONS
from expost.evaluation.sections import Codes
from expost.measure.classes import ConditionalSamples
from expost.measure.image_sets import SCATTERED, Copies, FeaturedSet
from expost.measure.subject import ImageSubject, Subject, clean_images
from expost.parts.assembly import ImageParts
from expost.parts.weights import Histories
from stage1_vae.data.images import subset
from stage1_vae.latents import Support
from stage2_prior.prior import Prior

SHEET, SHOWN = "check-images.png", 40
"""What stage=check leaves in `paths.root`, and how many images are on it."""


def draw_pictures(
    subject: ImageSubject,
    sets: Mapping[str, FeaturedSet],
    copied: Copies,
    name: str,
    histories: Histories,
    codes: Codes | None,
    classes: ConditionalSamples | None,
    limit: int,
    folder: Path,
) -> None:
    """The PNG files of `PICTURES`, with no more than `limit` samples of a prior; `codes`, `classes` None: of others."""
    baseline = BASELINES[subject.baseline_name]
    shown = {key: picture(s.few) for key, s in sets.items()}
    figures.samples_side_by_side(shown["baseline"], shown["learned"], folder / "samples.png", name, baseline)
    few = slice(0, 24)
    figures.reconstructions(shown["reference"][few], shown[RECONSTRUCTIONS][few], folder / "reconstructions.png")
    draw_neighbours(sets, copied, name, folder / "neighbours.png")
    posterior = subject.train.draw(torch.randperm(len(subject.train))[:SCATTERED])
    num = min(limit, len(posterior))
    drawn = (
        add_latents(subject, prior, sets[key].latents, num)
        for key, prior in {"baseline": subject.baseline, "learned": subject.prior}.items()
    )
    aggregate, *clouds = (subject.embed(z) for z in (posterior, *drawn))
    figures.latent_scatter(aggregate, clouds[0], clouds[1], folder / "latents.png", name, baseline)
    ends = subject.embed(subject.test.draw(torch.arange(min(16, len(subject.test)))))  # [2 * pairs, *embedded]
    pairs = len(ends) // 2
    start, end = ends[:pairs], ends[pairs : 2 * pairs]
    steps = [start + t * (end - start) for t in torch.linspace(0, 1, 10)]
    paths = torch.stack(steps, 1)  # [pairs, steps, *embedded]
    decoded = picture(torch.cat(list(subject.decode_embedded(paths.flatten(0, 1))))).unflatten(0, paths.shape[:2])
    figures.interpolations(decoded, folder / "interpolations.png")
    figures.training_curves(histories.vae, histories.fit.curve, folder / "curves.png", bool(subject.prior.num_classes))
    if codes is not None:
        figures.codebook_usage(codes.books, histories.vae, folder / "codes.png")
    if classes is not None:
        rows = [replace(row, samples=picture(row.samples), images=picture(row.images)) for row in classes.rows]
        figures.class_rows(rows, name, folder / "classes.png")


def draw_latents(
    subject: Subject,
    sets: Mapping[str, FeaturedSet],
    name: str,
    histories: Histories,
    codes: Codes | None,
    folder: Path,
) -> None:
    """The PNG files of latents without images; `codes` None: of others."""
    baseline, spec = BASELINES[subject.baseline_name], subject.train.spec
    figures.training_curves(None, histories.fit.curve, folder / "curves.png", bool(subject.prior.num_classes))
    if codes is not None:
        figures.codebook_usage(codes.books, None, folder / "codes.png")
        return
    is_learned = name != subject.baseline_name
    priors = {baseline: (sets["baseline"].latents, figures.BASELINE)}
    if is_learned:
        priors[name] = (sets["learned"].latents, figures.LEARNED)
    reference = sets["reference"].latents
    marginals(reference, priors, spec.shape, folder / "marginals.png")
    aggregate, *few = (sets[key].features[:SCATTERED] for key in (AGGREGATE, "baseline", "learned"))
    figures.latent_scatter(aggregate, few[0], few[1], folder / "latents.png", name, baseline)  # in units of each axis
    if len(spec.shape) == 3 and spec.support is Support.REAL:
        learned = sets["learned"].latents if is_learned else None
        maps(reference, sets["baseline"].latents, learned, folder / "maps.png", name, baseline)


def add_latents(subject: ImageSubject, prior: Prior, drawn: Tensor, num: int) -> Tensor:
    """z [num, *latent]: those that were `drawn` already, and as many more as are lacking: draws may take minutes."""
    lacking = num - len(drawn)
    return torch.cat([drawn, subject.draw(prior, lacking)]) if lacking > 0 else drawn[:num]


def draw_neighbours(sets: Mapping[str, FeaturedSet], copied: Copies, name: str, path: Path) -> None:
    """Samples of the learned prior and of the training aggregate beside their nearest training images."""
    learned = ("learned", f"learned prior: {name}", figures.LEARNED)
    panels = []
    for key, title, colour in (learned, (AGGREGATE, "training aggregate", figures.POSTERIOR)):
        few = sets[key].few[:24]
        nearest = copied.nearest.get(key, torch.ones_like(few))  # of broken features: the samples alone, beside nothing
        panels.append((title, colour, picture(sets[key].few[: len(nearest)]), picture(nearest)))
    figures.nearest_neighbours(panels, path)


def picture(x: Tensor) -> Tensor:
    """Images of any number of channels as grey or RGB: [N, 1 or 3, H, W]."""
    channels = x.shape[1]
    return x if channels in (1, 3) else x[:, :3] if channels == 4 else x[:, :1]


def draw_sheet(parts: ImageParts, root: Path) -> Path:
    """A sheet of training images below `root`, by class with its name where there are labels; its path.

    Raises:
        OSError: it cannot be written.
    """
    train, names = parts.data.train, parts.data.class_names
    shown = subset(train, SHOWN) if train.labels is None else subset(train, 1, max(1, SHOWN // max(1, len(names))))
    images, captions = torch.cat(list(clean_images(parts, shown))), [""] * len(shown)
    if shown.labels is not None:
        order = shown.labels.cpu().argsort(stable=True)
        order = order[:: -(-len(order) // SHOWN)]
        images, captions = images[order], [names[y] for y in shown.labels.cpu()[order].tolist()]
    root.mkdir(parents=True, exist_ok=True)
    path, scratch = root / SHEET, root / f".{SHEET}.part"
    title = f"{parts.data.name}: training images" + (" and their labels" if names else "")
    try:
        figures.image_sheet(picture(images), captions, title, scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path
