"""Annealed importance sampling and bidirectional Monte Carlo, where log p(x) is known."""

import math
from collections.abc import Callable

import pytest
import torch
from linear_gaussian import QUICK, LinearGaussian, from_a_normal, std_error_nats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from expost.evaluation.annealing.path import Annealing, Start, annealed_bounds, bidirectional
from expost.evaluation.bounds import importance_bounds
from stage1_vae.latents import LatentSpec
from stage1_vae.likelihoods import DiscretizedLogistic
from stage2_prior.em.gaussian import Components
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.mixture import Mixture


def test_both_bounds_climb_back_from_a_wrong_posterior() -> None:
    torch.manual_seed(0)
    model = LinearGaussian(num=30)
    elbo = -model.importance(1000).elbo_nats
    assert (model.log_p - elbo).min() > 1  # every image starts at least a nat low
    iwae = -model.importance(5000).iwae_nats
    annealed = model.anneal(QUICK)
    ais = -annealed.nll_nats
    assert (iwae - model.log_p).mean().abs() < 0.05
    assert (ais - model.log_p).mean().abs() < 0.1
    assert annealed.trusted.all() and annealed.notes() == []
    assert annealed.acceptance.mean().item() == pytest.approx(0.65, abs=0.05)


def test_over_twenty_seeds_neither_exceeds_the_truth() -> None:
    """Every copy of an image is an independent run: one batch of 20 copies is 20 seeds."""
    torch.manual_seed(1)
    model, seeds = LinearGaussian(num=10), 20
    x = model.x.repeat(seeds, 1)
    bounds = ((-model.importance(5000, x).iwae_nats, 0.05), (-model.anneal(QUICK, x).nll_nats, 0.1))
    for log_bound, tolerance in bounds:
        means = (log_bound.view(seeds, -1) - model.log_p).mean(1)  # [20] a run's mean over images
        assert means.mean() <= 2 * means.std() / math.sqrt(seeds)
        assert means.mean().abs() < tolerance


@pytest.mark.parametrize("steps", [2, 6])
def test_weights_are_unbiased_however_few_the_steps(steps: int) -> None:
    """E[w] = p(x) forwards and E[1/w] = 1/p(x) backwards, on paths far too short to mix."""
    torch.manual_seed(0)
    model = LinearGaussian(latent=2, pixels=3, num=4, scale=1.0, widen=1.2)
    copies = 1000
    mean, covariance = model.posterior(model.x.repeat(copies, 1))
    exact = MultivariateNormal(mean, covariance).sample()  # [copies * 4, 2]: from the posterior of every image
    settings = Annealing(num_chains=4, num_steps=steps, leapfrog_steps=2)
    pairs = [(model.x.repeat(copies, 1), exact)]
    both = bidirectional(pairs, model.start, model.log_likelihood, model.log_prior, settings)
    for log_ratio in (-both.upper.nll_nats - model.log_p.repeat(copies), both.lower_nats + model.log_p.repeat(copies)):
        ratio = log_ratio.view(copies, 4).exp()
        error = ratio.std(0) / math.sqrt(copies)
        assert ((ratio.mean(0) - 1).abs() < 4 * error).all(), (ratio.mean(0), error)
        assert (error < 0.05).all()


def test_one_step_is_importance_sampling() -> None:
    model = LinearGaussian()
    begin = model.start(model.x)
    z = begin.sample(50)
    fixed = Start(lambda n: z[:n], begin.log_prob, begin.scale)
    settings = Annealing(num_chains=50, num_steps=1)
    annealed = annealed_bounds([model.x], lambda x: fixed, model.log_likelihood, model.log_prior, settings)
    weighted = importance_bounds(
        [model.x], lambda x: lambda n: (z, begin.log_prob(z)), model.log_likelihood, {"p": model.log_prior}, 50
    )["p"]
    torch.testing.assert_close(annealed.nll_nats, weighted.iwae_nats)
    torch.testing.assert_close(annealed.ess_share, weighted.ess_share)
    assert annealed.acceptance is None and annealed.acceptance_range is None and annealed.trusted.all()


