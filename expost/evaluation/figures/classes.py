"""The picture of a conditional prior: one row a class."""

from collections.abc import Sequence
from pathlib import Path

import torch

from expost.evaluation.figures.images import (
    FONT_SIZE,
    GAP_PIXELS,
    INK,
    LEARNED,
    MUTED,
    POSTERIOR,
    Sheet,
    filled,
    shorten,
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
    both = [filled(row.samples, COLUMNS[0]) for row in rows], [filled(row.images, COLUMNS[1]) for row in rows]
    samples, images = (tile(torch.cat(pictures), num) for pictures, num in zip(both, COLUMNS, strict=True))
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
