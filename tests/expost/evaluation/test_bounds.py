"""Bounds on log p(x): on a linear-Gaussian model whose log p(x) is known exactly."""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from linear_gaussian import std_error_nats
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from expost.evaluation.bounds import Bounds, Draw, bits_per_dim, importance_bounds

LATENT, PIXELS, NUM = 3, 8, 40


@dataclass(frozen=True)
class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz, s^2 I): log p(x) = N(x; 0, WW' + s^2 I), posterior N(m(x), S)."""

    weights: Tensor
    scale: float
    x: Tensor
    proposal_scale: float = 1.0
    proposal_shift: float = 0.0

    @classmethod
    def make(cls, **proposal: float) -> "LinearGaussian":
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(PIXELS, LATENT, generator=generator, dtype=torch.float64)
        z = torch.randn(NUM, LATENT, generator=generator, dtype=torch.float64)
        noise = torch.randn(NUM, PIXELS, generator=generator, dtype=torch.float64)
        return cls(weights, 0.7, (z @ weights.T + 0.7 * noise).view(NUM, 1, 2, 4), **proposal)

    @property
    def nll_nats(self) -> Tensor:
        covariance = self.weights @ self.weights.T + self.scale**2 * torch.eye(PIXELS, dtype=torch.float64)
        return -MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), covariance).log_prob(self.x.flatten(1))

    def proposal(self, x: Tensor) -> MultivariateNormal:
        precision = torch.eye(LATENT, dtype=torch.float64) + self.weights.T @ self.weights / self.scale**2
        covariance = torch.linalg.inv(precision)
        mean = x.flatten(1) @ self.weights @ covariance / self.scale**2
        return MultivariateNormal(mean + self.proposal_shift, covariance * self.proposal_scale**2)

    def propose(self, x: Tensor) -> Draw:
        q = self.proposal(x)

        def draw(n: int) -> tuple[Tensor, Tensor]:
            z = q.sample((n,))
            return z, q.log_prob(z)

        return draw

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return Independent(Normal(z @ self.weights.T, self.scale), 1).log_prob(x.flatten(1))

    def rate(self, x: Tensor) -> Tensor:
        prior = MultivariateNormal(torch.zeros(LATENT, dtype=torch.float64), torch.eye(LATENT, dtype=torch.float64))
        return torch.distributions.kl_divergence(self.proposal(x), prior)

    def bounds(self, num_samples: int, **options: Any) -> Bounds:
        return self.all_bounds({"p": log_normal(1.0)}, num_samples, **options)["p"]

    def all_bounds(
        self, priors: dict[str, Callable[[Tensor], Tensor] | None], num_samples: int, batch: int = 16, **options: Any
    ) -> dict[str, Bounds]:
        batches = self.x.split(batch)
        return importance_bounds(batches, self.propose, self.log_likelihood, priors, num_samples, **options)


