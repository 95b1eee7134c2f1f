"""Is learning the prior worth it on codes?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from expost.base.errors import UserError
from expost.evaluation.figures import BASELINE, LEARNED, POSTERIOR, chart, save_chart
from expost.evaluation.row_names import AGGREGATE
from expost.questions.inquiry import Column, Finished, Inquiry, Outcomes, Variant, estimate_of, figure_of, spelled
from stage1_vae.latents import Support

UNIFORM, COUNTS, LEARNT = "uniform", "counts of each place", "transformer"


@dataclass
class Codes(Inquiry):
    """Priors of codes from nothing to a network on one VAE, and the share of nats and of distance that each buys."""

    asks = "Is learning the prior worth it on codes?"
    columns: ClassVar[Mapping[str, Column]] = {
        "nats": Column("-log p(z), nats an image, exact", 2),
        "distance": Column("Frechet distance", 3),
        "saved": Column("nats below uniform", 2),
        "way": Column("of the way in distance to decoded q(z), %", 1),
        "seconds": Column("fit, seconds", 1),
    }
    support = Support.CODES

    def variants(self) -> Sequence[Variant]:
        names = {UNIFORM: "uniform", COUNTS: "unigram", LEARNT: "transformer"}
        return [Variant(name, (f"prior={choice}",)) for name, choice in names.items()]

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        report = run.report
        row, own, base = report.row(run.job.prior_name), report.row(AGGREGATE), report.row(report.baseline)
        nats, distance, before = (
            figure_of(row, "latent_nll_nats"),
            figure_of(row, "frechet_distance"),
            figure_of(base, "frechet_distance"),
        )
        way = before - figure_of(own, "frechet_distance")
        if way <= 0:
            raise UserError("decoded q(z) is no nearer to the images than uniform codes; raise trainer.max_epochs")
        return {
            "nats": nats,
            "distance": distance,
            "saved": figure_of(base, "latent_nll_nats") - nats,
            "way": 100 * (before - distance) / way,
            "seconds": row.fit_seconds or 0.0,
        }, None

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        pairs = list(zip(outcomes.values(COUNTS, "saved"), outcomes.values(LEARNT, "saved"), strict=True))
        counted, learnt = (spelled(outcomes.estimate(name, "way"), 1) for name in (COUNTS, LEARNT))
        gain, nearer = (outcomes.difference(LEARNT, COUNTS, name) for name in ("nats", "distance"))
        share = f"{spelled(outcomes.estimate(COUNTS, 'saved'))} nats, where a transformer buys none,"
        if all(learnt > 0 for _, learnt in pairs):
            of_each = estimate_of([100 * counted / learnt for counted, learnt in pairs])
            share = f"{spelled(of_each, 1)} % of the nats that a transformer buys,"
        is_less = gain.value < 0 and outcomes.differ(LEARNT, COUNTS, "nats") is not False
        why = ": what a network can know beyond counts of places is how the codes of an image depend on each other"
        return [
            f"Counting the codes of each place buys {share} and {counted} % of the way in distance from uniform codes "
            f"to decoded q(z); the transformer goes {learnt} % of it.",
            f"Beside counts it has {spelled(gain, sign=True)} nats an image{outcomes.noise(LEARNT, COUNTS, 'nats')} "
            f"and {spelled(nearer, sign=True)} of Frechet distance{outcomes.noise(LEARNT, COUNTS, 'distance')}"
            f"{why * is_less}.",
        ]

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["saved", "way"]], width=9.6, height=3.4)
        for name, axis in panels.items():
            found = [outcomes.estimate(variant, name) for variant in outcomes.variants]
            axis.barh(
                range(len(found)),
                [one.value for one in found],
                xerr=[one.standard_error or 0.0 for one in found],
                color=[BASELINE, POSTERIOR, LEARNED],
                height=0.65,
            )
            axis.set_yticks(range(len(found)), outcomes.variants if name == "saved" else [""] * len(found))
            axis.invert_yaxis()
            axis.set_title(self.columns[name].title, loc="left", fontsize=11)
        save_chart(figure, path)
