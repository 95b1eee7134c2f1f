"""The picture of a conditional prior: one row a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from expost.evaluation.figures.images import (
    FONT_SIZE,
    GAP_PIXELS,
    INK,
    LEARNED,
    MUTED,
    PAPER,
    POSTERIOR,
    save_pixels,
    tile,
)
from expost.evaluation.images.class_accuracy import ClassRow

LETTER, LONGEST_NAME = 9, 18
"""Width of a letter beside a row, in pixels, and letters of a class's name that are shown."""
MARGIN, BAND = 20, 40
COLUMNS = 10, 4
"""Samples and test images side by side."""


def class_rows(rows: Sequence[ClassRow], learned_name: str, path: Path) -> None:
    """Samples of each class, one row a class, and test images of the same class on their right.

    Args:
        rows: of one or three channels; one with fewer images than `COLUMNS` ends early.
        learned_name: of the prior.
        path: the PNG file.
    """
    samples, images = (tile(torch.cat(found), num) for found, num in zip(_filled(rows), COLUMNS, strict=True))
    names = [row.name if len(row.name) <= LONGEST_NAME else f"{row.name[: LONGEST_NAME - 1]}…" for row in rows]
    left = MARGIN + LETTER * (max(map(len, names)) + len("  100%")) + 8
    heads = [f"learned prior: {learned_name}", "test images"]
    second = left + max(samples.shape[1], 11 * len(heads[0])) + MARGIN
    width = second + max(images.shape[1], 11 * len(heads[1])) + MARGIN
    height = BAND + samples.shape[0] + MARGIN
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    for pixels, at, head, colour in zip((samples, images), (left, second), heads, (LEARNED, POSTERIOR), strict=True):
        figure.figimage(pixels, xo=at, yo=MARGIN, origin="upper")
        y = 1 - 0.5 * BAND / height
        figure.text(
            at / width, y, head, fontsize=FONT_SIZE + 2, color=colour, fontweight="bold", va="center", parse_math=False
        )
    step = (samples.shape[0] + GAP_PIXELS) / len(rows)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = 1 - (BAND + (i + 0.5) * step - 0.5 * GAP_PIXELS) / height
        # a name is no formula, even where a folder is called $_$
        figure.text(MARGIN / width, y, name, fontsize=FONT_SIZE + 1, color=INK, va="center", parse_math=False)
        figure.text(
            (left - 10) / width, y, f"{row.share:.0%}", fontsize=FONT_SIZE, color=MUTED, va="center", ha="right"
        )
    canvas.draw()
    save_pixels(np.asarray(canvas.buffer_rgba())[..., :3], path)


def _filled(rows: Sequence[ClassRow]) -> tuple[list[Tensor], list[Tensor]]:
    """Samples and images of each row, as many as there are columns: white ones behind them where there are fewer."""

    def filled(images: Tensor, num: int) -> Tensor:
        like = rows[0].samples
        return torch.cat([images[:num].to(like), like.new_ones(max(0, num - len(images)), *like.shape[1:])])

    return [filled(row.samples, COLUMNS[0]) for row in rows], [filled(row.images, COLUMNS[1]) for row in rows]
