"""Variational Bayes: against scikit-learn, a bound that never falls and is one, and how many components a truth has."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.em.bayes import (
    FULL,
    BayesSettings,
    BayesState,
    Belief,
    Factors,
    break_stick,
    variational_bayes,
)
from stage2_prior.em.points import Points
from stage2_prior.em.starts import start_statistics
from stage2_prior.fitting import PriorError
from stage2_prior.priors.bayes_mixture import BayesMixture
from stage2_prior.sampling import Sampling

CENTRES = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [-6.0, -3.0]])
SHARES = np.array([0.4, 0.3, 0.2, 0.1])
ALPHA, MEAN_COUNTS, DEGREES = 0.7, 2.0, 3.0
GUESS = torch.tensor([[1.0, 0.2], [0.2, 0.5]], dtype=torch.float64)


def clusters(num: int, seed: int) -> np.ndarray:
    """[num, 2] of four round Gaussians."""
    rng = np.random.default_rng(seed)
    z: np.ndarray = CENTRES[rng.choice(4, size=num, p=SHARES)] + rng.normal(size=(num, 2))
    return z.astype(np.float32)


def latents(loc: np.ndarray, log_std: float | None = None) -> LatentDataset:
    params = {"loc": loc} | ({} if log_std is None else {"log_std": np.full_like(loc, log_std)})
    return LatentDataset(LatentSpec((2,)), "delta" if log_std is None else "diagonal_normal", params)


def ascend(loc: np.ndarray, num: int, iterations: int, variance: float = 0.0) -> tuple[BayesState, Belief]:
    points = Points(torch.from_numpy(loc), torch.full(loc.shape, variance))
    belief = Belief(ALPHA, MEAN_COUNTS, DEGREES, GUESS)
    stats, _ = start_statistics(points, FULL, num, 2, RUN, torch.Generator().manual_seed(0))
    return variational_bayes(points, BayesState(stats), BayesSettings(belief, iterations, -1.0)), belief


def test_the_answer_is_that_of_scikit_learn() -> None:
    """Both at the end of their climb; the order of components, and so what a stick costs, is forced upon them."""
    loc = clusters(800, 0)
    state, belief = ascend(loc, 4, 300)
    oracle = BayesianGaussianMixture(
        n_components=4,
        weight_concentration_prior=ALPHA,
        mean_precision_prior=MEAN_COUNTS,
        mean_prior=np.zeros(2),
        degrees_of_freedom_prior=DEGREES,
        covariance_prior=(DEGREES * GUESS).numpy(),
        reg_covar=0,
        tol=1e-12,
        max_iter=2000,
        random_state=0,
    ).fit(loc.astype(np.float64))
    ours, order = Factors.of(state.stats, belief).mixture(), oracle.weights_.argsort()[::-1]
    np.testing.assert_allclose(ours.means, oracle.means_[order], atol=2e-4)
    np.testing.assert_allclose(ours.scale @ ours.scale.mT, oracle.covariances_[order], atol=5e-4)
    np.testing.assert_allclose(ours.log_weights.exp(), oracle.weights_[order], atol=2e-3)  # its last stick is not whole


@pytest.mark.parametrize("variance", [0.0, 0.2])
def test_the_bound_never_falls(variance: float) -> None:
    rng = np.random.default_rng(0)
    for loc in (clusters(600, 0), rng.standard_cauchy((300, 2)).astype(np.float32)):
        state, _ = ascend(loc, 12, 60, variance)
        gains = np.diff(state.curve)
        assert gains.min() > -1e-9 and gains.sum() > 0.05


def test_the_bound_is_below_the_evidence_and_tight_for_one_component() -> None:
    """With one component the posterior is Gaussian-Wishart, so the bound is the evidence, known in closed form: the
    product of the predictive densities of each point after those before it, of Student's t."""
    loc = clusters(30, 1)
    state, belief = ascend(loc, 1, 3)
    z, evidence = torch.from_numpy(loc).double(), 0.0
    count, mean = belief.mean_counts, torch.zeros(2, dtype=torch.float64)
    degrees, inverse = belief.degrees, belief.degrees * belief.guess
    for x in z:
        free = degrees - 1  # nu - D + 1, in two dimensions
        spread = inverse * (count + 1) / (count * free)
        distance = (x - mean) @ torch.linalg.solve(spread, x - mean)
        half = torch.tensor([0.5 * (free + 2), 0.5 * free], dtype=torch.float64)
        top, bottom = torch.lgamma(half)
        evidence += float(
            top - bottom - np.log(free * np.pi) - 0.5 * torch.logdet(spread) - half[0] * torch.log1p(distance / free)
        )
        inverse = inverse + count / (count + 1) * torch.outer(x - mean, x - mean)
        mean, count, degrees = (count * mean + x) / (count + 1), count + 1, degrees + 1
    assert state.curve[-1] * len(z) == pytest.approx(evidence, abs=1e-8)


