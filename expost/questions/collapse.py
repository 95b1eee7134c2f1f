"""Why did my KL collapse, and which weight is right?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expost.base.errors import UserError
from expost.evaluation.figures import BASELINE, EXTRA, LEARNED, chart, save_chart
from expost.job import Job
from expost.parts.assembly import ImageParts
from expost.questions.inquiry import Column, Finished, Inquiry, Outcomes, Variant, figure_of, spelled
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.vae import VAE


@dataclass
class Collapse(Inquiry):
    """One VAE on images of several sizes with the KL weighted by 1, by a heavy weight, alone and with what is said to
    help, and by one that is normalised by the sizes of latent and image.

    Attributes:
        sides: rows and columns of the images, which are resized.
        beta: a heavy weight of the KL.
        beta_norm: the weight where both terms are means over their numbers (Higgins et al., "beta-VAE", 2017, appendix
            A.6: beta = beta_norm times numbers of an image over numbers of a latent).
        warmup_steps: over which the heavy weight rises; at most half of the training, so that it can do its work.
        free_nats: of each dimension, which the heavy weight does not count.

    Raises:
        UserError: fewer than two sizes, or a weight that is not heavy.
    """

    sides: list[int] = field(default_factory=lambda: [8, 16])
    beta: float = 20.0
    beta_norm: float = 0.25
    warmup_steps: int = 400
    free_nats: float = 0.5

    asks = "Why did my KL collapse, and which weight is right?"
    columns: ClassVar[Mapping[str, Column]] = {
        "beta": Column("weight of the KL in nats", 2, is_setting=True),
        "rate": Column("rate, nats an image", 2),
        "active": Column("active dimensions", 1),
        "distortion": Column("distortion, nats an image", 2),
        "distortion_a_pixel": Column("distortion a pixel, nats", 3),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sides = sorted(set(self.sides))
        if self.beta <= 1:
            raise UserError(f"question.beta={self.beta:g}: a heavy weight is above 1")
        if len(set(self.sides)) < 2 or min(self.sides) < 2:
            raise UserError(f"question.sides={self.sides}: give two or more different sizes, at least 2")

    @property
    def weights(self) -> dict[str, tuple[str, ...]]:
        """Name of a weighting -> the words that set it."""
        heavy = f"vae.objective.beta={self.beta}"
        return {
            "beta 1": (),
            f"beta {self.beta:g}": (heavy,),
            f"beta {self.beta:g}, warmed up": (heavy, f"vae.objective.warmup_steps={self.warmup_steps}"),
            f"beta {self.beta:g}, free nats": (heavy, f"vae.objective.free_nats={self.free_nats}"),
            f"normalised, {self.beta_norm:g}": (f"vae.objective.beta_norm={self.beta_norm}",),
        }

    def variants(self) -> Sequence[Variant]:
        return [
            Variant(f"{weight}; {side} x {side}", (*words, f"data.size={side}"))
            for weight, words in self.weights.items()
            for side in self.sides
        ]

    def check_run(self, job: Job, parts: ImageParts) -> None:
        if type(parts.objective) is not ELBO:
            raise UserError("this question weighs the KL of the ELBO; leave out vae=")
        trainer = job.config.trainer
        steps = trainer.max_epochs * math.ceil(len(parts.data.train) / trainer.batch_size)
        steps = steps if trainer.max_steps is None else min(steps, trainer.max_steps)
        if 2 * self.warmup_steps > steps:
            raise UserError(
                f"question.warmup_steps={self.warmup_steps}: training is {steps:,} steps, of which the heavy weight "
                f"needs half; give at most {steps // 2:,}, or raise trainer.max_epochs"
            )

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        row, dimensions = run.report.row(run.report.baseline), run.report.surgery.dimensions
        if dimensions is None:
            raise UserError("this question counts active dimensions, and these latents have none; leave out vae=")
        distortion, objective = figure_of(row, "distortion_nats"), run.parts.objective
        assert isinstance(objective, ELBO) and isinstance(run.vae, VAE)
        return {
            "beta": objective.full_weight(run.vae),
            "rate": figure_of(row, "rate_nats"),
            "active": dimensions.num_active,
            "distortion": distortion,
            "distortion_a_pixel": distortion / run.parts.num_pixels,
        }, None

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        small, large = min(self.sides), max(self.sides)
        plain, heavy, warmed, freed, normed = self.weights

        def rate(weight: str, side: int) -> str:
            return f"{spelled(outcomes.estimate(f'{weight}; {side} x {side}', 'rate'))}"

        def beta(side: int) -> str:
            return f"beta = {outcomes.estimate(f'{normed}; {side} x {side}', 'beta').value:g}"

        return [
            f"A bit of the code is kept where it saves the likelihood more than its weight. At {heavy} the code keeps "
            f"{rate(heavy, small)} nats of images of {small} x {small} (at beta 1: {rate(plain, small)}), and "
            f"{rate(heavy, large)} of {large} x {large} ({rate(plain, large)}), where the same picture is counted over "
            f"more pixels. Warmed up it keeps {rate(warmed, small)} and {rate(warmed, large)}, with free "
            f"nats {rate(freed, small)} and {rate(freed, large)}.",
            "In nats beta = 1 is the weight for which the loss is a bound on log p(x), at every size; a mean over "
            f"pixels beside a sum over latents is another weight at each. Normalised by both sizes, "
            f"{self.beta_norm:g} is {beta(small)} and {beta(large)}, and keeps {rate(normed, small)} and "
            f"{rate(normed, large)} nats.",
        ]

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["rate", "active"]], width=10.4, height=4.6)
        colours = dict(zip(self.sides, (LEARNED, EXTRA, BASELINE) * len(self.sides), strict=False))
        height = 0.8 / len(self.sides)
        for name, axis in panels.items():
            for place, side in enumerate(self.sides):
                found = [outcomes.estimate(f"{weight}; {side} x {side}", name) for weight in self.weights]
                axis.barh(
                    [row + (place - (len(self.sides) - 1) / 2) * height for row in range(len(found))],
                    [one.value for one in found],
                    xerr=[one.standard_error or 0.0 for one in found],
                    height=0.9 * height,
                    color=colours[side],
                    label=f"{side} x {side}",
                )
            axis.set_yticks(range(len(self.weights)), list(self.weights) if name == "rate" else [""] * 5)
            axis.invert_yaxis()
            axis.set_title(self.columns[name].title, loc="left", fontsize=11)
        panels["rate"].legend(frameon=False, fontsize=10, loc="center right")
        save_chart(figure, path)
