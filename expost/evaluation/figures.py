"""Pictures of a run, as PNG files.

Every function takes tensors or plain records and the path to write. Figures are built as objects on the Agg canvas,
never through pyplot, so nothing global is touched and nothing leaks; text is large enough for a phone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from expost.evaluation.images.class_accuracy import ClassRow
from expost.evaluation.latents.axes import Plane, finite_rows, frame_of
from expost.evaluation.sections import Codebook

INK, MUTED, PAPER = "#1f2933", "#66727f", "#ffffff"
POSTERIOR, BASELINE, LEARNED, EXTRA = "#20639b", "#d1603d", "#2a9d6f", "#8e5ea2"
"""One colour a thing in every picture: draws of q(z|x), the baseline N(0, I), the learned prior, anything else."""
FONT_SIZE = 11
DPI = 144
MIN_TILE_PIXELS = 40
GAP_PIXELS = 2
MAX_POINTS = 4000
CAPTION_PIXELS, LETTER_PIXELS, CELL_GAP_PIXELS, MARGIN_PIXELS, HEAD_PIXELS = 20, 8, 10, 16, 36
"""Of a sheet of captioned images."""
MOST_LETTERS = 12
LARGEST_PIXELS = 160
"""A side of an image on the sheet; larger ones are thinned out."""
LETTER, LONGEST_NAME = 9, 18
"""Width of a letter beside a row, in pixels, and letters of a class's name that are shown."""
MARGIN, BAND = 20, 40
MOST_TRAVERSED, TRAVERSED_PIXELS = 12, 64
"""Dimensions of a traversal in the picture, and a side of an image of it."""
CLASS_COLUMNS = 10, 4
"""Samples and test images side by side."""
COLOURS = (POSTERIOR, EXTRA, LEARNED, BASELINE)
"""Of the maps of a sequence, the first, coarsest one first; from the fifth on they come again."""


def reconstructions(originals: Tensor, reconstructed: Tensor, path: Path, columns: int = 12) -> None:
    """Each original [N, C, H, W] directly above its reconstruction, in bands of `columns`."""
    bands = []
    for above, below in zip(originals.split(columns), reconstructed.split(columns), strict=True):
        bands.append(tile(torch.cat([filled(above, columns), filled(below, columns)]), columns))
    gap = np.full((4 * GAP_PIXELS, bands[0].shape[1], 3), 255, dtype=np.uint8)
    pixels = np.concatenate([piece for band in bands for piece in (gap, band)][1:])
    side_by_side([pixels], ["each pair: image above, its reconstruction below"], [INK], path)


def samples_side_by_side(
    baseline: Tensor, learned: Tensor, path: Path, learned_name: str, baseline_name: str = "N(0, I)", columns: int = 8
) -> None:
    """Decoded draws of the baseline prior [N, C, H, W] beside draws of the learned prior [N, C, H, W]."""
    titles = [f"baseline: {baseline_name}", f"learned prior: {learned_name}"]
    side_by_side([tile(baseline, columns), tile(learned, columns)], titles, [BASELINE, LEARNED], path)


def nearest_neighbours(panels: Sequence[tuple[str, str, Tensor, Tensor]], path: Path, pairs: int = 4) -> None:
    """Samples with their nearest training images beside them, one panel a source, `pairs` pairs a line.

    A panel: title, colour, samples [N, C, H, W] and their nearest training images [N, C, H, W].
    """
    pictures = []
    for _, _, samples, nearest in panels:
        tiles = [tile(torch.stack(pair), 2) for pair in zip(samples, nearest, strict=True)]
        pictures.append(_grid_of_pairs(tiles, pairs))
    side_by_side(pictures, [title for title, *_ in panels], [colour for _, colour, *_ in panels], path)


