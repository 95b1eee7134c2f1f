"""Does q(z) match N(0, I) after training?"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.patches import Circle
from torch import Tensor

from expost.base.errors import UserError
from expost.evaluation.figures import BASELINE, INK, MUTED, chart, save_chart, tile
from expost.evaluation.row_names import AGGREGATE
from expost.evaluation.sections import Estimate
from expost.parts.decoding import image_blocks
from expost.questions.inquiry import (
    NOISE_WORDS,
    Column,
    Finished,
    Outcomes,
    Variant,
    estimate_of,
    figure_of,
    is_beyond_noise,
    spelled,
)
from expost.questions.matched import (
    AgainstMatch,
    Excess,
    beyond_together,
    excess,
    hidden,
    kl_figures,
    num_images,
    with_noise_of_images,
)
from stage2_prior.priors.standard_normal import StandardNormal

FLAT, USUAL = 2, 16
"""Dimensions of the VAE that can be drawn, and of one that nobody can see."""
CHANCE = 50
"""Per cent of right answers of a classifier that guesses."""
SHOWN, COLUMNS = 60, 10
"""Decoded draws of each kind in the picture."""


@dataclass(frozen=True)
class Drawn:
    """What the picture shows of one run: z [N, 2] of training images, their labels [N], and decoded draws
    [SHOWN, C, H, W] of N(0, I) and of q(z)."""

    z: Tensor
    labels: Tensor
    baseline: Tensor
    own: Tensor


@dataclass
class Quilt(AgainstMatch):
    """The aggregate posterior in the plane, class by class, with N(0, I) around it; the same figures where nobody can
    see."""

    asks = "Does q(z) match N(0, I) after training?"
    columns: ClassVar[Mapping[str, Column]] = {
        **AgainstMatch.kl_columns,
        "accuracy": Column("told from N(0, I), % (50: chance)", 1),
        "baseline_distance": Column("Frechet distance of decoded N(0, I)", 2),
        "own_distance": Column("of decoded q(z)", 2),
    }

    def variants(self) -> Sequence[Variant]:
        return [Variant(f"{dims} dimensions", (f"vae.bottleneck.latent_dim={dims}",)) for dims in (FLAT, USUAL)]

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        row, own = run.report.row(run.report.baseline), run.report.row(AGGREGATE)
        figures = {
            **kl_figures(run),
            "accuracy": 100 * figure_of(row, "two_sample_accuracy"),
            "accuracy_error": _error_of_classifier(run),
            "baseline_distance": figure_of(row, "frechet_distance"),
            "own_distance": figure_of(own, "frechet_distance"),
        }
        return figures, self._look(run) if run.parts.spec.num_dims == FLAT else None

    def _look(self, run: Finished) -> Drawn:
        train = run.latents("train")
        labels = torch.zeros(len(train), dtype=torch.int64) if train.labels is None else train.labels
        seed = run.job.config.seeds.sample
        with run.job.seeded(seed), torch.no_grad():
            z = train.draw(torch.arange(len(train)))
            normal = StandardNormal(run.parts.spec).to(run.job.device)
            rows = torch.randperm(len(train))
            own = z[rows]

            def decoded(draw: Any) -> Tensor:
                blocks = image_blocks(run.vae, draw, SHOWN, False, seed, run.parts.data)
                return torch.cat(list(blocks))[:SHOWN].float() / 255

            return Drawn(z, labels, decoded(normal.sample), decoded(lambda num: own[:num].to(run.job.device)))

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        usual = outcomes.variants[-1]
        tests = [(excess(outcomes, name), self.above_chance(outcomes, name)) for name in outcomes.variants]
        flags = iter(beyond_together([over for both in tests for over in both]))
        found = {
            name: self._compared(outcomes, name, both, (next(flags), next(flags)))
            for name, both in zip(outcomes.variants, tests, strict=True)
        }
        apart = [f"in {name} by {' and '.join(signs)}" for name, (signs, _) in found.items() if signs]
        alike = [name for name, (signs, _) in found.items() if not signs]
        most = f"not beyond what {num_images(outcomes):,} images can show"
        if self.num_seeds < 2:
            answer = "Of one seed nobody knows"
        elif not apart:
            answer = f"{most[0].upper()}{most[1:]}"
        else:
            answer = f"No: q(z) is told from N(0, I) {', '.join(apart)}"
            answer += f"; in {' and '.join(alike)} {most}" if alike else ""
        base, own = (outcomes.estimate(usual, name) for name in ("baseline_distance", "own_distance"))
        pairs = zip(*(outcomes.values(usual, name) for name in ("baseline_distance", "own_distance")), strict=True)
        lead = estimate_of([normal - decoded for normal, decoded in pairs])
        return [
            f"{answer}.",
            *(words for _, words in found.values()),
            *hidden(outcomes, outcomes.variants),
            f"Decoded in {usual}, N(0, I) is at a Frechet distance of {spelled(base)} from the test images and q(z) "
            f"itself at {spelled(own)}, a difference of {spelled(lead)}"
            f"{NOISE_WORDS[is_beyond_noise(lead, self.num_seeds)]}.",
        ]

    def estimate(self, outcomes: Outcomes, variant: str, name: str) -> Estimate:
        if name != "accuracy":
            return super().estimate(outcomes, variant, name)
        above = self.above_chance(outcomes, variant).amount
        return Estimate(above.value + CHANCE, above.standard_error)

    def above_chance(self, outcomes: Outcomes, variant: str) -> Excess:
        """Of the classifier's right answers, per cent; its own error is that of the images it is asked about."""
        accuracy, errors = outcomes.estimate(variant, "accuracy"), outcomes.values(variant, "accuracy_error")
        found = Estimate(accuracy.value - CHANCE, accuracy.standard_error)
        return with_noise_of_images(found, [statistics.fmean(e**2 for e in errors)], len(errors), math.inf)

    def _compared(
        self, outcomes: Outcomes, name: str, tests: tuple[Excess, Excess], flags: tuple[bool | None, bool | None]
    ) -> tuple[list[str], str]:
        """By what q(z) of a variant is away from N(0, I), and what was found, in sentences.

        Args:
            tests: its excess, and the classifier's right answers beyond chance.
            flags: which of them is more than noise, of all that are told together.
        """
        over = tests[0]
        signs = [
            words
            for words, test, flag in zip(("nats", "a classifier"), tests, flags, strict=True)
            if flag is True and test.amount.value > 0
        ]
        kl, matched, accuracy = (
            self.estimate(outcomes, name, figure) for figure in ("marginal_kl", "matched_kl", "accuracy")
        )
        return signs, (
            f"In {name} KL(q(z) || N(0, I)) is estimated at {spelled(kl)} nats, and that of an exact match at the same "
            f"rate at {spelled(matched)}: {spelled(over.amount)} beyond it{NOISE_WORDS[flags[0]]}. A classifier "
            f"is right in {spelled(accuracy, 1)} % of cases, where {CHANCE} is chance{NOISE_WORDS[flags[1]]}."
        )

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        drawn: Drawn = outcomes.of(outcomes.variants[0])[0].material
        figure, panels = chart([["cloud", "baseline"], ["cloud", "own"]], width=9.6, height=5.2)
        _draw_cloud(panels["cloud"], drawn)
        for name, images, title, colour in (
            ("baseline", drawn.baseline, "decoded draws of N(0, I)", BASELINE),
            ("own", drawn.own, "decoded draws of q(z)", INK),
        ):
            panels[name].imshow(tile(images, COLUMNS), interpolation="nearest")
            panels[name].set_title(title, loc="left", color=colour, fontweight="bold")
            panels[name].axis("off")
        save_chart(figure, path)


