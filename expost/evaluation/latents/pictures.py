"""Plots of what is no picture, latents and vectors: marginals, profiles, and maps as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from expost.evaluation.figures import (
    BASELINE,
    FONT_SIZE,
    LEARNED,
    MUTED,
    POSTERIOR,
    chart,
    save_chart,
    side_by_side,
    tile,
)
from expost.evaluation.latents.axes import finite_rows
from expost.evaluation.latents.marginals import wasserstein_1

MOST_SHOWN, COLUMNS, BINS = 12, 4, 60
LEAST, MOST = 0.001, 0.999
"""Quantiles of q(z) that a panel reaches from and to, with some room beside them."""
ROOM, HEADROOM, FILLED = 0.35, 1.4, 0.4
MAP_COLUMNS, MAP_ROWS = 6, 8
MOST_ROWS, MOST_APART = 2000, 10
"""Vectors whose numbers are summed up; largest deviation of these numbers, in middle ones, of one axis for all."""
MAP_LEAST, MAP_MOST = 0.01, 0.99
"""Quantiles of the values of a channel that are black and full colour."""


def marginals(
    posterior: Tensor,
    priors: Mapping[str, tuple[Tensor, str]],
    shape: tuple[int, ...],
    path: Path,
    real_name: str = "q(z), test latents",
) -> None:
    """How often each value occurs in q(z) of held-out latents and under each prior, where the priors fit worst.

    Half of the panels are the dimensions that the first prior fits worst, the others those of the last, in order; in
    the titles stand the Wasserstein-1 distances to q(z), in units of its standard deviation.

    Args:
        posterior: draws of q(z) [n, *latent].
        priors: name -> draws [m, *latent], and its colour; at least one, those that are broken left out.
        shape: of a latent, in which dimensions are named by their place.
        real_name: of the first, where they are no latents.
    """
    z = finite_rows(posterior).flatten(1).cpu()
    clouds = {name: (finite_rows(draws).flatten(1).cpu(), colour) for name, (draws, colour) in priors.items()}
    clouds = {name: (draws, colour) for name, (draws, colour) in clouds.items() if len(draws)}
    scale = z.std(0).clamp_min(torch.finfo(torch.float32).tiny)
    apart = {name: _distances(z, draws) / scale for name, (draws, _) in clouds.items()}  # [D]
    shown = worst(list(apart.values()) or [z.std(0)], MOST_SHOWN)
    rows = -(-len(shown) // COLUMNS)
    columns = min(COLUMNS, len(shown))
    names = [[f"{row * columns + column}" for column in range(columns)] for row in range(rows)]
    figure, panels = chart(names, width=2.6 * columns + 0.6, height=2.1 * rows + 0.7)
    for place, axis in enumerate(panels.values()):
        if place >= len(shown):
            axis.set_axis_off()
            continue
        dim = shown[place]
        _panel(axis, z[:, dim], {colour: draws[:, dim] for draws, colour in clouds.values()})
        distances = ", ".join(f"{by_dim[dim]:.2f}" for by_dim in apart.values())
        title = f"{name_of(dim, shape)}: W1 {distances}"
        axis.set_title(title, fontsize=FONT_SIZE - 1, loc="left", color=MUTED)
    entries = [(real_name, POSTERIOR), *((name, colour) for name, (_, colour) in clouds.items())]
    handles = [
        panels["0"].fill_between([], [], color=colour, label=label, alpha=FILLED if colour == POSTERIOR else 1)
        for label, colour in entries
    ]
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=len(entries), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    save_chart(figure, path)


def _distances(z: Tensor, draws: Tensor) -> Tensor:
    """Of equally many, [D]."""
    num = min(len(z), len(draws))
    return wasserstein_1(draws[:num], z[:num])


def worst(distances: list[Tensor], most: int) -> list[int]:
    """Dimensions with the largest distances [D], in turn those of each prior."""
    orders = [by_dim.argsort(descending=True, stable=True)[:most].tolist() for by_dim in distances]
    share = -(-most // len(orders))
    chosen = dict.fromkeys(dim for order in orders for dim in order[:share])
    rest = (dim for order in orders for dim in order if dim not in chosen)
    return [*chosen, *dict.fromkeys(rest)][:most]


def name_of(dim: int, shape: tuple[int, ...]) -> str:
    """A dimension in words: its number, or its channel and place."""
    if len(shape) == 1:
        return f"dimension {dim}"
    channel, *place = (int(n) for n in np.unravel_index(dim, shape))
    return f"channel {channel} at {', '.join(map(str, place))}"


def _panel(axis: Axes, z: Tensor, priors: Mapping[str, Tensor]) -> None:
    """Histograms of one dimension, z [n] filled, and those of priors, colour -> [m], as lines."""
    values = z.double().numpy()
    if np.isin(values, (0, 1)).all():
        edges = np.array([-0.5, 0.5, 1.5])  # bits
    else:
        low, high = np.quantile(values, [LEAST, MOST])
        room = ROOM * (high - low) or max(1e-6, abs(low))
        edges = np.linspace(low - room, high + room, BINS + 1)
    widths = len(values) * np.diff(edges)
    occurs = np.histogram(values, edges)[0] / widths
    axis.stairs(occurs, edges, fill=True, color=POSTERIOR, alpha=FILLED)
    for colour, draws in priors.items():
        drawn = np.histogram(draws.double().numpy(), edges)[0]  # of all draws, those beside the panel too
        axis.stairs(drawn / (len(draws) * np.diff(edges)), edges, color=colour, linewidth=1.6)
    axis.set_yticks([])
    axis.locator_params(axis="x", nbins=4)
    axis.set_ylim(0, HEADROOM * occurs.max())  # a prior that is far too narrow must not squash what is real


def profiles(panels: Sequence[tuple[str, str, Tensor]], path: Path) -> None:
    """The middle and the inner nine tenths of every number of vectors, by its place.

    Numbers of very different size are shown in units of their deviation in the first panel, from its mean.

    A panel: title, colour, vectors [n, D].
    """
    tables = [finite_rows(rows)[:MOST_ROWS].double().cpu() for _, _, rows in panels]
    deviation = tables[0].std(0, correction=0)
    varying = deviation[deviation > 0]
    differ = len(varying) > 0 and bool(varying.max() > MOST_APART * varying.median())
    if differ:
        centre, unit = tables[0].mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        tables = [(table - centre) / unit for table in tables]
    figure, axes = chart([[f"{i}"] for i in range(len(panels))], width=8.8, height=1.9 * len(panels) + 0.4)
    bands = [np.quantile(table.numpy(), [0.05, 0.5, 0.95], axis=0) for table in tables]
    low, high = bands[0].min(), bands[0].max()  # of the first: what is far too wide must not squash it
    room = ROOM * (high - low) or 1.0
    for axis, (title, colour, _), (below, middle, above) in zip(axes.values(), panels, bands, strict=True):
        edges = np.arange(len(middle) + 1) - 0.5
        axis.stairs(above, edges, baseline=below, fill=True, color=colour, alpha=FILLED)
        axis.stairs(middle, edges, baseline=None, color=colour, linewidth=1.4)
        axis.set_xlim(edges[0], edges[-1])
        axis.set_ylim(low - room, high + room)
        words = f"{title}, each number in units of its deviation" if differ else title
        axis.set_title(words, fontsize=FONT_SIZE, loc="left", color=MUTED, parse_math=False)
        axis.locator_params(axis="x", integer=True)
    save_chart(figure, path)


def maps(
    real: Tensor, baseline: Tensor, learned: Tensor | None, path: Path, learned_name: str, baseline_name: str
) -> None:
    """Latents that are maps [N, C, h, w]: real ones beside draws of both priors, the first channels as colours.

    Black and full colour are quantiles of the real ones, a channel; `learned` None: the baseline alone.
    """
    real = finite_rows(real)
    low, high = scale_of(real)
    titles, colours, pictures = [], [], []
    panels = [(real, "test latents", POSTERIOR), (baseline, f"baseline: {baseline_name}", BASELINE)]
    if learned is not None:
        panels.append((learned, f"learned prior: {learned_name}", LEARNED))
    for z, title, colour in panels:
        few = coloured(finite_rows(z)[: MAP_COLUMNS * MAP_ROWS], low, high)
        titles.append(title)
        colours.append(colour)
        pictures.append(tile(few if len(few) else torch.ones(1, 1, *z.shape[-2:]), MAP_COLUMNS))
    side_by_side(pictures, titles, colours, path)


def scale_of(real: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of the first three channels of maps [N, C, h, w], what is black and what is full colour, [c, 1, 1]."""
    channels = real[:1000, :3].transpose(0, 1).flatten(1).float()  # [c, values]
    few = channels[:, :: -(-channels.shape[1] // 2**20)]
    low, high = torch.quantile(few, torch.tensor([MAP_LEAST, MAP_MOST], device=few.device), dim=1)  # [c] each
    return low[:, None, None], high[:, None, None]


def coloured(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Maps [n, C, h, w] as pictures [n, 1 or 3, h, w] in [0, 1]; of two channels, the third colour is half on."""
    picture = (z[:, :3].float() - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    if picture.shape[1] == 2:
        picture = torch.cat([picture, torch.full_like(picture[:, :1], 0.5)], 1)
    return picture.clamp(0, 1)