def _grid_of_pairs(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of one size in lines of `columns`, with more white between them than within them."""
    tiles = [*tiles, *[np.full_like(tiles[0], 255)] * (-len(tiles) % columns)]
    padded = [np.pad(tile, ((0, 2 * GAP_PIXELS), (0, 6 * GAP_PIXELS), (0, 0)), constant_values=255) for tile in tiles]
    lines = [np.concatenate(padded[i : i + columns], 1) for i in range(0, len(padded), columns)]
    return np.concatenate(lines)


def interpolations(decoded: Tensor, path: Path) -> None:
    """Decoded paths between pairs of images, [pairs, steps, C, H, W]: one pair a row."""
    pixels = tile(decoded.flatten(0, 1), decoded.shape[1])
    side_by_side([pixels], ["from one test image to another, through latent space"], [INK], path)


def traversals(decoded: Tensor, names: Sequence[str], start: str, path: Path) -> None:
    """One latent dimension a row: what `start` is decoded to as that number alone grows, [dims, steps, C, H, W].

    The first dimensions alone, and those of large images thinned out.
    """
    shown = decoded[:MOST_TRAVERSED]
    step = -(-max(shown.shape[-2:]) // TRAVERSED_PIXELS)
    pixels = tile(shown[..., ::step, ::step].flatten(0, 1), shown.shape[1])
    left = MARGIN + LETTER * max(map(len, names[: len(shown)]))
    title = f"{start}: one number of its latent at a time, from low to high"
    sheet = Sheet(max(left + pixels.shape[1], 10 * len(title)) + MARGIN, BAND + pixels.shape[0] + MARGIN)
    sheet.place(pixels, left, BAND)
    sheet.write(title, MARGIN, 0.5 * BAND, FONT_SIZE + 1, INK, va="center", fontweight="bold")
    height = (pixels.shape[0] + GAP_PIXELS) / len(shown)
    for i, name in enumerate(names[: len(shown)]):
        sheet.write(name, left - 8, BAND + (i + 0.5) * height, FONT_SIZE, MUTED, va="center", ha="right")
    sheet.save(path)


def latent_scatter(
    posterior: Tensor, baseline: Tensor, learned: Tensor, path: Path, learned_name: str, baseline_name: str = "N(0, I)"
) -> None:
    """Draws of q(z|x) over the training set, of the baseline and of the learned prior, [N, *latent] each.

    All are shown on the first two principal axes of the posterior draws; left against the baseline, right against the
    learned prior. A prior that fits covers the same area with the same density.
    """
    plane = Plane.of(finite_rows(posterior))
    points = [plane.project(_thinned(finite_rows(z))) for z in (posterior, baseline, learned)]
    low, high = frame_of(torch.cat(points))
    figure, panels = chart([["baseline", "learned"]], width=8.8, height=4.9)
    size = float(np.clip(20000 / max(1, len(points[0])), 2.5, 16))
    for key, cloud, name, colour in [
        ("baseline", points[1], baseline_name, BASELINE),
        ("learned", points[2], learned_name, LEARNED),
    ]:
        axis = panels[key]
        _two_clouds(axis, points[0].numpy(), cloud.numpy(), colour, size)
        for label, shade in [("q(z|x), training set", POSTERIOR), (name, colour)]:
            axis.scatter([], [], s=36, color=shade, label=label)
        axis.set_xlim(low[0].item(), high[0].item())
        axis.set_ylim(low[1].item(), high[1].item())
        axis.set_title(
            f"q(z) against {name}",
            color=colour,
            fontsize=FONT_SIZE + 1,
            fontweight="bold",
            loc="left",
            parse_math=False,
        )
        axis.set_xlabel(plane.titles[0])
        for entry in axis.legend(
            loc="upper right", fontsize=FONT_SIZE - 2, framealpha=0.85, edgecolor="none", handletextpad=0.2
        ).get_texts():
            entry.set_parse_math(False)
    panels["baseline"].set_ylabel(plane.titles[1])
    save_chart(figure, path)


def _thinned(z: Tensor) -> Tensor:
    """At most `MAX_POINTS` rows, at random: data may be sorted by class."""
    return z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:MAX_POINTS]]


def _two_clouds(axis: Axes, first: np.ndarray, second: np.ndarray, colour: str, size: float) -> None:
    """Both clouds [N, 2] in one shuffled order: drawn one after the other, the later would hide the earlier."""
    order = np.random.default_rng(0).permutation(len(first) + len(second))
    colours = np.array([to_rgb(POSTERIOR)] * len(first) + [to_rgb(colour)] * len(second))
    across, up = np.concatenate([first, second])[order].T
    axis.scatter(across, up, s=size, c=colours[order], alpha=0.45, linewidths=0)


def training_curves(
    stage1: Sequence[Mapping[str, float]] | None,
    stage2: Sequence[Mapping[str, float]],
    path: Path,
    conditional: bool = False,
) -> None:
    """What training did: the loss of stage 1 and its terms, and the held-out curve of stage 2.

    Args:
        stage1: one record an epoch; `train_loss`, `val_loss`, `val_distortion_nats` and `val_rate_nats` are drawn where
            they occur, against `epoch` or the position; None: of latents whose stage 1 nobody knows.
        stage2: one record an epoch or iteration; every key that ends in `_nats` is drawn, against `epoch` or
            the position.
        conditional: stage 2 was fitted to latents with their labels y.
    """
    above = [] if stage1 is None else [["loss", "terms"]]
    figure, panels = chart([*above, ["prior", "prior"]], width=8.8, height=3.1 * (1 + len(above)))
    if stage1 is not None:
        series = [("train_loss", "training", MUTED), ("val_loss", "validation", POSTERIOR)]
        _curves(panels["loss"], stage1, series, "stage 1: loss, nats an image")
        series = [("val_distortion_nats", "distortion", EXTRA), ("val_rate_nats", "rate", BASELINE)]
        _curves(panels["terms"], stage1, series, "stage 1: validation terms, nats")
    keys = sorted({key for record in stage2 for key in record if key.endswith("_nats")})
    colours = {"val_nll_nats": LEARNED, "train_nll_nats": MUTED, "train_bound_nats": POSTERIOR}
    names = {"val_nll_nats": "validation", "train_nll_nats": "training", "train_bound_nats": "training, bound"}
    series = [(key, names.get(key, key.removesuffix("_nats")), colours.get(key, EXTRA)) for key in keys]
    of = "z|y" if conditional else "z"
    _curves(panels["prior"], stage2, series, f"stage 2: -log p({of}), nats a latent")
    save_chart(figure, path)


def _curves(
    axis: Axes, records: Sequence[Mapping[str, float]], series: Sequence[tuple[str, str, str]], title: str
) -> None:
    axis.set_title(title, fontsize=FONT_SIZE, fontweight="bold", color=INK, loc="left")
    axis.set_xlabel("epoch" if any("epoch" in record for record in records) else "iteration")
    values_drawn: list[float] = []
    for key, name, colour in series:
        points = [(r.get("epoch", i), r[key]) for i, r in enumerate(records) if np.isfinite(r.get(key, np.nan))]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) < 3 else ""
        axis.plot(steps, values, color=colour, label=name, linewidth=2, marker=marker)
        values_drawn += values
    if not values_drawn:
        axis.text(0.5, 0.5, "nothing was trained here", transform=axis.transAxes, ha="center", va="center", color=MUTED)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(color="#e4e7eb", linewidth=0.8)
    axis.legend(fontsize=FONT_SIZE - 1, frameon=False)


def tile(images: Tensor, columns: int) -> np.ndarray:
    """Images [N, C, H, W] in [0, 1], row by row, as one RGB picture, uint8 [rows, width, 3], on white; small ones are
    enlarged without smoothing.

    Raises:
        ValueError: when there is no image, or its channels are neither 1 nor 3.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"a picture needs images [N, 1 or 3, H, W], got {tuple(images.shape)}")
    columns = min(columns, len(images))
    scale = max(1, -(-MIN_TILE_PIXELS // max(images.shape[-2:])))
    pixels = images.detach().float().nan_to_num(0.5).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3).expand(-1, 3, -1, -1)
    num, _, height, width = pixels.shape
    rows = -(-num // columns)
    cell_height, cell_width = height + GAP_PIXELS, width + GAP_PIXELS
    canvas = torch.full((rows * cell_height - GAP_PIXELS, columns * cell_width - GAP_PIXELS, 3), 255, dtype=torch.uint8)
    for i, tile in enumerate(pixels):
        top, left = i // columns * cell_height, i % columns * cell_width
        canvas[top : top + height, left : left + width] = tile.permute(1, 2, 0)
    return canvas.numpy()


def filled(images: Tensor, num: int) -> Tensor:
    """The first `num` images, and white ones behind them where there are fewer: a band keeps its columns."""
    return torch.cat([images[:num], images.new_ones(max(0, num - len(images)), *images.shape[1:])])


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str], colours: Sequence[str], path: Path) -> None:
    """Pictures side by side at their own resolution, each under its title."""
    gap, band, letter = 20, 40, 11  # pixels; the last is the width of one letter of a title
    widths = [max(p.shape[1], letter * len(title)) for p, title in zip(pictures, titles, strict=True)]
    width = sum(widths) + gap * (len(pictures) + 1)
    height = max(p.shape[0] for p in pictures) + band + gap
    sheet, left = Sheet(width, height), gap
    for pixels, title, colour, room in zip(pictures, titles, colours, widths, strict=True):
        sheet.place(pixels, left, band)
        sheet.write(title, left, 0.5 * band, FONT_SIZE + 2, colour, va="center", fontweight="bold")
        left += room + gap
    sheet.save(path)