def test_expected_weights_sum_to_one() -> None:
    share = torch.rand(9, dtype=torch.float64)
    weights = break_stick(share.log(), (1 - share).log()).exp()
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[1]) == pytest.approx(float((1 - share[0]) * share[1]))


@pytest.mark.parametrize("log_std", [None, -1.0])
def test_it_finds_how_many_components_there_are(log_std: float | None) -> None:
    train = latents(clusters(1500, 1), log_std)
    prior = BayesMixture(LatentSpec((2,)), num_components=8, concentration=0.1, tol=1e-5, max_iter=200, num_restarts=3)
    report = prior.fit(train, train, RUN)
    assert int(prior.num_held) == 4
    assert prior.caveats == report.notes == ["4 of its 8 components hold weight."]
    held = prior.log_weights[:4].exp()
    torch.testing.assert_close(held, torch.from_numpy(SHARES), atol=0.03, rtol=0)
    assert float(held.sum()) > 0.999
    found = prior.scale[:4] @ prior.scale[:4].mT
    widened = 1 + (0 if log_std is None else np.exp(2 * log_std))
    torch.testing.assert_close(found, (widened * torch.eye(2).double()).expand(4, 2, 2), atol=0.35, rtol=0)


def test_of_too_few_components_all_hold_weight_and_the_report_says_so() -> None:
    train = latents(clusters(1000, 0))
    prior = BayesMixture(LatentSpec((2,)), num_components=3)
    prior.fit(train, train, RUN)
    assert prior.caveats == ["all of its 3 components hold weight: the latents may want more (prior.num_components)."]


def test_at_temperature_zero_samples_are_means() -> None:
    train = latents(clusters(1000, 0))
    prior = BayesMixture(LatentSpec((2,)), num_components=4)
    prior.fit(train, train, RUN)
    drawn = {tuple(z) for z in prior.sample(200, how=Sampling(temperature=0)).tolist()}
    assert drawn == {tuple(mean) for mean in prior.means.float().tolist()}


def test_repeated_points_are_survived() -> None:
    few = np.repeat(np.arange(8.0).reshape(4, 2), 10, axis=0).astype(np.float32)
    prior = BayesMixture(LatentSpec((2,)), num_components=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.fit(latents(few), latents(few), RUN)
    assert prior.log_prob(torch.from_numpy(few)).isfinite().all() and prior.sample(100).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_components": 0}, "num_components=0: give at least 1"),
        ({"concentration": 0.0}, "concentration=0.0: give a number above 0"),
        ({"mean_counts": -1.0}, "mean_counts=-1.0: give a number above 0"),
        ({"pseudo_counts": -1.0}, "pseudo_counts=-1.0: give a number that is not negative"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        BayesMixture(LatentSpec((2,)), **wrong)  # type: ignore[arg-type]


def test_more_components_than_latents_are_refused() -> None:
    train = latents(clusters(5, 0))
    with pytest.raises(PriorError, match="6 components for 5 training images"):
        BayesMixture(LatentSpec((2,)), num_components=6).fit(train, train, RUN)


@pytest.mark.parametrize(
    ("columns", "common", "lost"), [(slice(1), 0.0, 0.1), (slice(None), 0.0, 0.2), (slice(None), 10.0, 0.1)]
)
def test_a_wild_latent_widens_no_component(columns: slice, common: float, lost: float) -> None:
    """Believed as wide as all latents with it, components would cost the others a nat or more; one it takes itself."""
    rng = np.random.default_rng(0)
    wild, val, test = (
        (rng.normal(size=(num, 8)) + common * rng.normal(size=(num, 1))).astype(np.float32) for num in (3000, 500, 3000)
    )
    tame = wild.copy()
    wild[5, columns] = 1e4
    nats = []
    for loc in (tame, wild):
        prior = BayesMixture(LatentSpec((8,)), num_components=20)
        train, held_out = (LatentDataset.of(torch.from_numpy(points)) for points in (loc, val))
        prior.fit(train, held_out, RUN)
        nats.append(prior.log_prob(torch.from_numpy(test)).mean().item())
    assert nats[1] > nats[0] - lost


def test_wild_latents_have_something_behind_them() -> None:
    rng = np.random.default_rng(5000)
    train, val, test = (rng.normal(size=(n, 2)) * np.where(rng.random((n, 1)) < 0.01, 1e3, 1) for n in (2000, 500, 500))
    prior = BayesMixture(LatentSpec((2,)), num_components=50)
    prior.fit(latents(train.astype(np.float32)), latents(val.astype(np.float32)), RUN)
    log_prob = prior.log_prob(torch.from_numpy(test).float())
    assert log_prob.mean() > -4 and log_prob.min() > -60
