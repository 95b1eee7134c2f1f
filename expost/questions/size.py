"""Does a deeper encoder, or do more latent dimensions, bring q(z) nearer to N(0, I)?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expost.base.errors import UserError
from expost.evaluation.figures import BASELINE, EXTRA, LEARNED, POSTERIOR, chart, save_chart
from expost.evaluation.row_names import AGGREGATE
from expost.questions.inquiry import NOISE_WORDS, SIGNIFICANT, Column, Finished, Outcomes, Variant, figure_of, spelled
from expost.questions.matched import (
    AgainstMatch,
    excess,
    has_room,
    hidden,
    kl_figures,
    num_above,
    num_images,
)

TITLES = {"beyond": "KL(q(z) || N(0, I)) beyond an exact match, nats"}
COLOURS = (POSTERIOR, BASELINE, LEARNED, EXTRA)


@dataclass
class Size(AgainstMatch):
    """A grid of hidden layers by latent dimensions.

    Attributes:
        depths: hidden layers of `width` units in encoder and decoder.
        dims: latent dimensions.
        width: of a hidden layer.

    Raises:
        UserError: a grid of a single column or row, or layers of no width.
    """

    depths: list[int] = field(default_factory=lambda: [1, 2, 3])
    dims: list[int] = field(default_factory=lambda: [2, 8, 32])
    width: int = 256

    asks = "Does a deeper encoder, or do more latent dimensions, bring q(z) nearer to N(0, I)?"
    columns: ClassVar[Mapping[str, Column]] = {
        **AgainstMatch.kl_columns,
        "active": Column("active dimensions", 1),
        "distance": Column("Frechet distance of decoded N(0, I)", 2),
        "distance_beyond": Column("of which beyond decoded q(z)", 2),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.depths, self.dims = sorted(set(self.depths)), sorted(set(self.dims))
        if self.width < 1:
            raise UserError(f"question.width={self.width}: give at least 1")
        if len(self.depths) < 2 or len(self.dims) < 2 or min(*self.depths, *self.dims) < 1:
            raise UserError("question.depths and question.dims: give two or more different numbers each, at least 1")

    def name(self, depth: int, dims: int) -> str:
        return f"{depth} hidden, {dims} dimensions"

    def variants(self) -> Sequence[Variant]:
        return [
            Variant(
                self.name(depth, dims),
                (f"net.hidden=[{','.join([str(self.width)] * depth)}]", f"vae.bottleneck.latent_dim={dims}"),
            )
            for depth in self.depths
            for dims in self.dims
        ]

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        row, own = run.report.row(run.report.baseline), run.report.row(AGGREGATE)
        if (dimensions := run.report.surgery.dimensions) is None:
            raise UserError("this question counts active dimensions, and these latents have none; leave out vae=")
        distance = figure_of(row, "frechet_distance")
        return {
            **kl_figures(run),
            "active": dimensions.num_active,
            "distance": distance,
            "distance_beyond": distance - figure_of(own, "frechet_distance"),
        }, None

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        shallow, deep = min(self.depths), max(self.depths)
        small, large = min(self.dims), max(self.dims)
        middle = sorted(self.dims)[len(self.dims) // 2]
        deeper = self._compared(outcomes, self.name(shallow, middle), self.name(deep, middle))
        longer = self._compared(outcomes, self.name(shallow, small), self.name(shallow, large))
        return [
            f"Depth: from {shallow} hidden layer{'s' * (shallow > 1)} to {deep} in {middle} dimensions, {deeper}.",
            f"Dimensions: from {small} to {large} with {shallow} hidden layer{'s' * (shallow > 1)}, {longer}. "
            f"{self._spread(outcomes)}",
            *hidden(outcomes, outcomes.variants),
        ]

    def _compared(self, outcomes: Outcomes, before: str, after: str) -> str:
        """What became of KL and of the active dimensions from one variant to another."""
        kl, over, active = (
            (self.estimate(outcomes, before, name), self.estimate(outcomes, after, name))
            for name in ("marginal_kl", "beyond", "active")
        )
        noise = NOISE_WORDS[excess(outcomes, after, before).is_beyond]
        return (
            f"the estimate of KL(q(z) || N(0, I)) goes from {spelled(kl[0])} to {spelled(kl[1])} nats, and what it has "
            f"beyond an exact match at the same rate from {spelled(over[0])} to {spelled(over[1])}{noise}, with "
            f"{active[0].value:.1f} and {active[1].value:.1f} active dimensions"
        )

    def _spread(self, outcomes: Outcomes) -> str:
        """How many have an excess, and the smallest and the largest of those whose rates the images can judge."""
        apart = num_above([excess(outcomes, name) for name in outcomes.variants])
        counted = (
            f"{apart} of {len(outcomes.variants)} are beyond an exact match by more than noise, tested together at "
            f"{SIGNIFICANT:.0%}"
        )
        judged = [name for name in outcomes.variants if has_room(outcomes, name)]
        if len(judged) < 2:
            return f"{counted}; which is the nearest to N(0, I) these images cannot show."
        judged.sort(key=lambda name: excess(outcomes, name).amount.value)
        least, most = judged[0], judged[-1]
        is_beyond = excess(outcomes, most, least).is_beyond_of(math.comb(len(judged), 2))  # picked from all pairs
        return (
            f"{counted}. Of the {len(judged)} at rates below log {num_images(outcomes):,}, {least} has the smallest "
            f"excess, {spelled(excess(outcomes, least).amount)} nats, and {most} the largest, "
            f"{spelled(excess(outcomes, most).amount)}{NOISE_WORDS[is_beyond]}."
        )

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["beyond", "active", "distance"]], width=11.4, height=3.9)
        for name, axis in panels.items():
            for depth, colour in zip(self.depths, COLOURS * len(self.depths), strict=False):
                points = [self.estimate(outcomes, self.name(depth, dims), name) for dims in self.dims]
                axis.errorbar(
                    self.dims,
                    [point.value for point in points],
                    yerr=[point.standard_error or 0.0 for point in points],
                    color=colour,
                    marker="o",
                    capsize=3,
                    label=f"{depth} hidden",
                )
            axis.set_xscale("log", base=2)
            axis.set_xticks(self.dims, [str(dims) for dims in self.dims])
            axis.set_ylim(bottom=None if name == "beyond" else 0)
            axis.set_xlabel("latent dimensions")
            axis.set_title(TITLES.get(name, self.columns[name].title), loc="left", fontsize=10)
        panels["active"].plot(self.dims, self.dims, color="#b8c0c8", linestyle=":", label="all")
        panels["active"].legend(frameon=False, fontsize=9)
        save_chart(figure, path)