class Sheet:
    """A white picture of `width` by `height` pixels; places are in pixels from its left and its top."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)
        self.canvas = FigureCanvasAgg(self.figure)

    def place(self, pixels: np.ndarray, left: int, top: int) -> None:
        self.figure.figimage(pixels, xo=left, yo=self.height - top - pixels.shape[0], origin="upper")

    def write(self, words: str, left: float, top: float, size: int, colour: str, **looks: Any) -> None:
        """Words are no formula, even where a folder is called $_$."""
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, words, fontsize=size, color=colour, parse_math=False, **looks)

    def save(self, path: Path) -> None:
        self.canvas.draw()
        save_pixels(np.asarray(self.canvas.buffer_rgba())[..., :3], path)


def chart(layout: Sequence[Sequence[str]], width: float, height: float) -> tuple[Figure, dict[str, Axes]]:
    """An empty figure of `width` by `height` inches, and its panels by name."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic([list(row) for row in layout])
    for axis in panels.values():
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#b8c0c8")
        axis.tick_params(colors=MUTED, labelsize=FONT_SIZE - 1)
        axis.xaxis.label.set(color=MUTED, fontsize=FONT_SIZE)
        axis.yaxis.label.set(color=MUTED, fontsize=FONT_SIZE)
    return figure, panels


