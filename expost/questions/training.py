"""Can log p(x) rise while KL(q(z|x) || p(z|x)) gets worse?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch

from expost.base.errors import UserError
from expost.config.schema import Config
from expost.evaluation.figures import BASELINE, LEARNED, POSTERIOR, chart, save_chart
from expost.job import Job
from expost.parts.assembly import ImageParts
from expost.questions.inquiry import Column, Finished, Inquiry, Outcomes, Variant, spelled
from expost.questions.linear import LinearModel, encoded, prepared


@dataclass
class Training(Inquiry):
    """The ELBO taken apart over training, exactly: log p(x) of the model as it is at that time, and how far q(z|x) is
    from its p(z|x). Of a linear VAE both are known. A run that ends after so many steps is the same as a longer one at
    that time.

    Attributes:
        steps: of the optimiser, after which the run is looked at.

    Raises:
        UserError: fewer than three.
    """

    steps: list[int] = field(default_factory=lambda: [1, 10, 30, 100, 300, 1000, 3000])

    asks = "Can log p(x) rise while KL(q(z|x) || p(z|x)) gets worse?"
    columns: ClassVar[Mapping[str, Column]] = {
        "log_px": Column("log p(x), nats, exact", 3),
        "kl": Column("KL(q(z|x) || p(z|x)), nats, exact", 3),
        "elbo": Column("their difference, the ELBO", 3),
    }
    goal = "vae"
    needs_normal = needs_elbo = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.steps)) < 3 or min(self.steps) < 1:
            raise UserError(f"question.steps={self.steps}: give three or more different numbers, at least 1")
        self.steps = sorted(set(self.steps))

    def check(self, config: Config) -> str | None:
        if config.trainer.schedule != "constant" or config.trainer.patience is not None:
            return (
                "a run that ends early is a longer one at that time only under trainer.schedule=constant "
                "trainer.patience=null; leave them so"
            )
        return None

    def variants(self) -> Sequence[Variant]:
        return [
            Variant(f"step {steps:,}", (f"trainer.max_steps={steps}", f"trainer.max_epochs={steps}"))
            for steps in self.steps
        ]

    def check_run(self, job: Job, parts: ImageParts) -> None:
        LinearModel.of(parts.vae)

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        model, x = LinearModel.of(run.vae), prepared(run.parts, run.parts.data.test)
        kl = torch.cat([model.kl_nats(posterior, block) for block, posterior in encoded(run.vae, x)])
        log_px = model.log_prob(x)
        figures = {"log_px": log_px, "kl": kl, "elbo": log_px - kl}
        return {name: values.mean().item() for name, values in figures.items()}, None

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        steps = [(before, after) for before, after in pairwise(outcomes.variants)]
        better = [pair for pair in steps if self._rises(outcomes, pair, "log_px", len(steps))]
        both = [pair for pair in better if self._rises(outcomes, pair, "kl", len(steps))]
        last = outcomes.variants[-1]
        end = (
            f"At {last} the ELBO lacks {spelled(outcomes.estimate(last, 'kl'), 3)} of log p(x) = "
            f"{spelled(outcomes.estimate(last, 'log_px'))} nats."
        )
        pair = max(both or better or steps, key=lambda pair: outcomes.difference(pair[1], pair[0], "kl").value)
        rise = outcomes.difference(pair[1], pair[0], "kl")
        if not both:
            found = "wherever log p(x) rises, q(z|x) comes nearer to p(z|x)"
            if rise.value > 0:
                found = (
                    f"the largest rise of KL(q(z|x) || p(z|x)) while log p(x) rises, from {pair[0]} to {pair[1]}, is "
                    f"{spelled(rise, 3)} nats (inside the noise)"
                )
            return [f"Not seen here: {found}.", end]
        return [
            f"Yes: from {pair[0]} to {pair[1]} log p(x) rises by "
            f"{spelled(outcomes.difference(pair[1], pair[0], 'log_px'))} nats while KL(q(z|x) || p(z|x)) gets worse by "
            f"{spelled(rise, 3)}{outcomes.noise(pair[1], pair[0], 'kl', len(steps))}. "
            "The ELBO rewards their difference alone: the model may become better faster than q(z|x) follows "
            "its p(z|x).",
            end,
        ]

    def _rises(self, outcomes: Outcomes, pair: tuple[str, str], name: str, among: int) -> bool:
        """Whether a figure rises from one variant to the next by more than noise, as far as one can know."""
        before, after = pair
        rise = outcomes.difference(after, before, name).value
        return rise > 0 and outcomes.differ(after, before, name, among) is not False

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["levels", "kl"]], width=9.6, height=4.2)
        for name, title, colour, axis in (
            ("log_px", "log p(x)", LEARNED, panels["levels"]),
            ("elbo", "ELBO", POSTERIOR, panels["levels"]),
            ("kl", "KL(q(z|x) || p(z|x))", BASELINE, panels["kl"]),
        ):
            for seed in range(self.num_seeds):
                values = [outcomes.values(variant, name)[seed] for variant in outcomes.variants]
                axis.plot(self.steps, values, color=colour, marker="o", ms=4, label=None if seed else title)
        for axis in panels.values():
            axis.set_xscale("log")
            axis.set_xticks(self.steps, [f"{step:,}" for step in self.steps])
            axis.minorticks_off()
            axis.set_xlabel("steps of the optimiser")
            axis.set_ylabel("nats a test image, exact")
            axis.legend(frameon=False)
        panels["kl"].set_ylim(bottom=0)
        save_chart(figure, path)
