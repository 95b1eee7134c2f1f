"""Estimators and a prior, asked for what is known exactly; `expost.oracle` tells the answers.

The estimators start from a posterior that is wrong on purpose: standard deviations times `std_factor`, means moved by
`shift_stds` of the true ones, so that the ELBO lacks KL(wrong || exact) of every image,

    D [(std_factor^2 + shift_stds^2 - 1) / 2 - log std_factor] nats.

The prior is fitted to the exact posteriors of the training images, whose aggregate over p(x) is N(0, I).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.config.schema import Oracle
from expost.evaluation.annealing.path import Annealing, Start, annealed_bounds
from expost.evaluation.annealing.results import Annealed
from expost.evaluation.bounds import importance_bounds
from expost.evaluation.oracle import Compared
from expost.job import Run
from expost.training.progress import bar
from expost.training.tracking import Tracker
from stage1_vae.data.images import ImageData, ImageSet
from stage1_vae.data.linear_gaussian import LinearGaussianDensity
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.posteriors import DiagonalNormal
from stage2_prior.prior import Exactness, Prior

BLOCK = 50
"""Images that are bounded at once."""


@dataclass(frozen=True)
class Judged:
    """Estimates of log p(x) of the same images, log-likelihoods in float64 [N] on the CPU.

    Attributes:
        truth: log p(x), closed form.
        elbo_exact: ELBO at the exact posterior, one sample.
        elbo_expected: ELBO at the wrong posterior, closed form.
        elbo: the same, estimated.
        iwae: from the wrong posterior.
        annealed: of annealed importance sampling from the wrong posterior, costs; its estimate is `ais`.
    """

    truth: Tensor
    elbo_exact: Tensor
    elbo_expected: Tensor
    elbo: Tensor
    iwae: Tensor
    annealed: Annealed

    @property
    def ais(self) -> Tensor:
        """[N]; not a number where its chains are not to be trusted."""
        return -self.annealed.nll_nats.where(self.annealed.trusted.any(), torch.tensor(math.nan, dtype=torch.float64))


@dataclass(frozen=True)
class PriorRecovered:
    """The fitted prior on held-out z ~ q(z), costs in nats, lower is better.

    Attributes:
        name: of the prior.
        compared: -log p(z) under the known aggregate (truth) and under the fitted prior (estimate), on the same z; None
            for a prior without a density.
        log_prob_is: what the prior's number is.
        entropy_nats: of the aggregate, the mean that `true_nats` has over all z.
        num_fitted: images that it was fitted to.
    """

    name: str
    compared: Compared | None
    log_prob_is: str
    entropy_nats: float
    num_fitted: int


def wrong(posterior: DiagonalNormal, settings: Oracle) -> DiagonalNormal:
    """`posterior` spoiled: standard deviations times `std_factor`, means moved by `shift_stds` of the true ones."""
    std = torch.exp(posterior.log_std)
    return DiagonalNormal(posterior.loc + settings.shift_stds * std, posterior.log_std + math.log(settings.std_factor))


def kl_of_wrong_nats(latent_dim: int, settings: Oracle) -> float:
    """KL(wrong posterior || exact posterior), the same for every image: what the ELBO lacks."""
    per_dim = 0.5 * (settings.std_factor**2 + settings.shift_stds**2 - 1) - math.log(settings.std_factor)
    return latent_dim * per_dim


def judge(density: LinearGaussianDensity, x: Tensor, settings: Oracle, run: Run | None = None) -> Judged:
    """Every estimator on the images x [N, C, H, W], from torch's global generator; `run` shows progress."""
    shows = run is not None and run.shows_progress

    def propose(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        posterior = wrong(density.posterior(x), settings)
        z = posterior.rsample((n,))  # [n, B, D]
        return z, posterior.log_prob(z)

    def propose_exactly(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        posterior = density.posterior(x)
        z = posterior.rsample((n,))  # [n, B, D]
        return z, posterior.log_prob(z)

    def start(x: Tensor) -> Start:
        posterior = wrong(density.posterior(x), settings)
        return Start(lambda n: posterior.rsample((n,)), posterior.log_prob, torch.exp(posterior.log_std))

    model = {"model": density.log_prior}
    exact = importance_bounds([x], propose_exactly, density.log_likelihood, model, 1)["model"]
    blocks = bar("importance sampling", shows, x.split(BLOCK))
    spoiled = importance_bounds(blocks, propose, density.log_likelihood, model, settings.importance_samples)["model"]
    annealing = Annealing(settings.num_chains, settings.num_steps, settings.leapfrog_steps)
    blocks = bar("annealing", shows, x.split(BLOCK))
    annealed = annealed_bounds(blocks, start, density.log_likelihood, density.log_prior, annealing)
    if exact.elbo_nats is None or spoiled.elbo_nats is None or spoiled.iwae_nats is None:
        raise ValueError("posteriors with a density have bounds")
    truth = density.log_prob(x).cpu()
    return Judged(
        truth=truth,
        elbo_exact=-exact.elbo_nats,
        elbo_expected=truth - kl_of_wrong_nats(density.latent_dim, settings),
        elbo=-spoiled.elbo_nats,
        iwae=-spoiled.iwae_nats,
        annealed=annealed,
    )


def exact_latents(density: LinearGaussianDensity, images: ImageSet) -> LatentDataset:
    """The exact p(z|x_i) of every image, as stage 2 gets the q(z|x_i) of a trained VAE."""
    posterior = density.posterior(images.batch(torch.arange(len(images))).cpu())
    params = {name: getattr(posterior, name).float().numpy() for name in ("loc", "log_std")}
    return LatentDataset(LatentSpec((density.latent_dim,)), "diagonal_normal", params)


def recover(density: LinearGaussianDensity, data: ImageData, prior: Prior, run: Run) -> PriorRecovered:
    """Fit `prior` to the exact posteriors of the training images, and ask it about held-out ones.

    Raises:
        PriorError: the fit cannot be done.
    """
    train, val, test = (exact_latents(density, images) for images in (data.train, data.val, data.test))
    tracker = Tracker()
    report = prior.fit(train, val, run.fit_run(tracker, lightning_fit=run.lightning_fit(tracker, "prior")))
    for note in report.notes:
        run.say("prior", note)
    with run.seeded(run.config.seeds.sample), torch.no_grad():
        z = test.draw(torch.arange(len(test))).to(run.device)  # [N, D]
        compared = None
        name = run.command.choices.get("prior", "prior")
        if prior.log_prob_is is not Exactness.NONE:
            fitted = torch.cat([prior.eval().to(run.device).log_prob(block) for block in z.split(4096)])
            label = f"-log p(z), held-out z, prior {name}"
            compared = Compared.of(label, -density.log_prior(z).cpu(), -fitted.double().cpu())
    entropy = 0.5 * density.latent_dim * math.log(2 * math.pi * math.e)
    return PriorRecovered(name, compared, prior.log_prob_is.value, entropy, len(train))
