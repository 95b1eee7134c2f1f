"""The mixture: EM against scikit-learn, monotone ascent, recovery of a known truth, refusals."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from latent_values import log_stds, means
from sklearn.mixture import GaussianMixture
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.em.covariances import COVARIANCES, cholesky
from stage2_prior.em.gaussian import Components, EMSettings, EMState, e_step, expectation_maximisation
from stage2_prior.em.gaussian import Statistics as PointStatistics
from stage2_prior.em.points import Points, covariance_of_most, in_memory
from stage2_prior.em.starts import kmeans
from stage2_prior.fitting import PriorError
from stage2_prior.priors.mixture import Mixture
from stage2_prior.sampling import Sampling

KINDS = sorted(COVARIANCES)
SKLEARN = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
MEANS = np.array([[0.0, 0, 0], [3, 0, 1], [0, 3, -1], [-2, -2, 2]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


def factors() -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.stack([np.tril(rng.normal(0, 0.3, (3, 3))) + np.diag([0.8, 0.5, 0.3]) for _ in range(4)])


def known(num: int, seed: int) -> np.ndarray:
    """Draws of a known mixture of four correlated Gaussians in three dimensions, [num, 3] float32."""
    rng = np.random.default_rng(seed)
    which = rng.choice(4, size=num, p=WEIGHTS)
    draws = MEANS[which] + np.einsum("nde,ne->nd", factors()[which], rng.normal(size=(num, 3)))
    return draws.astype(np.float32)


def points_of(loc: np.ndarray, log_std: np.ndarray | None = None) -> LatentDataset:
    family = "delta" if log_std is None else "diagonal_normal"
    params = {"loc": np.float32(loc)} | ({} if log_std is None else {"log_std": np.float32(log_std)})
    return LatentDataset(LatentSpec(loc.shape[1:]), family, params)  # type: ignore[arg-type]


def truth() -> Mixture:
    mixture = Mixture(LatentSpec((3,)), num_components=4)
    scale = cholesky(torch.from_numpy(factors() @ factors().transpose(0, 2, 1)))
    mixture.keep(Components(torch.from_numpy(WEIGHTS).log(), torch.from_numpy(MEANS), scale))
    return mixture


def start(kind: str, num_components: int) -> Components:
    """Component means on the first data points, unit covariances."""
    shape = COVARIANCES[kind].scale_shape(num_components, 3)
    scale = torch.ones(shape) if len(shape) == 2 else torch.eye(3).expand(shape)
    means = torch.from_numpy(known(num_components, 3)).double()
    return Components(torch.full((num_components,), 1 / num_components).double().log(), means, scale.double())


def ascend(
    kind: str, loc: np.ndarray, num_components: int, iterations: int, counts: float = 0.0, variance: float = 0.0
) -> EMState:
    covariance = COVARIANCES[kind]
    points = Points(torch.from_numpy(loc), torch.full(loc.shape, variance))
    guess = covariance.guess(torch.eye(loc.shape[1], dtype=torch.float64), num_components)
    settings = EMSettings(covariance, guess, counts, iterations, tol=-1.0)
    return expectation_maximisation(points, EMState.begin(start(kind, num_components)), settings)


@pytest.mark.parametrize("kind", KINDS)
def test_same_start_same_answer_as_scikit_learn(kind: str) -> None:
    loc, num_components = known(3000, 0), 4
    ours = ascend(kind, loc, num_components, iterations=25)
    unit = {"full": np.stack([np.eye(3)] * 4), "tied": np.eye(3), "diagonal": np.ones((4, 3)), "spherical": np.ones(4)}
    oracle = GaussianMixture(
        num_components,
        covariance_type=SKLEARN[kind],
        reg_covar=0,
        tol=0,
        max_iter=25,
        weights_init=np.full(4, 0.25),
        means_init=known(num_components, 3).astype(float),
        precisions_init=unit[kind],
    )
    with pytest.warns(UserWarning, match="did not converge"):
        oracle.fit(loc.astype(np.float64))
    torch.testing.assert_close(ours.current.log_weights.exp().numpy(), oracle.weights_, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.current.means.numpy(), oracle.means_, atol=1e-5, rtol=0)
    scale = ours.current.scale
    covariances = {
        "full": lambda: scale @ scale.mT,
        "tied": lambda: (scale @ scale.mT)[0],
        "diagonal": lambda: scale.square(),
        "spherical": lambda: scale.square()[:, 0],
    }[kind]()
    torch.testing.assert_close(covariances.numpy(), oracle.covariances_, atol=1e-5, rtol=0)
    mixture = Mixture(LatentSpec((3,)), num_components=4, covariance=kind)
    mixture.keep(ours.current)
    z = known(500, 9)
    expected = torch.from_numpy(oracle.score_samples(z.astype(np.float64))).float()
    torch.testing.assert_close(mixture.log_prob(torch.from_numpy(z)), expected, atol=1e-4, rtol=0)
    assert ours.curve[-1] == pytest.approx(oracle.score(loc.astype(np.float64)), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [0.0, 4.0])
def test_em_is_monotone(kind: str, counts: float) -> None:
    rng = np.random.default_rng(0)
    for loc in (known(1000, 0), np.float32(rng.standard_cauchy((400, 3)))):  # and one with far outliers
        result = ascend(kind, loc, 8, iterations=40, counts=counts, variance=1e-4)  # type: ignore[arg-type]
        gains = np.diff(result.objective)
        assert gains.min() > -1e-9 and gains.sum() > 0.1
        if counts == 0:
            assert result.objective == result.curve


@pytest.mark.parametrize("kind", KINDS)
def test_bound_is_the_expected_joint(kind: str) -> None:
    """The E-step of points with variance, against log-densities averaged over draws."""
    components, covariance = start(kind, 5), COVARIANCES[kind]
    torch.manual_seed(0)
    loc, variance = torch.randn(20, 3), 0.3 * torch.rand(20, 3)
    points = Points(loc, variance)
    bound = e_step(PointStatistics(points, covariance, 5), components).evidence
    draws = (loc + variance.sqrt() * torch.randn(20_000, 20, 3)).double()
    joint = components.log_weights + covariance.log_density(components.means, components.scale)(draws.flatten(0, 1))
    expected = torch.logsumexp(joint.view(20_000, 20, 5).mean(0), dim=1)
    torch.testing.assert_close(bound, expected, atol=0.05, rtol=0)


def test_single_precision_and_blocks_change_nothing() -> None:
    """Large enough for float32 and for several blocks of rows."""
    rng = np.random.default_rng(0)
    loc = torch.from_numpy(np.float32(rng.normal(size=(20_000, 8))))
    covariance, points = COVARIANCES["full"], Points(loc, torch.zeros_like(loc))
    scale = torch.eye(8).double().expand(60, 8, 8)
    wide = Components(torch.full((60,), 1 / 60).double().log(), loc[:60].double(), scale)
    fast = PointStatistics(points, covariance, 60)
    assert fast.dtype is torch.float32 and fast.block < len(points)
    exact = PointStatistics(points, covariance, 60)
    exact.to_double()
    exact.block = len(points)
    for _ in range(2):  # the second pass reads the cache
        a, b = e_step(fast, wide), e_step(exact, wide)
        assert fast.dtype is torch.float32
        assert a.bound_nats == pytest.approx(b.bound_nats, abs=1e-5)
        torch.testing.assert_close(a.stats, b.stats, atol=2e-2, rtol=1e-4)
        assert a.stats[:, 0].sum().item() == pytest.approx(20_000, abs=0.1)
    narrow = Components(wide.log_weights, wide.means, 1e-3 * scale)
    e_step(fast, narrow)
    assert fast.dtype is torch.float64, "rounding of narrow components needs double precision"


@pytest.mark.parametrize(("spread", "counts"), [(0.0, 0.0), (0.4, 0.0), (0.4, 4.0)])
def test_a_known_mixture_is_recovered(spread: float, counts: float) -> None:
    """Held-out log-likelihood within 0.01 nats of the truth; with posteriors, of the truth convolved with them."""
    log_std = None if not spread else np.full((8000, 3), np.log(spread))
    train, held_out = points_of(known(8000, 0), log_std), known(20_000, 1)
    mixture = Mixture(LatentSpec((3,)), num_components=4, num_restarts=3, tol=1e-5, pseudo_counts=counts)
    report = mixture.fit(train, train, RUN)
    reference = truth()
    widened = reference.scale @ reference.scale.mT + spread**2 * torch.eye(3)
    reference.scale.copy_(cholesky(widened))
    torch.manual_seed(0)
    z = torch.from_numpy(held_out) + spread * torch.randn(held_out.shape)
    gap = (reference.log_prob(z) - mixture.log_prob(z)).mean().item()
    assert -0.005 < gap < 0.01
    assert report.notes == []
    order = mixture.log_weights.argsort(descending=True)
    torch.testing.assert_close(mixture.log_weights[order].exp(), torch.from_numpy(WEIGHTS), atol=0.03, rtol=0)
    assert report.val_nll_nats == pytest.approx(
        -mixture.log_prob(train.draw(torch.arange(8000))).mean().item(), abs=0.1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_total_moments_are_those_of_the_aggregate(kind: str) -> None:
    rng = np.random.default_rng(0)
    train = points_of(known(2000, 0) * [1, 10, 0.1] + 5, rng.normal(-1, 0.3, (2000, 3)) + np.log([1, 10, 0.1]))
    mixture = Mixture(LatentSpec((3,)), num_components=5, covariance=kind, pseudo_counts=0, min_std=0)
    mixture.fit(train, train, RUN)
    weights = mixture.log_weights.exp()
    mean = weights @ mixture.means
    torch.testing.assert_close(mean, means(train).double().mean(0), rtol=1e-4, atol=1e-4)
    total = torch.exp(2 * log_stds(train).double()).mean(0) + means(train).double().var(0, unbiased=False)
    torch.manual_seed(0)
    z = mixture.sample(200_000).double()
    sampled = z.var(0)
    if kind == "spherical":
        torch.testing.assert_close(sampled.sum(), total.sum(), rtol=0.02, atol=0)
    else:
        torch.testing.assert_close(sampled, total, rtol=0.02, atol=0)


def test_empty_components_are_placed_anew() -> None:
    loc = known(500, 0)
    begin = start("full", 4)
    far = Components(begin.log_weights, begin.means.clone(), begin.scale)
    far.means[2] = 1e3
    covariance = COVARIANCES["full"]
    result = expectation_maximisation(
        Points(torch.from_numpy(loc), torch.zeros(loc.shape)),
        EMState.begin(far),
        EMSettings(covariance, torch.eye(3).double(), 1.0, max_iter=60, tol=1e-4),
    )
    assert result.reseeded == 1
    assert result.current.log_weights.exp().min() > 0.02 and result.current.means.abs().max() < 10
    assert np.diff(result.objective).min() > -1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_points_are_survived(kind: str) -> None:
    few = np.float32(np.repeat(np.arange(12.0).reshape(4, 3), 10, axis=0))
    mixture = Mixture(LatentSpec((3,)), num_components=9, covariance=kind)
    mixture.fit(points_of(few), points_of(few), RUN)  # type: ignore[arg-type]
    assert mixture.log_prob(torch.from_numpy(few)).isfinite().all() and mixture.sample(100).isfinite().all()


def test_more_restarts_are_never_worse() -> None:
    train = points_of(known(600, 0))
    best = [
        min(row["objective_nats"] for row in Mixture(LatentSpec((3,)), 6, num_restarts=n).fit(train, train, RUN).curve)
        for n in (1, 4)
    ]
    assert best[1] <= best[0]


def test_kmeans_finds_separate_clusters() -> None:
    torch.manual_seed(0)
    centres = 20 * torch.eye(6)
    truth_of = torch.arange(6).repeat_interleave(50)
    found = kmeans(centres[truth_of] + torch.randn(300, 6), 6, 5, torch.Generator().manual_seed(0))
    assert len({(int(a), int(b)) for a, b in zip(truth_of, found, strict=True)}) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_components": 0}, "num_components=0: give at least 1"),
        ({"num_components": -3}, "num_components=-3"),
        ({"covariance": "diag"}, "covariance=diag .*full, tied, diagonal, spherical"),
        ({"num_restarts": 0}, "num_restarts=0"),
        ({"tol": -1.0}, "tol=-1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        Mixture(LatentSpec((3,)), **arguments)


def test_bad_latents_are_refused() -> None:
    few = points_of(known(5, 0))
    with pytest.raises(PriorError, match=r"6 components for 5 training images: set prior.num_components to 5 or less"):
        Mixture(LatentSpec((3,)), num_components=6).fit(few, few, RUN)
    Mixture(LatentSpec((3,)), num_components=5).fit(few, few, RUN)
    loc = known(50, 0)
    loc[7, 0] = np.nan
    with pytest.raises(PriorError, match=r"first: 7"):
        Mixture(LatentSpec((3,)), num_components=2).fit(points_of(loc), few, RUN)


def test_a_fit_that_runs_out_of_iterations_says_so() -> None:
    train = points_of(known(500, 0))
    report = Mixture(LatentSpec((3,)), num_components=4, max_iter=2, tol=1e-9).fit(train, train, RUN)
    assert len(report.curve) == 3 and "max_iter=2" in report.notes[0]


def test_temperature_scales_the_widths() -> None:
    mixture = truth()
    torch.manual_seed(0)
    cold = mixture.sample(500, how=Sampling(temperature=0))
    assert torch.equal(cold.unique(dim=0), torch.from_numpy(np.float32(MEANS)).unique(dim=0))
    z = mixture.sample(40_000, how=Sampling(temperature=0.5)).double()
    between = np.cov(MEANS.T, aweights=WEIGHTS, bias=True)
    within = np.einsum("n,nde,nfe->df", WEIGHTS, factors(), factors())
    assert np.abs(np.cov(z.numpy().T) - between - 0.25 * within).max() < 0.1


@pytest.mark.parametrize("pseudo_counts", [4.0, "held_out"])
def test_a_wild_latent_widens_no_component(pseudo_counts: float | Literal["held_out"]) -> None:
    """Of a guess as wide as the wild one, four points would cost the others nats."""
    rng = np.random.default_rng(0)
    wild, val, test = (rng.normal(size=(num, 8)).astype(np.float32) for num in (3000, 500, 3000))
    tame = wild.copy()
    wild[5] = 1e4
    nats = []
    for loc in (tame, wild):
        prior = Mixture(LatentSpec((8,)), num_components=20, pseudo_counts=pseudo_counts)
        train, held_out = (LatentDataset.of(torch.from_numpy(points)) for points in (loc, val))
        prior.fit(train, held_out, RUN)
        nats.append(prior.log_prob(torch.from_numpy(test)).mean().item())
    assert nats[1] > nats[0] - 0.1


def test_one_unit_for_all_makes_no_wide_dimension_wild() -> None:
    """Spherical components in 64 dimensions of which one is a hundred times as wide: the guess is of all points."""
    rng = np.random.default_rng(0)
    loc = torch.from_numpy(rng.normal(size=(1000, 64)) * np.where(np.arange(64) == 0, 100.0, 1.0)).float()
    points, scaling, total = in_memory(LatentDataset.of(loc), torch.device("cpu"), True, 1e-3)
    assert total.diagonal().max() > 36 and torch.equal(covariance_of_most(points, total, scaling), total)
