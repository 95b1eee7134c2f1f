"""What should p(x) be?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from expost.base.errors import UserError
from expost.config.schema import Oracle
from expost.evaluation.figures import BASELINE, EXTRA, LEARNED, POSTERIOR, chart, save_chart
from expost.job import Job
from expost.oracle import estimate
from expost.parts.assembly import ImageParts
from expost.questions.inquiry import (
    NOISE_WORDS,
    Column,
    Finished,
    Inquiry,
    Outcomes,
    Variant,
    estimate_of,
    is_beyond_noise,
    spelled,
)
from expost.questions.linear import LinearModel, check_dims, encoded, prepared, principal_components

STD_FACTOR, SHIFT_STDS = 1.5, 0.5
"""The posterior that is wrong on purpose: as in stage=oracle."""


@dataclass
class Perfect(Inquiry):
    """A VAE whose p(x) is known beside the one that it should become: probabilistic principal components of the
    training images, the likeliest of all linear models, and what bounds make of it from a posterior that is wrong.

    Attributes:
        dims: latent dimensions.
        num_images: test images.
        importance_samples, num_chains, num_steps, leapfrog_steps: of the bounds.

    Raises:
        UserError: no dimensions.
    """

    dims: list[int] = field(default_factory=lambda: [2, 8, 16])
    num_images: int = 200
    importance_samples: int = 1000
    num_chains: int = 8
    num_steps: int = 100
    leapfrog_steps: int = 5

    asks = "What should p(x) be?"
    columns: ClassVar[Mapping[str, Column]] = {
        "exact": Column("principal components: log p(x), nats, exact", 2),
        "elbo": Column("ELBO, wrong posterior", 2),
        "iwae": Column("importance-weighted bound", 2),
        "ais": Column("annealing", 2),
        "vae": Column("linear VAE: log p(x), exact", 2),
        "vae_elbo": Column("its ELBO", 2),
    }
    goal = "vae"
    needs_normal = needs_elbo = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dims = sorted(set(self.dims))
        numbers = ("num_images", "importance_samples", "num_chains", "num_steps", "leapfrog_steps")
        for name in numbers:
            if getattr(self, name) < 2:
                raise UserError(f"question.{name}={getattr(self, name)}: give at least 2")
        if not self.dims or min(self.dims) < 1:
            raise UserError(f"question.dims={self.dims}: give one or more numbers, at least 1")

    def variants(self) -> Sequence[Variant]:
        return [Variant(f"{dims} dimensions", (f"vae.bottleneck.latent_dim={dims}",)) for dims in self.dims]

    def check_run(self, job: Job, parts: ImageParts) -> None:
        check_dims(parts.vae.spec.num_dims, len(LinearModel.of(parts.vae).offset))
        if self.num_images > (most := len(parts.data.test)):
            raise UserError(f"question.num_images={self.num_images}: there are {most:,} test images; give no more")

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        parts, seed = run.parts, run.job.config.seeds.sample
        with run.job.seeded(seed):
            train, x = (prepared(parts, images) for images in (parts.data.train, parts.data.test))
            x = x[: self.num_images]
            settings = Oracle(
                num_images=len(x),
                importance_samples=self.importance_samples,
                num_chains=self.num_chains,
                num_steps=self.num_steps,
                leapfrog_steps=self.leapfrog_steps,
                std_factor=STD_FACTOR,
                shift_stds=SHIFT_STDS,
            )
            found = estimate(principal_components(train, parts.spec.num_dims), x, settings)
        if (annealed := found.annealed.mean_nats()) is None:
            words = "; ".join(found.annealed.notes())
            raise UserError(f"question.num_steps={self.num_steps}: annealing has no figure here, {words}")
        model = LinearModel.of(run.vae)
        kl = torch.cat([model.kl_nats(posterior, block) for block, posterior in encoded(run.vae, x)])
        log_px = model.log_prob(x)
        figures = {
            "exact": found.truth,
            "elbo": found.elbo,
            "iwae": found.iwae,
            "ais": torch.tensor(-annealed),
            "vae": log_px,
            "vae_elbo": log_px - kl,
        }
        return {name: values.mean().item() for name, values in figures.items()}, None

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        last = outcomes.variants[-1]
        lacks = " and ".join(f"{self._lack(outcomes, name)} in {name}" for name in outcomes.variants)
        exact, elbo, iwae, ais, vae, vae_elbo = (spelled(outcomes.estimate(last, name)) for name in self.columns)
        return [
            f"A perfect VAE says log p(x) and nothing less: in {last}, principal components have {exact} nats, which "
            f"the ELBO of a wrong posterior puts at {elbo}, {self.importance_samples:,} importance samples at {iwae} "
            f"and annealing at {ais}.",
            f"A VAE without hidden layers is such a model: trained, it has {vae} nats, and its own ELBO is {vae_elbo}. "
            f"What it lacks beside principal components is {lacks}. So p(x) should be the density of the images, and a "
            "bound tells how far a model is from it only as far as it is tight.",
        ]

    def _lack(self, outcomes: Outcomes, variant: str) -> str:
        """By how much log p(x) of the VAE is below that of principal components, paired by seed, in words."""
        pairs = zip(outcomes.values(variant, "exact"), outcomes.values(variant, "vae"), strict=True)
        found = estimate_of([best - own for best, own in pairs])
        return f"{spelled(found)} nats{NOISE_WORDS[is_beyond_noise(found, self.num_seeds)]}"

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        figure, panels = chart([["bounds"]], width=8.8, height=4.4)
        axis, width = panels["bounds"], 0.13
        colours = dict(zip(self.columns, ("#1f2933", BASELINE, POSTERIOR, LEARNED, EXTRA, "#c9b3d3"), strict=True))
        for place, (name, colour) in enumerate(colours.items()):
            found = [outcomes.estimate(variant, name) for variant in outcomes.variants]
            axis.bar(
                [row + (place - 2.5) * width for row in range(len(found))],
                [one.value for one in found],
                yerr=[one.standard_error or 0.0 for one in found],
                width=0.92 * width,
                color=colour,
                label=self.columns[name].title.replace(", nats, exact", "").replace(", exact", ""),
            )
        axis.set_xticks(range(len(outcomes.variants)), outcomes.variants)
        axis.set_ylabel("nats a test image, higher is better")
        axis.legend(frameon=False, fontsize=9)
        save_chart(figure, path)
