"""A comparison as one picture: a dot a prior and figure, with a bar of two standard errors to either side.

Dots on a common scale are read more exactly than bars or areas (Cleveland & McGill, "Graphical Perception", 1984), and
an axis of dots need not start at zero.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from expost.evaluation.comparison.compare import OF_IMAGES, Comparison
from expost.evaluation.comparison.lines import Line
from expost.evaluation.comparison.views import columns_of, headline, text
from expost.evaluation.figures import BASELINE, DPI, FONT_SIZE, INK, LEARNED, MUTED, PAPER
from expost.evaluation.report import FIGURES
from expost.evaluation.verdict import NOISE

SHOWN = ("frechet_distance", "coverage", "iwae_nats", "elbo_nats", "rate_nats", "marginal_kl_nats", "latent_nll_nats")
"""What is drawn, in this order, as far as there is room; the sorting figure comes first."""
MAX_PANELS = 4
ROW_INCHES, PANEL_INCHES = 0.36, 2.6
LABEL_LETTERS = 30


def draw(comparison: Comparison, path: Path) -> None:
    """The figure of `comparison` as a PNG file: lines down, figures across, one band a block."""
    keys = panels(comparison)
    blocks = list(comparison.blocks.items())
    heights = [len(lines) + 1.6 for _, lines in blocks]
    chart = Figure(
        figsize=(2.6 + PANEL_INCHES * len(keys), ROW_INCHES * sum(heights) + 1.3),
        dpi=DPI,
        layout="constrained",
        facecolor=PAPER,
    )
    FigureCanvasAgg(chart)
    axes = chart.subplots(len(blocks), len(keys), squeeze=False, height_ratios=heights)
    for band, (name, lines) in zip(axes, blocks, strict=True):
        for column, (axis, key) in enumerate(zip(band, keys, strict=True)):
            _panel(axis, lines, key)
            if key in OF_IMAGES and axis is not axes[0][column]:
                axis.sharex(axes[0][column])  # comparable across blocks
            labels = [_label(comparison, line) if column == 0 else "" for line in lines]
            axis.set_yticks(range(len(lines)), labels, parse_math=False)
        if len(blocks) > 1:
            band[0].set_title(name, loc="left", fontsize=FONT_SIZE - 1, color=INK, fontweight="bold", parse_math=False)
    for axis, key in zip(axes[-1], keys, strict=True):
        axis.set_xlabel(FIGURES[key].title, fontsize=FONT_SIZE, color=INK)
    chart.suptitle(
        headline(comparison), x=0.01, ha="left", fontsize=FONT_SIZE + 2, color=INK, fontweight="bold", parse_math=False
    )
    chart.legend(handles=_legend(comparison), loc="outside lower left", ncols=4, frameon=False, fontsize=FONT_SIZE - 1)
    chart.savefig(path, dpi=DPI, facecolor=PAPER, metadata={"Software": None})


def panels(comparison: Comparison) -> list[str]:
    """The figures that are drawn: at most `MAX_PANELS`, none that is empty in every line."""
    present = set(columns_of(comparison, comparison.lines))
    if "iwae_nats" in comparison.columns and comparison.sort != "elbo_nats":
        present.discard("elbo_nats")
    return [key for key in dict.fromkeys((comparison.sort, *SHOWN)) if key in present][:MAX_PANELS]


def _panel(axis: Axes, lines: Sequence[Line], key: str) -> None:
    for place, line in enumerate(lines):
        value = line.values.get(key)
        if value is None:
            axis.text(0.5, place, "-", transform=axis.get_yaxis_transform(), ha="center", va="center", color=MUTED)
            continue
        noise = None if value.noise is None else NOISE * value.noise
        marker, colour = _look(line)
        axis.errorbar(
            value.mean, place, xerr=noise, fmt=marker, color=colour, markersize=7, elinewidth=1.8, capsize=3, zorder=3
        )
        axis.annotate(
            text(value, key).split(" ")[0],
            (value.mean, place),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=FONT_SIZE - 3,
            color=colour,
            fontweight="bold" if value.leads else "normal",
        )
    axis.set_ylim(len(lines) - 0.4, -0.9)
    axis.margins(x=0.16)
    axis.locator_params(axis="x", nbins=4)
    axis.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("#b8c0c8")
    axis.tick_params(axis="y", length=0, labelsize=FONT_SIZE - 1, labelcolor=INK)
    axis.tick_params(axis="x", labelsize=FONT_SIZE - 2, colors=MUTED)


def _look(line: Line) -> tuple[str, str]:
    return ("o", LEARNED) if line.is_learned else ("s", BASELINE) if line.is_prior else ("D", MUTED)


def _label(comparison: Comparison, line: Line) -> str:
    words = f"{line.label}, {line.vae_label}" if comparison.names_vaes and line.vae_label else line.label
    lines = textwrap.wrap(words if line.num == 1 else f"{words} (n={line.num})", LABEL_LETTERS)
    return "\n".join(lines if len(lines) < 3 else [lines[0], f"{lines[1][: LABEL_LETTERS - 1]}…"])


def _legend(comparison: Comparison) -> list[Line2D]:
    names = {"o": "learned prior", "s": "baseline", "D": "floors and ceilings"}
    looks = dict.fromkeys(_look(line) for line in comparison.lines)
    dots = [Line2D([], [], marker=m, color=c, linestyle="", markersize=7, label=names[m]) for m, c in looks]
    if not any(value.noise is not None for line in comparison.lines for value in line.values.values()):
        return dots
    return [*dots, Line2D([], [], color=MUTED, linewidth=1.8, label=f"± {NOISE:g} standard errors")]
