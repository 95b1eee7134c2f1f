"""Is N(0, 2I), a moment-matched Gaussian, a mixture of ten enough?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from expost.evaluation.figures import BASELINE, EXTRA, LEARNED, chart, save_chart
from expost.evaluation.row_names import AGGREGATE
from expost.questions.inquiry import Column, Finished, Inquiry, Outcomes, Variant, figure_of, spelled

NORMAL, MATCHED = "N(0, I)", "moment-matched Gaussian"
RUNGS: Mapping[str, tuple[str, ...]] = {
    NORMAL: ("prior=standard_normal",),
    "N(0, 2I)": ("prior=isotropic", f"prior.std={math.sqrt(2)}"),
    MATCHED: ("prior=gaussian",),
    "mixture of 2": ("prior=mixture", "prior.num_components=2"),
    "mixture of 10": ("prior=mixture", "prior.num_components=10"),
    "mixture of 50": ("prior=mixture", "prior.num_components=50"),
    "autoregressive": ("prior=autoregressive",),
    "likeliest ball": ("prior=isotropic",),
    "auto": ("prior=auto", "prior.seconds=60"),
}


@dataclass
class Ladder(Inquiry):
    """Priors from poor to rich on one VAE, in nats and in distance."""

    asks = "Is N(0, 2I), a moment-matched Gaussian, a mixture of ten enough?"
    columns: ClassVar[Mapping[str, Column]] = {
        "rate": Column("rate on test images, nats", 2),
        "distance": Column("Frechet distance", 3),
        "distance_beyond": Column("beyond decoded q(z)", 3),
        "seconds": Column("fit, seconds", 1),
    }

    def variants(self) -> Sequence[Variant]:
        return [Variant(name, words) for name, words in RUNGS.items()]

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        name = run.job.prior_name
        row, own = run.report.row(name), run.report.row(AGGREGATE)
        distance = figure_of(row, "frechet_distance")
        return {
            "rate": figure_of(row, "rate_nats"),
            "distance": distance,
            "distance_beyond": distance - figure_of(own, "frechet_distance"),
            "seconds": row.fit_seconds or 0.0,
        }, chosen(run)

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        def gain(name: str) -> str:
            cost, way = (outcomes.difference(name, NORMAL, figure) for figure in ("rate", "distance"))
            return (
                f"{spelled(cost, sign=True)} nats{outcomes.noise(name, NORMAL, 'rate')} and "
                f"{spelled(way, sign=True)} of Frechet distance{outcomes.noise(name, NORMAL, 'distance')}"
            )

        best = min(outcomes.variants, key=lambda name: outcomes.estimate(name, "rate").value)
        left, others = outcomes.difference("mixture of 10", best, "rate"), len(outcomes.variants) - 1
        noise = "" if best == "mixture of 10" else outcomes.noise("mixture of 10", best, "rate", others)
        picks = {run.material for run in outcomes.of("auto") if run.material}
        return [
            f"Beside N(0, I), N(0, 2I) has {gain('N(0, 2I)')}; one Gaussian with the moments of q(z) {gain(MATCHED)}; "
            f"a mixture of ten {gain('mixture of 10')}.",
            f"The fewest nats here has {best}{outcomes.as_good_as(best, outcomes.variants, 'rate')}, and a mixture of "
            f"ten leaves {spelled(left)} to it{noise}. prior=auto chose {' or '.join(sorted(picks)) or 'nothing'}.",
        ]

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["rate", "distance_beyond"]], width=10.4, height=4.4)
        names = outcomes.variants
        colours = [BASELINE if "N(0" in name else EXTRA if name == "auto" else LEARNED for name in names]
        for figure_name, axis in panels.items():
            found = [outcomes.estimate(name, figure_name) for name in names]
            errors = [one.standard_error or 0.0 for one in found]
            for place, (one, error, colour) in enumerate(zip(found, errors, colours, strict=True)):
                axis.errorbar(one.value, place, xerr=error, marker="o", markersize=9, color=colour, capsize=4)
            axis.grid(alpha=0.3)
            axis.set_yticks(range(len(names)), names if figure_name == "rate" else [""] * len(names))
            axis.invert_yaxis()
        panels["rate"].set_title("rate of a test image, nats", loc="left", fontsize=11)
        panels["distance_beyond"].set_title("Frechet distance beyond decoded q(z)", loc="left", fontsize=11)
        panels["distance_beyond"].axvline(0, color="black", linewidth=0.8)
        save_chart(figure, path)


def chosen(run: Finished) -> str | None:
    """Which rung `prior=auto` has taken; None of any other prior."""
    taken = [rung for rung in run.recorded.fit.ladder if rung.get("behind") == 0.0]
    return str(taken[0]["rung"]) if taken else None
