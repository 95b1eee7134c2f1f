"""Can the moments of q(z) be absorbed into the layers around it, and does that speed up early training?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from expost.base.errors import UserError
from expost.config.schema import Config
from expost.evaluation.figures import BASELINE, LEARNED, POSTERIOR, chart, save_chart
from expost.questions.inquiry import Column, Finished, Inquiry, Outcomes, Variant, spelled

FIXED, LEARNT, ABSORBED = "fixed N(0, I)", "moments learned", "moments absorbed"
COLOURS = {FIXED: BASELINE, LEARNT: POSTERIOR, ABSORBED: LEARNED}


@dataclass
class Absorbed(Inquiry):
    """Training curves of three VAEs that differ in the Gaussian that their KL term is towards: N(0, I), one whose mean
    and widths are learned by gradients, and the same in the coordinates in which q(z) keeps mean 0 and variance 1, by
    the law of total variance.

    Attributes:
        early_epoch: where early training is looked at; within the training, and validated.

    Raises:
        UserError: an epoch below 1.
    """

    early_epoch: int = 10

    asks = "Can the moments of q(z) be absorbed into the adjacent layers, and does that speed up early training?"
    columns: ClassVar[Mapping[str, Column]] = {
        "early": Column("validation loss at the early epoch, nats", 2),
        "late": Column("at the end", 2),
        "rate": Column("rate at the end", 2),
    }
    goal = "prior"
    needs_elbo = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.early_epoch < 1:
            raise UserError(f"question.early_epoch={self.early_epoch}: give at least 1")

    def check(self, config: Config) -> str | None:
        trainer = config.trainer
        if trainer.max_epochs < self.early_epoch or self.early_epoch % trainer.val_every:
            return (
                f"question.early_epoch={self.early_epoch}: give an epoch within "
                f"trainer.max_epochs={trainer.max_epochs} that is validated, by trainer.val_every={trainer.val_every}"
            )
        return None

    def variants(self) -> Sequence[Variant]:
        names = {FIXED: "gaussian", LEARNT: "learned_gaussian", ABSORBED: "absorbed_gaussian"}
        return [Variant(name, (f"vae={choice}",)) for name, choice in names.items()]

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        validated = [epoch for epoch in run.recorded.vae if "val_loss" in epoch]
        epochs = np.array([epoch["epoch"] + 1 for epoch in validated])
        if self.early_epoch not in epochs:
            raise UserError(f"question.early_epoch={self.early_epoch}: training was over; raise trainer.max_steps")
        losses = np.array([epoch["val_loss"] for epoch in validated])
        early = losses[epochs == self.early_epoch][0]
        return {"early": early, "late": losses[-1], "rate": validated[-1]["val_rate_nats"]}, (epochs, losses)

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        sentences = []
        for name in (LEARNT, ABSORBED):
            parts = [
                f"{spelled(outcomes.difference(name, FIXED, figure), 2, sign=True)} nats {when}"
                f"{outcomes.noise(name, FIXED, figure)}"
                for figure, when in (("early", f"at epoch {self.early_epoch}"), ("late", "at the end"))
            ]
            sentences.append(f"Beside a fixed N(0, I), {name}: validation loss {' and '.join(parts)}.")
        early, late = (
            f"{spelled(outcomes.difference(ABSORBED, LEARNT, figure), 2, sign=True)} nats "
            f"{when}{outcomes.noise(ABSORBED, LEARNT, figure)}"
            for figure, when in (("early", f"at epoch {self.early_epoch}"), ("late", "at the end"))
        )
        sentences.append(
            "Absorbed moments follow q(z), learned ones the gradient; where both stand still they are one model in two "
            f"coordinates. Absorbed beside learned: {early} and {late}."
        )
        return sentences

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["early", "whole"]], width=9.6, height=4.2)
        for name, colour in COLOURS.items():
            for place, outcome in enumerate(outcomes.of(name)):
                epochs, losses = outcome.material
                for axis in panels.values():
                    axis.plot(epochs, losses, color=colour, alpha=0.8, label=name if place == 0 else None)
        epochs, losses = outcomes.all[0].material
        lowest = min(outcome.material[1].min() for outcome in outcomes.all)
        early = panels["early"]
        early.set_xlim(epochs[0], min(3 * self.early_epoch, epochs[-1]))
        early.axvline(self.early_epoch, color="#b8c0c8", linestyle=":")
        early.set_title("early training", loc="left")
        panels["whole"].set_title("all of it", loc="left")
        panels["whole"].set_ylim(lowest - 1, lowest + 0.35 * (losses[0] - lowest))
        for axis in panels.values():
            axis.set_xlabel("epoch")
        early.set_ylabel("validation loss, nats an image")
        early.legend(frameon=False, fontsize=9)
        save_chart(figure, path)
