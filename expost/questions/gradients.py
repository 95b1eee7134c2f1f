"""Is one sample of z enough for the gradient?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from expost.base.errors import UserError
from expost.evaluation.figures import BASELINE, EXTRA, LEARNED, POSTERIOR, chart, save_chart
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
from expost.questions.linear import prepared
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.posteriors import DiagonalNormal

SILLY = 2.0
"""Where the silly problem stands: min over m of E[z^2], z ~ N(m, 1), whose gradient is 2 m."""
SILLY_REPEATS = 20_000


@dataclass
class Gradients(Inquiry):
    """Variance of the gradient of the ELBO in the encoder's weights over draws of z, reparameterised (Kingma & Welling,
    "Auto-Encoding Variational Bayes", 2014) and by the score function (Williams, 1992), beside its variance over
    batches; in parts of the squared length of the mean gradient. A silly problem of one number stands beside it.

    Attributes:
        samples: of z, for each estimate.
        num_repeats: estimates that a variance is measured from.
        epochs: after which the VAE is looked at.

    Raises:
        UserError: fewer than two numbers of samples, epochs or repeats.
    """

    samples: list[int] = field(default_factory=lambda: [1, 4, 16])
    num_repeats: int = 48
    epochs: list[int] = field(default_factory=lambda: [2, 60])

    asks = "Is one sample of z enough for the gradient?"
    columns: ClassVar[Mapping[str, Column]] = {
        "batch": Column("variance over batches, parts of the squared gradient of the encoder's weights", 3),
        "size": Column("images a batch", 0, is_setting=True),
        "reparameterised": Column("over z, one sample, reparameterised", 3),
        "score": Column("over z, one sample, score function", 1),
        "silly_reparameterised": Column("silly problem, reparameterised", 3),
        "silly_score": Column("silly problem, score function", 3),
    }
    goal = "vae"
    needs_normal = needs_elbo = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(len(set(self.samples)), len(set(self.epochs)), self.num_repeats) < 2 or min(self.samples) != 1:
            raise UserError(
                "question.samples, question.epochs and question.num_repeats: two or more, and samples from 1 on"
            )

    def variants(self) -> Sequence[Variant]:
        return [
            Variant(f"after {epochs} epochs", (f"trainer.max_epochs={epochs}", "trainer.max_steps=null"))
            for epochs in sorted(set(self.epochs))
        ]

    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        with run.job.seeded(run.job.config.seeds.sample):
            x = prepared(run.parts, run.parts.data.train).to(run.job.device)
            size = min(run.job.config.trainer.batch_size, len(x))
            batch = x[torch.randperm(len(x))[:size]]
            best, squared = self._variance(run.vae, lambda: batch, max(self.samples), False)
            curves = {
                name: [self._variance(run.vae, lambda: batch, num, by_score)[0] / squared for num in self.samples]
                for name, by_score in (("reparameterised", False), ("score", True))
            }
            total, _ = self._variance(run.vae, lambda: x[torch.randint(len(x), (size,))], max(self.samples), False)
            silly = {f"silly_{name}": variance for name, variance in silly_variances().items()}
        # What z adds at the most samples is taken away: what is left is the choice of the batch.
        batches = max(0.0, total - best) / squared
        return {"batch": batches, "size": size, **{name: curve[0] for name, curve in curves.items()}, **silly}, curves

    def _variance(self, vae: Autoencoder, batch: Callable[[], Tensor], num: int, by_score: bool) -> tuple[float, float]:
        """Of the gradient, and the squared length of its mean, both without bias."""
        gradients = torch.stack([gradient(vae, batch(), num, by_score) for _ in range(self.num_repeats)]).double()
        variance = float(gradients.var(0).sum())
        squared = float(gradients.mean(0).square().sum()) - variance / self.num_repeats  # whose mean has an error too
        return variance, max(squared, 1e-6 * variance)

    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        early, late = outcomes.variants[0], outcomes.variants[-1]

        def part(variant: str, name: str, decimals: int = 2) -> str:
            return spelled(outcomes.estimate(variant, name), decimals)

        signs = {name: self._beside_batch(outcomes, name) for name in outcomes.variants}
        larger, smaller = (any(sign == way for sign, _ in signs.values()) for way in (1, -1))
        verdict, more = "Not to be told here" if not smaller else "Here yes", "divide its own part"
        if larger:
            verdict = "Not always" if smaller else "Here more would help"
            more = "would make a step of the encoder less noisy, a larger batch as well"
        size = round(outcomes.all[0].figures["size"])
        return [
            f"{verdict}, reparameterised: {early}, one sample adds {part(early, 'reparameterised')} of the squared "
            f"gradient of the encoder's weights as variance, where the choice of a batch of {size:,} adds "
            f"{part(early, 'batch')}{signs[early][1]}; {late}, {part(late, 'reparameterised')} beside "
            f"{part(late, 'batch')}{signs[late][1]}. More samples {more}.",
            f"By the score function it is {part(early, 'score', 0)} and {part(late, 'score', 0)}. On min E[z^2] they "
            f"have {part(late, 'silly_reparameterised')} and {part(late, 'silly_score')}.",
        ]

    def _beside_batch(self, outcomes: Outcomes, variant: str) -> tuple[int, str]:
        """Whether one sample adds more than the choice of a batch (1), less (-1), or noise does not tell (0), by pairs
        of a seed; and words for noise."""
        pairs = zip(outcomes.values(variant, "reparameterised"), outcomes.values(variant, "batch"), strict=True)
        found = estimate_of([own - batch for own, batch in pairs])
        is_beyond = is_beyond_noise(found, self.num_seeds)
        sign = 0 if is_beyond is False else 1 if found.value > 0 else -1
        return sign, NOISE_WORDS[is_beyond]

    def draw(self, outcomes: Outcomes, path: Path) -> None:
        names = [f"when{place}" for place in range(len(outcomes.variants))]
        figure, panels = chart([[*names, "silly"]], width=11.4, height=4.0)
        for name, variant in zip(names, outcomes.variants, strict=True):
            axis = panels[name]
            for kind, colour in (("reparameterised", LEARNED), ("score", BASELINE)):
                for place, run in enumerate(outcomes.of(variant)):
                    axis.plot(
                        self.samples, run.material[kind], color=colour, marker="o", ms=4, label=None if place else kind
                    )
            batch = outcomes.estimate(variant, "batch").value
            axis.axhline(batch, color=POSTERIOR, linestyle=":", label="the choice of a batch")
            axis.set(xscale="log", yscale="log", xlabel="samples of z")
            axis.set_xticks(self.samples, [str(num) for num in self.samples])
            axis.minorticks_off()
            axis.set_title(variant, loc="left", fontsize=11)
        panels[names[0]].set_ylabel("variance, parts of the squared gradient")
        panels[names[0]].legend(frameon=False, fontsize=9)
        found = [
            outcomes.estimate(outcomes.variants[-1], f"silly_{kind}").value for kind in ("reparameterised", "score")
        ]
        panels["silly"].bar([0, 1], found, color=[LEARNED, EXTRA], width=0.6)
        panels["silly"].set_xticks([0, 1], ["reparameterised", "score"])
        panels["silly"].set_title("min E[z²], one sample", loc="left", fontsize=11)
        save_chart(figure, path)


def gradient(vae: Autoencoder, x: Tensor, num: int, by_score: bool) -> Tensor:
    """One estimate of d/dw of the mean ELBO in the encoder's weights w, flat; the rate is in closed form.

    Args:
        x: [B, C, H, W].
        num: draws of z for each image.
        by_score: whether the likelihood's part is log p(x|z) d log q(z|x) instead of the derivative through z.

    Raises:
        UserError: posteriors without a reparameterised draw.
    """
    posterior = vae.encode(x).posterior
    if not isinstance(posterior, DiagonalNormal):
        raise UserError("this question needs normal posteriors; leave out vae=")
    z = posterior.rsample((num,))  # [num, B, D]
    z = z.detach() if by_score else z
    likelihood = vae.decode(z.flatten(0, 1)).log_prob(x.repeat(num, 1, 1, 1)).view(num, -1)
    value = (likelihood.detach() * posterior.log_prob(z) if by_score else likelihood).mean() - kl_nats(posterior).mean()
    weights = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(value, weights, allow_unused=True)
    encoder = encoder_weights(vae)
    return torch.cat([g.flatten() for w, g in zip(weights, found, strict=True) if g is not None and id(w) in encoder])


def kl_nats(q: DiagonalNormal) -> Tensor:
    """KL(q || N(0, I)), [B] nats."""
    return 0.5 * (q.loc.square() + (2 * q.log_std).exp() - 1 - 2 * q.log_std).sum(-1)


def encoder_weights(vae: Autoencoder) -> set[int]:
    """Identities of the parameters that q(z|x) depends on."""
    halves = [getattr(vae, name) for name in ("encoder", "bottleneck") if hasattr(vae, name)]
    return {id(parameter) for half in halves for parameter in half.parameters()}


def silly_variances() -> dict[str, float]:
    """Both estimates of d/dm E[z^2], z ~ N(m, 1), from one sample, in parts of the squared gradient."""
    noise = torch.randn(SILLY_REPEATS, dtype=torch.float64)
    z = SILLY + noise
    return {
        "reparameterised": float((2 * z).var()) / (2 * SILLY) ** 2,
        "score": float((z.square() * noise).var()) / (2 * SILLY) ** 2,
    }