def test_bidirectional_encloses_the_truth_and_closes_with_steps() -> None:
    torch.manual_seed(0)
    model = LinearGaussian(num=50)
    _, z, x = model.drawn
    gaps = []
    for steps in (5, 100):
        both = bidirectional(
            [(x, z)],
            model.from_the_prior,
            model.log_likelihood,
            model.log_prior,
            Annealing(num_chains=4, num_steps=steps, leapfrog_steps=4),
        )
        noise = 2 * both.gap_nats.std() / math.sqrt(len(x))
        assert both.lower_nats.mean() - noise <= -model.log_p.mean() <= both.upper.nll_nats.mean() + noise
        gaps.append(both.gap_nats.mean().item())
    assert gaps[0] > 8 and gaps[1] < 3


def test_two_modes_are_found_where_importance_sampling_from_one_misses_half() -> None:
    """The unnormalised posterior has modes at +-2 of known masses 2/3 and 1/3, log Z = -2.5; q sits on the second."""
    torch.manual_seed(0)
    dims, num, log_z = 3, 4, -2.5

    def log_joint(x: Tensor, z: Tensor) -> Tensor:
        modes = [Normal(c, 0.4).log_prob(z).sum(-1) + math.log(w) for c, w in ((2.0, 2 / 3), (-2.0, 1 / 3))]
        return torch.logaddexp(*modes) + log_z

    def flat(z: Tensor) -> Tensor:
        return torch.zeros_like(z[:, 0]) + 0 * z.sum(-1)

    def starting(centre: float, std: float) -> Callable[[Tensor], Start]:
        def start(x: Tensor) -> Start:
            q = Normal(torch.full((len(x), dims), centre), std)
            return Start(lambda n: q.sample(torch.Size([n])), lambda z: q.log_prob(z).sum(-1), q.stddev)

        return start

    x = torch.zeros(num, 1)
    one = starting(-2.0, 0.45)(x)
    iwae = -importance_bounds(
        [x], lambda x: lambda n: ((z := one.sample(n)), one.log_prob(z)), log_joint, {"p": flat}, 5000, max_rows=2**15
    )["p"].iwae_nats
    assert iwae.mean().item() == pytest.approx(log_z - math.log(3), abs=0.05)
    settings = Annealing(num_chains=400, num_steps=80, leapfrog_steps=4)
    ais = -annealed_bounds([x], starting(0.0, 2.0), log_joint, flat, settings).nll_nats
    assert ais.mean().item() == pytest.approx(log_z, abs=0.1)


def grid(limit: float, points: int) -> tuple[Tensor, float]:
    """z [points^2, 2] and the log of the area that each stands for."""
    line = torch.linspace(-limit, limit, points)
    return torch.cartesian_prod(line, line), 2 * math.log(2 * limit / (points - 1))


@pytest.mark.parametrize("kind", ["mixture", "autoregressive"])
def test_learned_priors_on_a_discretised_likelihood(kind: str) -> None:
    """log p(x) by summing over a grid of z; through the density and the masses that the pipeline uses."""
    torch.manual_seed(0)
    spec = LatentSpec((2,))
    if kind == "mixture":
        mixture = Mixture(spec, num_components=3)
        means = torch.tensor([[-2.0, 0.0], [1.0, 1.5], [1.0, -1.0]]).double()
        mixture.keep(Components(mixture.log_weights, means, 0.6 * torch.eye(2).double().expand(3, 2, 2)))
        prior: Mixture | Autoregressive = mixture
    else:
        prior = Autoregressive(spec, hidden=(16, 16), num_components=3, dropout=0.0).eval()
        for parameter in prior.net.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    weights = torch.randn(12, 2) * 0.25

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        loc = (0.5 + z @ weights.T).flatten(0, -2).view(-1, 1, 3, 4)
        image = DiscretizedLogistic(loc, torch.full_like(loc, -2.0), levels=16)
        return image.log_prob(x.repeat(len(z), 1, 1, 1)).view(z.shape[:-1])

    x = torch.randint(0, 16, (4, 1, 3, 4)) / 15
    points, log_area = grid(9.0, 361)
    with torch.no_grad():
        joint = log_likelihood(x, points[:, None].expand(-1, 4, -1)).double() + prior.log_prob(points)[:, None].double()
    truth = -(torch.logsumexp(joint, 0) + log_area)
    settings = Annealing(num_chains=200, num_steps=40, leapfrog_steps=4)
    annealed = annealed_bounds([x], from_a_normal(2), log_likelihood, prior.log_prob, settings)
    error = std_error_nats(annealed.ess_share, annealed.num_chains)
    assert ((annealed.nll_nats - truth).abs() < 5 * error).all()
    assert (error < 0.15).all()
    assert all(parameter.grad is None for parameter in prior.parameters())
