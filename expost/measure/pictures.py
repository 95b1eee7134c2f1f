"""The PNG files of an evaluation, from trained stages and the images that were measured, and of stage=check."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from expost.evaluation import figures
from expost.evaluation.latents.pictures import maps, marginals, profiles
from expost.evaluation.row_names import AGGREGATE, BASELINES, RECONSTRUCTIONS
from expost.evaluation.sections import Codes
from expost.measure.image_sets import SCATTERED, Copies, FeaturedSet
from expost.measure.labelled.classes import ConditionalSamples
from expost.measure.subject import ImageSubject, Subject, clean_images
from expost.parts.assembly import ImageParts
from expost.parts.decoding import block_size
from expost.parts.weights import Histories
from stage1_vae.data.images import ImageSet, subset
from stage1_vae.latents import Support
from stage2_prior.prior import Prior

SHEET, SHOWN = "check-images.png", 40
"""What stage=check leaves in `paths.root`, and how many images are on it."""
PLOTTED = 2000
"""Vectors of which plots are made."""


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
    baseline, are_pictures = BASELINES[subject.baseline_name], subject.parts.data.are_pictures
    shown = {key: picture(s.few) for key, s in sets.items()}
    if are_pictures:
        figures.samples_side_by_side(shown["baseline"], shown["learned"], folder / "samples.png", name, baseline)
        few = slice(0, 24)
        figures.reconstructions(shown["reference"][few], shown[RECONSTRUCTIONS][few], folder / "reconstructions.png")
        draw_neighbours(sets, copied, name, folder / "neighbours.png")
    posterior = subject.train.draw(torch.randperm(len(subject.train))[:SCATTERED])
    num = min(limit, len(posterior))
    drawn = [
        add_latents(subject, prior, sets[key].latents, num)
        for key, prior in {"baseline": subject.baseline, "learned": subject.prior}.items()
    ]
    aggregate, *clouds = (subject.embed(z) for z in (posterior, *drawn))
    figures.latent_scatter(aggregate, clouds[0], clouds[1], folder / "latents.png", name, baseline)
    if are_pictures:
        draw_interpolations(subject, folder / "interpolations.png")
    else:
        draw_vectors(subject, drawn, name, folder)
    figures.training_curves(histories.vae, histories.fit.curve, folder / "curves.png", bool(subject.prior.num_classes))
    if codes is not None:
        figures.codebook_usage(codes.books, histories.vae, folder / "codes.png")
    if classes is not None and are_pictures:
        rows = [replace(row, samples=picture(row.samples), images=picture(row.images)) for row in classes.rows]
        figures.class_rows(rows, name, folder / "classes.png")


def draw_interpolations(subject: ImageSubject, path: Path) -> None:
    """From one test image to another, through what the decoder is given."""
    ends = subject.embed(subject.test.draw(torch.arange(min(16, len(subject.test)))))  # [2 * pairs, *embedded]
    pairs = len(ends) // 2
    start, end = ends[:pairs], ends[pairs : 2 * pairs]
    steps = [start + t * (end - start) for t in torch.linspace(0, 1, 10)]
    paths = torch.stack(steps, 1)  # [pairs, steps, *embedded]
    decoded = picture(torch.cat(list(subject.decode_embedded(paths.flatten(0, 1))))).unflatten(0, paths.shape[:2])
    figures.interpolations(decoded, path)


def draw_vectors(subject: ImageSubject, drawn: Sequence[Tensor], name: str, folder: Path) -> None:
    """Plots in place of pictures, in the units of the files; `drawn`: z of the baseline and of the learned prior."""
    test, baseline = rows_of(subject.parts, subject.parts.data.test, PLOTTED), BASELINES[subject.baseline_name]
    baseline_rows, learned_rows = (sampled_rows(subject, z[:PLOTTED]) for z in drawn)
    panels = [
        ("test vectors", figures.POSTERIOR, test),
        (f"baseline: {baseline}", figures.BASELINE, baseline_rows),
        (f"learned prior: {name}", figures.LEARNED, learned_rows),
    ]
    profiles(panels, folder / "profiles.png")
    priors = {baseline: (baseline_rows, figures.BASELINE)}
    if name != subject.baseline_name:
        priors[name] = (learned_rows, figures.LEARNED)
    marginals(test, priors, test.shape[1:], folder / "columns.png", "test vectors")


def rows_of(parts: ImageParts, images: ImageSet, most: int) -> Tensor:
    """Vectors [n, D] in the units of the files, evenly spread."""
    few = subset(images, most)
    rows = parts.preprocess.clean(few.batch(torch.arange(len(few)))).flatten(1).cpu()
    return rows if parts.data.units is None else parts.data.units.restore(rows)


@torch.no_grad()
def sampled_rows(subject: ImageSubject, z: Tensor) -> Tensor:
    """Draws of p(x|z) [n, D] in the units of the files: means alone would be narrower than the data are."""
    size, units = block_size(subject.parts.data.shape), subject.parts.data.units
    rows = torch.cat(
        [subject.vae.decode(block.to(subject.device)).sample().flatten(1).cpu() for block in z.split(size)]
    )
    return rows if units is None else units.restore(rows)


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
    root.mkdir(parents=True, exist_ok=True)
    path, scratch = root / SHEET, root / f".{SHEET}.part.png"
    try:
        if parts.data.are_pictures:
            draw_images(parts, scratch)
        else:
            title = f"{parts.data.name}: training vectors, the middle and the inner nine tenths of each number"
            profiles([(title, figures.POSTERIOR, rows_of(parts, parts.data.train, PLOTTED))], scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def draw_images(parts: ImageParts, path: Path) -> None:
    """Training images, by class with its name where there are labels."""
    train, names = parts.data.train, parts.data.class_names
    shown = subset(train, SHOWN) if train.labels is None else subset(train, 1, max(1, SHOWN // max(1, len(names))))
    images, captions = torch.cat(list(clean_images(parts, shown))), [""] * len(shown)
    if shown.labels is not None:
        order = shown.labels.cpu().argsort(stable=True)
        order = order[:: -(-len(order) // SHOWN)]
        images, captions = images[order], [names[y] for y in shown.labels.cpu()[order].tolist()]
    title = f"{parts.data.name}: training images" + (" and their labels" if names else "")
    figures.image_sheet(picture(images), captions, title, path)