def _error_of_classifier(run: Finished) -> float:
    """Standard error of its right answers over images, per cent."""
    found = run.report.surgery.two_sample[run.report.baseline]
    if found is None:
        raise UserError("this question needs a classifier, for which there are too few images here; raise data.size")
    return found.standard_error_percent


def _draw_cloud(axis: Any, drawn: Drawn) -> None:
    """z by class, and the circles that hold 50, 90 and 99 % of N(0, I)."""
    order = np.random.default_rng(0).permutation(len(drawn.z))  # no class on top of all others
    z, labels = drawn.z[order].numpy(), drawn.labels[order].numpy()
    axis.scatter(z[:, 0], z[:, 1], c=labels % 10, cmap="tab10", vmin=-0.5, vmax=9.5, s=9, alpha=0.75, linewidths=0)
    for share in (0.5, 0.9, 0.99):
        radius = float(np.sqrt(-2 * np.log(1 - share)))
        axis.add_patch(Circle((0, 0), radius, fill=False, color=BASELINE, linewidth=1.4, linestyle="--"))
        axis.annotate(
            f"{share:.0%}", (0, radius), color=BASELINE, ha="center", va="bottom", fontsize=9, fontweight="bold"
        )
    edge = max(3.4, float(np.quantile(np.abs(z), 0.999)) * 1.08)
    axis.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xlabel="z, first", ylabel="z, second")
    axis.set_title("q(z), a colour a class; circles hold a share of N(0, I)", loc="left", color=MUTED, fontsize=10)