def save_chart(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file of few colours."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once, where savefig would draw for the layout first, and write a file to be read again
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    picture = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)  # a chart in a third of the bytes
    picture.save(path)


def save_pixels(pixels: np.ndarray, path: Path) -> None:
    grey = bool((pixels == pixels[..., :1]).all())  # a titled picture is not: its title is in colour
    picture = Image.fromarray(pixels)
    (picture.convert("L") if grey else picture).save(path, format="PNG")  # whatever the name ends in


def image_sheet(images: Tensor, captions: Sequence[str], title: str, path: Path, columns: int = 10) -> None:
    """Images [N, 1 or 3, H, W] in [0, 1], row by row, each above its caption, as a PNG file.

    Raises:
        ValueError: there is no image, there are as many captions as not, or the channels are neither 1 nor 3.
    """
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    captions = [" ".join(caption.split()) for caption in captions]
    step = -(-max(images.shape[-2:]) // LARGEST_PIXELS)
    tiles = [tile(image[None, :, ::step, ::step], 1) for image in images]
    height, width = tiles[0].shape[:2]
    cell_width = max(width, LETTER_PIXELS * max(len(shorten(caption)) for caption in captions)) + CELL_GAP_PIXELS
    cell_height = height + CAPTION_PIXELS + CELL_GAP_PIXELS
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet_width = max(columns * cell_width + 2 * MARGIN_PIXELS, LETTER_PIXELS * len(title) + 2 * MARGIN_PIXELS)
    sheet = Sheet(sheet_width, HEAD_PIXELS + rows * cell_height + MARGIN_PIXELS)
    sheet.write(title, MARGIN_PIXELS, 8, FONT_SIZE + 1, INK, va="top")
    for i, (pixels, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = MARGIN_PIXELS + i % columns * cell_width, HEAD_PIXELS + i // columns * cell_height
        sheet.place(pixels, left, top)
        sheet.write(shorten(caption), left, top + height + 2, FONT_SIZE - 2, MUTED, va="top")
    sheet.save(path)


def shorten(words: str, most: int = MOST_LETTERS) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def class_rows(rows: Sequence[ClassRow], learned_name: str, path: Path) -> None:
    """Samples of each class, one row a class, and test images of the same class on their right.

    Of one or three channels; a row with fewer images than `CLASS_COLUMNS` ends early.
    """
    num_samples, num_images = CLASS_COLUMNS
    samples = tile(torch.cat([filled(row.samples, num_samples) for row in rows]), num_samples)
    images = tile(torch.cat([filled(row.images, num_images) for row in rows]), num_images)
    names = [shorten(row.name, LONGEST_NAME) for row in rows]
    left = MARGIN + LETTER * (max(map(len, names)) + len("  100%")) + 8
    heads = [f"learned prior: {learned_name}", "test images"]
    second = left + max(samples.shape[1], 11 * len(heads[0])) + MARGIN
    width = second + max(images.shape[1], 11 * len(heads[1])) + MARGIN
    sheet = Sheet(width, BAND + samples.shape[0] + MARGIN)
    for pixels, at, head, colour in zip((samples, images), (left, second), heads, (LEARNED, POSTERIOR), strict=True):
        sheet.place(pixels, at, BAND)
        sheet.write(head, at, 0.5 * BAND, FONT_SIZE + 2, colour, va="center", fontweight="bold")
    step = (samples.shape[0] + GAP_PIXELS) / len(rows)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        top = BAND + (i + 0.5) * step - 0.5 * GAP_PIXELS
        sheet.write(name, MARGIN, top, FONT_SIZE + 1, INK, va="center")
        sheet.write(f"{row.share:.0%}", left - 10, top, FONT_SIZE, MUTED, va="center", ha="right")
    sheet.save(path)


def codebook_usage(books: Sequence[Codebook], history: Sequence[Mapping[str, float]] | None, path: Path) -> None:
    """Left, how often each code occurs in the training set, most frequent first; right, what training counted.

    Args:
        books: one a map of the sequence.
        history: one record an epoch; keys that end in `codes_used` (a share) and `code_perplexity` (codes) are drawn;
            None: of latents whose stage 1 nobody knows.
    """
    figure, panels = chart([["counts"] if history is None else ["counts", "epochs"]], width=8.8, height=4.4)
    _counts(panels["counts"], books)
    if history is not None:
        _epochs(panels["epochs"], history, books)
    for axis in panels.values():
        axis.grid(color="#e4e7eb", linewidth=0.8)
        if axis.get_legend_handles_labels()[0]:  # nothing was trained where there is no history
            axis.legend(fontsize=FONT_SIZE - 2, frameon=False)
    save_chart(figure, path)


def _counts(axis: Axes, books: Sequence[Codebook]) -> None:
    axis.set_title("how often each code occurs", fontsize=FONT_SIZE, fontweight="bold", color=INK, loc="left")
    for i, book in enumerate(books):
        colour, counts = COLOURS[i % len(COLOURS)], np.asarray(book.counts, float)
        height, width = book.grid
        share = counts[counts > 0] / counts.sum()
        label = f"{height}×{width}: {book.used_share:.0%} of {book.num_codes:,}, perplexity {book.perplexity:.0f}"
        axis.plot(np.arange(1, len(share) + 1), share, color=colour, linewidth=2, label=label)
        axis.axhline(1 / len(counts), color=colour, linewidth=1, linestyle=":")
    axis.plot([], [], color=MUTED, linewidth=1, linestyle=":", label="all equally often")
    axis.set_yscale("log")
    axis.set_xlabel("code, most frequent first")
    axis.set_ylabel("share of all places")


def _epochs(axis: Axes, history: Sequence[Mapping[str, float]], books: Sequence[Codebook]) -> None:
    axis.set_title("while stage 1 was trained", fontsize=FONT_SIZE, fontweight="bold", color=INK, loc="left")
    prefixes = [
        key.removesuffix("codes_used") for key in (history[-1] if history else {}) if key.endswith("codes_used")
    ]
    for i, prefix in enumerate(prefixes):
        size = books[min(i, len(books) - 1)].num_codes
        for key, scale, style, what in (("codes_used", 1, "-", "used"), ("code_perplexity", size, "--", "perplexity")):
            points = [(r["epoch"], r[prefix + key] / scale) for r in history if prefix + key in r]
            label = f"{prefix.replace('_', ' ')}{what}{'' if scale == 1 else ' / codes'}"
            epochs, shares = zip(*points, strict=True)
            axis.plot(epochs, shares, style, color=COLOURS[i % len(COLOURS)], linewidth=2, label=label)
    axis.set_ylim(0, 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.set_ylabel("share of the codebook")
