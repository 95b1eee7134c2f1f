"""Pictures of scores: the likeliest and the least likely images, and where all of them are among test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from expost.evaluation.figures import (
    EXTRA,
    FONT_SIZE,
    INK,
    LARGEST_PIXELS,
    LETTER_PIXELS,
    MUTED,
    POSTERIOR,
    Sheet,
    chart,
    save_chart,
    shorten,
    tile,
)
from expost.evaluation.nouns import Nouns
from expost.evaluation.scores.table import Scores, Standing

COLUMNS, GAP, MARGIN, HEAD, LINE = 4, 14, 18, 40, 17
"""Of a panel: pairs in a line; the rest in pixels."""
MOST_LETTERS = 24
BEYOND = 1.5
"""So many widths of the test images' range are shown on either side of it."""
FEW = 60
"""So many are shown as a line each."""


@dataclass(frozen=True)
class Ranked:
    """A panel: some images in their order, each with its nearest training image.

    Attributes:
        title, colour: of the panel.
        images: [n, 1 or 3, H, W] in [0, 1].
        nearest: the same; None where there is none.
        captions: lines below each.
    """

    title: str
    colour: str
    images: Tensor
    nearest: Tensor | None
    captions: Sequence[Sequence[str]]


def draw_ranked(panels: Sequence[Ranked], path: Path) -> None:
    """All panels side by side, as a PNG file."""
    step = -(-max(panels[0].images.shape[-2:]) // LARGEST_PIXELS)
    drawn = [_pairs(panel, step) for panel in panels]
    height, width = drawn[0][0].shape[:2]
    lines = max(len(caption) for panel in panels for caption in panel.captions)
    longest = max(len(line) for panel in panels for caption in panel.captions for line in caption)
    cell_width = max(width, LETTER_PIXELS * min(longest, MOST_LETTERS)) + GAP
    cell_height = height + lines * LINE + GAP
    columns = [min(COLUMNS, len(tiles)) for tiles in drawn]
    panel_widths = [
        max(num * cell_width, 11 * len(panel.title)) + MARGIN for num, panel in zip(columns, panels, strict=True)
    ]
    rows = max(-(-len(tiles) // num) for num, tiles in zip(columns, drawn, strict=True))
    sheet, left = Sheet(sum(panel_widths) + MARGIN, HEAD + rows * cell_height + MARGIN), MARGIN
    for panel, tiles, num, room in zip(panels, drawn, columns, panel_widths, strict=True):
        sheet.write(panel.title, left, 0.5 * HEAD, FONT_SIZE + 2, panel.colour, va="center", fontweight="bold")
        for i, (pixels, caption) in enumerate(zip(tiles, panel.captions, strict=True)):
            across, down = left + i % num * cell_width, HEAD + i // num * cell_height
            sheet.place(pixels, across, down)
            for line, words in enumerate(caption):
                shown, colour = shorten(" ".join(words.split()), MOST_LETTERS), MUTED if line else INK
                sheet.write(shown, across, down + height + 2 + line * LINE, FONT_SIZE - 2, colour, va="top")
        left += room
    sheet.save(path)


def _pairs(panel: Ranked, step: int) -> list[np.ndarray]:
    """Each image with its nearest training image on its right, large ones thinned out."""
    if panel.nearest is None:
        return [tile(image[None, :, ::step, ::step], 1) for image in panel.images]
    pairs = zip(panel.images, panel.nearest, strict=True)
    return [tile(torch.stack(pair)[..., ::step, ::step], 2) for pair in pairs]


def draw_standing(scores: Scores, test: Scores, nouns: Nouns, path: Path) -> None:
    """How the figures of what was scored lie among those of test images: a panel a figure that both have."""
    figures = {
        "log_prob_bound_nats": "bound on log p(x), nats",
        "log_prob_z_nats": "log p(z), nats",
        "nearest_distance": f"distance to the nearest training {nouns.one}",
    }
    both = scores.tensors().keys() & test.tensors().keys()
    shown = {name: title for name, title in figures.items() if name in both}
    figure, panels = chart([list(shown)], width=max(5.6, 4.2 * len(shown)), height=3.6)
    for name, title in shown.items():
        _histogram(panels[name], scores.tensors()[name].numpy(), test.tensors()[name].numpy(), nouns)
        panels[name].set_xlabel(title)
    next(iter(panels.values())).set_ylabel("share")
    save_chart(figure, path)


def _histogram(axis: Axes, values: np.ndarray, test: np.ndarray, nouns: Nouns) -> None:
    """Test images as bars, the others as bars or, where there are few, as a line each; what lies far off is counted."""
    finite = test[np.isfinite(test)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    reach = BEYOND * (high - low) or 1.0
    values = np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    inside = values[(values >= low - reach) & (values <= high + reach)]
    low, high = min(low, *inside[:], low), max(high, *inside[:], high)
    edges = np.linspace(low, high if high > low else low + 1, 41)
    counts, _ = np.histogram(finite, edges)
    axis.stairs(counts / max(1, len(finite)), edges, color=POSTERIOR, fill=True, alpha=0.55, label=f"test {nouns.many}")
    label = f"scored ({len(values):,})"
    if len(values) <= FEW:
        axis.plot([], [], color=EXTRA, linewidth=2, label=label)
        axis.vlines(inside, 0, 0.3 * axis.get_ylim()[1], color=EXTRA, linewidth=1.5)
    else:
        counts, _ = np.histogram(inside, edges)
        axis.stairs(counts / len(values), edges, color=EXTRA, linewidth=2, label=label)
    left, right = int((values < low).sum()), int((values > high).sum())
    for num, place, side, arrow in ((left, 0.02, "left", "←"), (right, 0.98, "right", "→")):
        if num:
            words = f"{arrow} {num:,} beyond" if side == "left" else f"{num:,} beyond {arrow}"
            axis.text(place, 0.6, words, transform=axis.transAxes, ha=side, color=EXTRA, fontsize=FONT_SIZE - 1)
    axis.set_ylim(0, 1.35 * axis.get_ylim()[1])  # for the legend
    axis.legend(fontsize=FONT_SIZE - 2, frameon=False, loc="upper left" if right else "upper right")
    axis.margins(x=0.03)


def captions(order: Tensor, scores: Scores, standing: Standing, names: Mapping[int, str]) -> list[list[str]]:
    """Below each of the rows `order` [n]: what ranks it, how it stands among test images, and its name."""
    words, values = scores.ranking
    lines = []
    for row in order.tolist():
        own = [f"{words} {values[row].item():.4g}"]
        if standing.ranked is not None:
            own.append(f"{standing.ranked[row].item():.1f} % of test likelier")
        if standing.nearer is not None:
            own.append(f"{standing.nearer[row].item():.1f} % of test nearer")
        name = " ".join(names[row].split())
        lines.append(
            [*own, name if len(name) <= MOST_LETTERS else f"…{name[1 - MOST_LETTERS :]}"]
        )  # its end tells most
    return lines
