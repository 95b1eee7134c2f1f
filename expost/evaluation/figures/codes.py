"""The picture of codebooks: how evenly codes are used now, and how many were used while training went on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from expost.evaluation.figures.images import (
    BASELINE,
    EXTRA,
    FONT_SIZE,
    INK,
    LEARNED,
    MUTED,
    POSTERIOR,
    chart,
    save_chart,
)
from expost.evaluation.sections import Codebook

COLOURS = (POSTERIOR, EXTRA, LEARNED, BASELINE)
"""Of the maps of a sequence, the first, coarsest one first; from the fifth on they come again."""


def codebook_usage(books: Sequence[Codebook], history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Left, how often each code occurs among training images, most frequent first; right, what training counted.

    Args:
        books: one a map of the sequence.
        history: one record an epoch; keys that end in `codes_used` (a share) and `code_perplexity` (codes) are drawn.
        path: the PNG file.
    """
    figure, panels = chart([["counts", "epochs"]], width=8.8, height=4.4)
    _counts(panels["counts"], books)
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