def log_normal(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda z: Normal(0.0, scale).log_prob(z).sum(-1)


@pytest.mark.parametrize("num_samples", [1, 2, 33])
def test_exact_posterior_gives_the_exact_likelihood(num_samples: int) -> None:
    model = LinearGaussian.make()
    bounds = model.bounds(num_samples)
    torch.testing.assert_close(bounds.iwae_nats, model.nll_nats)
    torch.testing.assert_close(bounds.elbo_nats, model.nll_nats)
    torch.testing.assert_close(bounds.distortion_nats + bounds.rate_nats, bounds.elbo_nats)


def test_one_sample_makes_the_importance_weighted_bound_the_elbo() -> None:
    bounds = LinearGaussian.make(proposal_scale=1.5, proposal_shift=0.2).bounds(1)
    torch.testing.assert_close(bounds.iwae_nats, bounds.elbo_nats)
    assert bounds.num_samples == 1


def test_bound_tightens_with_samples_and_converges_from_a_wrong_posterior() -> None:
    torch.manual_seed(0)
    model = LinearGaussian.make(proposal_scale=1.5, proposal_shift=0.5)
    truth = model.nll_nats.mean().item()
    means = [model.bounds(k).iwae_nats.mean().item() for k in (1, 10, 100, 5000)]
    assert means == sorted(means, reverse=True)
    assert means[0] > truth + 1
    assert means[-1] == pytest.approx(truth, abs=0.05)
    elbo = model.bounds(2000).elbo_nats.mean().item()
    expected = truth + _kl_to_posterior(model)
    assert elbo == pytest.approx(expected, abs=0.05)  # the gap of the ELBO is KL(q || posterior)


def _kl_to_posterior(model: LinearGaussian) -> float:
    exact = LinearGaussian.make()
    return torch.distributions.kl_divergence(model.proposal(model.x), exact.proposal(model.x)).mean().item()


def test_closed_form_rate_replaces_the_estimate_and_agrees_with_it() -> None:
    torch.manual_seed(0)
    model = LinearGaussian.make(proposal_scale=1.3)
    estimated = model.bounds(4000)
    closed = model.bounds(10, closed_form_rates={"p": model.rate})
    torch.testing.assert_close(closed.rate_nats, model.rate(model.x))
    torch.testing.assert_close(closed.elbo_nats, closed.distortion_nats + model.rate(model.x))
    assert estimated.rate_nats.mean().item() == pytest.approx(model.rate(model.x).mean().item(), abs=0.05)


def test_chunks_and_batches_do_not_change_the_result() -> None:
    model = LinearGaussian.make(proposal_scale=1.4)
    fixed = model.proposal(model.x).sample((50,))  # [50, N, D]: the same draws however they are asked for
    cursor = {"at": 0}

    def propose(x: Tensor) -> Draw:
        def draw(n: int) -> tuple[Tensor, Tensor]:
            z = fixed[cursor["at"] : cursor["at"] + n]
            cursor["at"] += n
            return z, model.proposal(x).log_prob(z)

        return draw

    results = []
    for max_rows in (10**6, 7 * NUM, 1):
        cursor["at"] = 0
        results.append(
            importance_bounds([model.x], propose, model.log_likelihood, {"p": log_normal(1.0)}, 50, None, max_rows)["p"]
        )
    for other in results[1:]:
        for field in fields(Bounds):
            torch.testing.assert_close(getattr(results[0], field.name), getattr(other, field.name))


class Watched:
    """Notes of each pass how large it is, and how many of those before it are still in memory."""

    def __init__(self, model: LinearGaussian) -> None:
        self.model = model
        self.chunks: list[weakref.ref[Tensor]] = []
        self.rows: list[int] = []
        self.alive: list[int] = []
        self.encoded = 0

    def propose(self, x: Tensor) -> Draw:
        self.encoded += 1
        draw_of_model = self.model.propose(x)

        def draw(n: int) -> tuple[Tensor, Tensor | None]:
            self.alive.append(sum(chunk() is not None for chunk in self.chunks))
            z, log_q = draw_of_model(n)
            self.chunks.append(weakref.ref(z))
            self.rows.append(z.shape[0] * z.shape[1])
            return z, log_q

        return draw


def test_neither_a_pass_nor_what_is_kept_grows_with_the_samples() -> None:
    model = LinearGaussian.make(proposal_scale=1.3)
    largest, kept = {}, {}
    for num_samples in (50, 5000):
        watched = Watched(model)
        bounds = importance_bounds(
            [model.x], watched.propose, model.log_likelihood, {"p": log_normal(1.0)}, num_samples, None, 400
        )
        assert watched.encoded == 1 and sum(watched.rows) == num_samples * NUM and bounds["p"].iwae_nats.shape == (NUM,)
        largest[num_samples], kept[num_samples] = max(watched.rows), max(watched.alive)
    assert largest == {50: 400, 5000: 400}
    assert kept == {50: 1, 5000: 1}


def test_effective_sample_size_tells_a_tight_bound_from_a_loose_one() -> None:
    torch.manual_seed(0)
    exact = LinearGaussian.make().bounds(50)
    torch.testing.assert_close(exact.ess_share, torch.ones(NUM).double())
    torch.testing.assert_close(std_error_nats(exact.ess_share, 50), torch.zeros(NUM).double(), atol=1e-6, rtol=0)
    wrong = LinearGaussian.make(proposal_scale=1.5, proposal_shift=0.2)
    error = std_error_nats(wrong.bounds(500).ess_share, 500)
    assert wrong.bounds(500).ess_share.max() < 0.8
    runs = torch.stack([wrong.bounds(500).iwae_nats for _ in range(40)])  # the spread that the error foretells
    assert runs.std(0).mean().item() == pytest.approx(error.mean().item(), rel=0.2)


def test_effective_sample_size_by_hand_whatever_the_chunks() -> None:
    model = LinearGaussian.make()
    at = torch.linspace(-1, 1, 6).double()[:, None, None].expand(6, NUM, LATENT)
    cursor = iter(at.split(2))
    log_w = torch.tensor([0.0, 1.0, -2.0, 3.0, 0.5, -1.0]).double()[:, None].expand(6, NUM)
    weights = iter(log_w.split(2))
    bounds = importance_bounds(
        [model.x],
        lambda x: lambda n: (next(cursor), torch.zeros(n, NUM).double()),
        lambda x, z: next(weights),
        {"p": lambda z: torch.zeros(len(z)).double()},
        6,
        max_rows=2 * NUM,
    )["p"]
    w = log_w.exp()
    torch.testing.assert_close(bounds.ess_share, w.sum(0).square() / w.square().sum(0) / 6)


@pytest.mark.parametrize("max_rows", [16, 64, 8192])  # chunks of 1, of 4, and all 20 samples at once
def test_a_dear_density_is_taken_of_the_first_samples_alone(max_rows: int) -> None:
    model, looked_at = LinearGaussian.make(), list[int]()

    def dear(z: Tensor) -> Tensor:
        looked_at.append(len(z))
        return log_normal(2.0)(z)

    torch.manual_seed(0)
    priors = {"cheap": log_normal(2.0), "dear": dear}
    bounds = model.all_bounds(priors, 20, max_rows=max_rows, fewer={"dear": 6})
    assert sum(looked_at) == 6 * NUM and bounds["dear"].num_samples == 6 and bounds["cheap"].num_samples == 20
    assert bounds["dear"].iwae_nats is None and bounds["dear"].ess_share is None
    assert torch.equal(bounds["dear"].distortion_nats, bounds["cheap"].distortion_nats)
    for figure in ("latent_nll_nats", "rate_nats", "elbo_nats"):
        apart = getattr(bounds["dear"], figure) - getattr(bounds["cheap"], figure)
        assert apart.abs().max() > 0 and apart.mean().abs() < 4 * apart.std() / math.sqrt(NUM), figure
    torch.manual_seed(0)
    alone = model.all_bounds({"dear": dear}, 20, max_rows=max_rows, fewer={"dear": 40})["dear"]
    torch.testing.assert_close(alone.iwae_nats, bounds["cheap"].iwae_nats)


def test_priors_share_the_proposals_and_the_decoder_passes() -> None:
    model = LinearGaussian.make()
    decoded: list[int] = []

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        decoded.append(z.shape[0] * z.shape[1])
        return model.log_likelihood(x, z)

    priors = {"a": log_normal(1.0), "b": log_normal(2.0), "none": None}
    bounds = importance_bounds(model.x.split(16), model.propose, log_likelihood, priors, 20, max_rows=64)
    assert sum(decoded) == NUM * 20 and max(decoded) <= 64
    assert torch.equal(bounds["a"].distortion_nats, bounds["b"].distortion_nats)
    difference = bounds["b"].rate_nats - bounds["a"].rate_nats  # paired: exactly the difference of the latent costs
    torch.testing.assert_close(difference, bounds["b"].latent_nll_nats - bounds["a"].latent_nll_nats)
    assert difference.abs().max() > 0.1
    no_density = bounds["none"]
    assert no_density.means() == {
        "distortion_nats": pytest.approx(bounds["a"].distortion_nats.mean().item()),
        "latent_nll_nats": None,
        "rate_nats": None,
        "elbo_nats": None,
        "iwae_nats": None,
    }


def test_point_masses_have_a_latent_cost_but_no_rate() -> None:
    model = LinearGaussian.make()
    at = model.proposal(model.x).mean

    def propose(x: Tensor) -> Draw:
        return lambda n: (at.expand(n, *at.shape), None)

    bounds = importance_bounds(
        [model.x], propose, model.log_likelihood, {"p": log_normal(1.0)}, 3, closed_form_rates={"p": model.rate}
    )["p"]
    torch.testing.assert_close(bounds.latent_nll_nats, -log_normal(1.0)(at))
    torch.testing.assert_close(bounds.distortion_nats, -model.log_likelihood(model.x, at))
    assert bounds.rate_nats is None and bounds.elbo_nats is None and bounds.iwae_nats is None
    assert bounds.ess_share is None


def test_weights_far_below_the_smallest_float_do_not_underflow() -> None:
    model = LinearGaussian.make()
    bounds = importance_bounds(
        [model.x], model.propose, lambda x, z: model.log_likelihood(x, z) - 1e5, {"p": log_normal(1.0)}, 8, max_rows=NUM
    )["p"]
    torch.testing.assert_close(bounds.iwae_nats, model.nll_nats + 1e5)


def test_no_samples_or_images_are_refused() -> None:
    model = LinearGaussian.make()
    with pytest.raises(ValueError, match="num_samples=0"):
        model.bounds(0)
    with pytest.raises(ValueError, match="no images"):
        importance_bounds([], model.propose, model.log_likelihood, {"p": log_normal(1.0)}, 4)


def test_bits_per_dim() -> None:
    assert bits_per_dim(784 * math.log(2), 784) == pytest.approx(1.0)  # a fair coin a pixel
    # Uniform density on [0, 1]^D: 0 nats, and 8 bits to name one of 256 equally likely levels.
    assert bits_per_dim(0.0, 3072, levels=256) == pytest.approx(8.0)
    assert bits_per_dim(-12 * math.log(4), 12, levels=256) == pytest.approx(6.0)  # four times as dense: two bits fewer
