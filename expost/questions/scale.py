"""Bigger than N(0, I)? The scale at which samples decode best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expost.base.errors import UserError
from expost.evaluation.figures import BASELINE, LEARNED, POSTERIOR, chart, save_chart
from expost.evaluation.row_names import AGGREGATE
from expost.questions.inquiry import Column, Finished, Inquiry, Outcomes, Variant, estimate_of, figure_of, spelled
from stage2_prior.prior import innermost

LIKELIEST = "the likeliest"


@dataclass
class Scale(Inquiry):
    """Balls of several widths, N(0, s^2 I), on one VAE: s is also the temperature of samples of N(0, I).

    Attributes:
        stds: s.

    Raises:
        UserError: fewer than three, or 1 is not among them.
    """

    stds: list[float] = field(default_factory=lambda: [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5])

    asks = "Bigger than N(0, I)? At which scale do samples decode best, and what does temperature do?"
    columns: ClassVar[Mapping[str, Column]] = {
        "rate": Column("rate, nats", 2),
        "distance": Column("Frechet distance", 2),
        "precision": Column("precision", 3),
        "recall": Column("recall", 3),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stds = sorted(set(self.stds))
        if len(self.stds) < 3 or 1.0 not in self.stds or self.stds[0] <= 0:
            raise UserError(f"question.stds={self.stds}: give three or more numbers above 0, 1.0 among them")

    def variants(self) -> Sequence[Variant]:
        given = [Variant(f"s = {std:g}", ("prior=isotropic", f"prior.std={std}")) for std in self.stds]
        return [*given, Variant(LIKELIEST, ("prior=isotropic",))]

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        row, own = run.report.row(run.job.prior_name), run.report.row(AGGREGATE)
        names = {"rate": "rate_nats", "distance": "frechet_distance", "precision": "precision", "recall": "recall"}
        own_distance = figure_of(own, "frechet_distance")
        return {key: figure_of(row, name) for key, name in names.items()}, (
            float(innermost(run.prior).get_buffer("width")),
            own_distance,
        )

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        given = outcomes.variants[:-1]
        one = f"s = {1.0:g}"
        nearest = min(given, key=lambda name: outcomes.estimate(name, "distance").value)
        cheapest = min(given, key=lambda name: outcomes.estimate(name, "rate").value)
        fitted = sum(run.material[0] for run in outcomes.of(LIKELIEST)) / self.num_seeds
        gain, cost = (outcomes.difference(nearest, one, name) for name in ("distance", "rate"))
        wider = self.stds[given.index(nearest)] - 1
        size = "wider than" if wider > 0 else "narrower than" if wider < 0 else "as wide as"
        noise = outcomes.noise(nearest, one, "distance", len(given) - 1)
        beside = (
            ""
            if nearest == one
            else f", {spelled(gain, sign=True)} beside it{noise}, at {spelled(cost, sign=True)} nats of rate"
        )
        low, high = given[0], given[-1]
        return [
            f"In nats the best ball has {cheapest} (the likeliest: {fitted:.2f}). Samples decode best at "
            f"{nearest}{outcomes.as_good_as(nearest, given, 'distance')}, {size} N(0, I): a Frechet distance of "
            f"{spelled(outcomes.estimate(nearest, 'distance'))}{beside}.",
            f"From {low} to {high} precision goes from "
            f"{spelled(outcomes.estimate(low, 'precision'))} to {spelled(outcomes.estimate(high, 'precision'))} and "
            f"recall from {spelled(outcomes.estimate(low, 'recall'))} to {spelled(outcomes.estimate(high, 'recall'))}. "
            "Decoded q(z) itself is at a distance of "
            f"{spelled(estimate_of([run.material[1] for run in outcomes.of(one)]))}.",
        ]

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["rate", "distance", "shares"]], width=11.4, height=3.9)
        for name, colour, axis in (
            ("rate", POSTERIOR, panels["rate"]),
            ("distance", BASELINE, panels["distance"]),
            ("precision", LEARNED, panels["shares"]),
            ("recall", POSTERIOR, panels["shares"]),
        ):
            found = [outcomes.estimate(variant, name) for variant in outcomes.variants[:-1]]
            errors = [one.standard_error or 0.0 for one in found]
            axis.errorbar(
                self.stds, [one.value for one in found], errors, color=colour, marker="o", capsize=3, label=name
            )
        own = [run.material[1] for run in outcomes.of(LIKELIEST)]
        panels["distance"].axhline(sum(own) / len(own), color="#66727f", linestyle=":", label="decoded q(z)")
        for name, axis in panels.items():
            axis.axvline(1.0, color="#b8c0c8", linewidth=1)
            axis.set_xlabel("s of N(0, s² I)")
            axis.set_title({"rate": "rate, nats", "distance": "Frechet distance", "shares": ""}[name], loc="left")
        for name in ("distance", "shares"):
            panels[name].legend(frameon=False, fontsize=9)
        save_chart(figure, path)
