"""Inference gaps where log p(x) and p(z|x) are known: a linear-Gaussian model, its latents turned so that no diagonal
posterior is exact."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from expost.evaluation.annealing.gaps import (
    Effort,
    Family,
    Gaps,
    hmc_draws,
    inference_gaps,
    normal_start,
    weighted_nats,
)
from expost.evaluation.annealing.path import Annealing
from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.surgery import mean_of
from stage1_vae.data.linear_gaussian import LinearGaussian, LinearGaussianDensity
from stage1_vae.posteriors import DiagonalNormal

NUM, DIMS = 24, 4
EFFORT = Effort(num_draws=400, annealing=Annealing(num_chains=8, num_steps=60, leapfrog_steps=4))


class Turned:
    """The model with z = R u for the latents u of a linear-Gaussian one: the same p(x), a prior N(0, I) too, and
    p(z|x) = N(R m, R diag(s^2) R')."""

    def __init__(self, density: LinearGaussianDensity, rotation: Tensor) -> None:
        self.density, self.rotation = density, rotation

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return self.density.log_likelihood(x, z.double() @ self.rotation)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.density.log_prior(z)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, D] and covariance [D, D]."""
        exact = self.density.posterior(x)
        variance = torch.diag(torch.exp(2 * exact.log_std[0]))
        return exact.loc @ self.rotation.T, self.rotation @ variance @ self.rotation.T

    def best_diagonal(self, x: Tensor) -> DiagonalNormal:
        """The diagonal normal nearest to p(z|x) by KL(q||p): its precisions are the diagonal of the inverse."""
        mean, covariance = self.posterior(x)
        return DiagonalNormal(mean, (-0.5 * torch.linalg.inv(covariance).diagonal().log()).expand_as(mean))

    def approximation_gap(self, x: Tensor) -> float:
        """KL of that one, nats: half the log of the determinant over the product of the inverse variances."""
        _, covariance = self.posterior(x)
        best = self.best_diagonal(x)
        return 0.5 * (torch.logdet(covariance) - 2 * best.log_std[0].sum()).item()


@pytest.fixture(scope="module")
def images() -> tuple[LinearGaussianDensity, Tensor]:
    data = LinearGaussian((1, 3, 4), latent_dim=DIMS, num_train=10, num_val=10, num_test=NUM).load()
    assert isinstance(data.density, LinearGaussianDensity)
    return data.density, data.test.batch(torch.arange(NUM)).double()


def turned(density: LinearGaussianDensity, angle: float) -> Turned:
    generator = torch.Generator().manual_seed(3)
    skew = torch.randn(DIMS, DIMS, generator=generator).double()
    return Turned(density, torch.matrix_exp(angle * (skew - skew.T)))


def of_normals(posterior: DiagonalNormal) -> Family:
    def at(values: Sequence[Tensor]) -> DiagonalNormal:
        return DiagonalNormal(values[0], values[1])

    return Family((posterior.loc, posterior.log_std), (posterior.log_std.exp(), torch.ones_like(posterior.loc)), at)


def measured(model: Turned, x: Tensor, shift_stds: float, log_factor: float, effort: Effort = EFFORT) -> Gaps:
    """From an encoder that is off the best diagonal normal."""

    def family(x: Tensor) -> Family:
        best = model.best_diagonal(x)
        return of_normals(DiagonalNormal(best.loc + shift_stds * best.log_std.exp(), best.log_std + log_factor))

    torch.manual_seed(0)
    return inference_gaps(x.split(10), family, model.log_likelihood, model.log_prior, effort)


def assert_near(per_image: Tensor, truth: float, slack: float) -> None:
    found = mean_of(per_image)
    assert len(per_image) == NUM and abs(found.value - truth) < slack + 4 * found.standard_error


def test_both_gaps_are_the_known_divergences(images: tuple[LinearGaussianDensity, Tensor]) -> None:
    """Of a posterior that no member of the family is, and an encoder whose distance from the best one is known."""
    density, x = images
    model, shift, factor = turned(density, 0.7), 0.8, 0.3
    truth = -density.log_prob(x)
    gap = model.approximation_gap(x)
    assert gap > 0.1
    found = measured(model, x, shift, factor)
    # KL(q||p) - KL(q*||p); the inverse's diagonal is that of the best, the rest of it joins the shifts
    _, covariance = model.posterior(x)
    best = model.best_diagonal(x)
    off = shift * best.log_std[0].exp()
    quadratic = off @ torch.linalg.inv(covariance) @ off
    scale = DIMS * (torch.tensor(2 * factor).exp() - 1 - 2 * factor)
    amortisation = 0.5 * (quadratic + scale).item()
    assert_near(found.amortisation_gap_nats, amortisation, slack=0.02)
    assert_near(found.approximation_gap_nats, gap, slack=0.02)
    assert_near(found.nll_nats - truth, 0.0, slack=0.01)
    assert found.hmc_nats is not None and (found.hmc_nats - truth).abs().max() < 0.05
    assert_near(found.ais_nats - truth, 0.0, slack=0.02)
    assert found.by_hmc == (found.hmc_nats.mean() < found.ais_nats.mean()).item()
    assert ((found.acceptance > 0.4) & (found.acceptance < 0.95)).all()


def test_the_exact_posterior_has_no_gap(images: tuple[LinearGaussianDensity, Tensor]) -> None:
    density, x = images
    found = measured(turned(density, 0.0), x, 0.0, 0.0)
    assert found.approximation_gap_nats.abs().max() < 0.1 and found.amortisation_gap_nats.abs().max() < 0.1
    assert_near(found.approximation_gap_nats, 0.0, slack=5e-3)
    assert_near(found.amortisation_gap_nats, 0.0, slack=5e-3)


def test_hmc_comes_to_the_posterior_from_a_wrong_start(images: tuple[LinearGaussianDensity, Tensor]) -> None:
    density, x = images
    model = turned(density, 0.7)
    mean, covariance = model.posterior(x)
    wrong = DiagonalNormal(mean + 2.0, torch.full_like(mean, -1.5))
    torch.manual_seed(1)
    effort = replace(EFFORT, num_chains=32, num_transitions=120)

    def log_joint(z: Tensor) -> Tensor:
        return model.log_likelihood(x, z) + model.log_prior(z)

    visited, _ = hmc_draws(normal_start(wrong.mean, wrong.variance), wrong.sample((32,)), log_joint, effort)
    assert visited.shape == (60 * 32, NUM, DIMS)
    torch.testing.assert_close(visited.mean(0), mean, rtol=0, atol=0.15)
    centred = visited - visited.mean(0)
    found = torch.einsum("nbi,nbj->ij", centred, centred) / (len(visited) * NUM)
    torch.testing.assert_close(found, covariance, rtol=0, atol=0.02)
    bound = weighted_nats(visited, log_joint, 500, 8192)
    assert bound is not None and (bound + density.log_prob(x)).abs().max() < 0.05
    of_maps = visited.repeat(1, 1, 65)  # more dimensions than a covariance is taken of
    assert weighted_nats(of_maps, log_joint, 500, 8192) is None


def test_energy_of_draws_is_that_of_the_posterior_after_hmc(images: tuple[LinearGaussianDensity, Tensor]) -> None:
    """E[-log p(x, z)] over p(z|x) is -log p(x) and the entropy of a normal."""
    density, x = images
    model = turned(density, 0.7)
    _, covariance = model.posterior(x)
    entropy = 0.5 * (DIMS * (1 + torch.tensor(2 * torch.pi).log()) + torch.logdet(covariance)).item()
    found = measured(model, x, 1.5, 0.0, replace(EFFORT, num_chains=32))
    assert_near(found.moved_joint_nats + density.log_prob(x), entropy, slack=0.02)
    assert (found.joint_nats.mean() - found.moved_joint_nats.mean()) > 1.0


def test_a_search_that_comes_to_no_number_leaves_the_encoder_s_posterior(
    images: tuple[LinearGaussianDensity, Tensor],
) -> None:
    density, x = images
    model = turned(density, 0.0)
    wild = replace(EFFORT, learning_rate=1e30, num_steps=3)
    found = measured(model, x, 0.3, 0.0, wild)
    assert_near(found.amortisation_gap_nats, 0.0, slack=5e-2)
    assert_near(found.approximation_gap_nats, 0.5 * DIMS * 0.3**2, slack=5e-2)


def test_nothing_is_kept_in_the_gradients_of_the_model(images: tuple[LinearGaussianDensity, Tensor]) -> None:
    density, x = images
    model = turned(density, 0.0)
    weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    scaled = SimpleNamespace(
        log_likelihood=lambda x, z: weight * model.log_likelihood(x, z),
        log_prior=model.log_prior,
        best_diagonal=model.best_diagonal,
    )
    little = replace(EFFORT, num_steps=2, num_draws=4, num_transitions=2, annealing=Annealing(2, 2, 1))
    measured(scaled, x, 0.0, 0.0, little)  # type: ignore[arg-type]
    assert weight.grad is None


def test_a_prior_without_a_gradient_is_refused(images: tuple[LinearGaussianDensity, Tensor]) -> None:
    density, x = images
    model = turned(density, 0.0)

    def family(x: Tensor) -> Family:
        return of_normals(model.best_diagonal(x))

    def cut(z: Tensor) -> Tensor:
        return model.log_prior(z.detach())

    with pytest.raises(EvaluationError, match="not differentiable"):
        inference_gaps([x], family, model.log_likelihood, cut, EFFORT)
