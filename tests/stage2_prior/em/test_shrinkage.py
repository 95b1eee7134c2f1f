"""Held-out latents choose the shrinkage of a mixture: where the first guess is wrong, and where it is right."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.machine import flushed_denormals
from stage2_prior.em.covariances import COVARIANCES
from stage2_prior.em.gaussian import Components, EMSettings, EMState, expectation_maximisation
from stage2_prior.em.points import in_memory
from stage2_prior.em.shrinkage import Shrunk, is_likelier, pays, sizes_and_shape
from stage2_prior.em.starts import random_statistics
from stage2_prior.moments import location_and_spread, moments
from stage2_prior.priors import mixture
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture

D = 8
CENTRES = np.random.default_rng(7).normal(size=(20, D))


def clusters(rng: np.random.Generator, num: int) -> np.ndarray:
    return CENTRES[rng.integers(20, size=num)] + 0.03 * rng.normal(size=(num, D))


def normal(rng: np.random.Generator, num: int) -> np.ndarray:
    return 1000 + 0.01 * rng.normal(size=(num, D))


def widths(rng: np.random.Generator, num: int) -> np.ndarray:
    return rng.normal(size=(num, D)) * np.logspace(-4, 4, D)


def tails(rng: np.random.Generator, num: int) -> np.ndarray:
    return rng.standard_t(2, size=(num, D))


def two_sizes(rng: np.random.Generator, num: int) -> np.ndarray:
    """A tenth of all is thirty times as wide."""
    return rng.normal(size=(num, D)) * np.where(rng.random((num, 1)) < 0.1, 30.0, 1.0)


def skewed(rng: np.random.Generator, num: int) -> np.ndarray:
    return rng.exponential(size=(num, D))


def three_sizes(rng: np.random.Generator, num: int) -> np.ndarray:
    """Three clusters, of widths 0.01, 1 and 20."""
    cluster = rng.integers(3, size=num)
    return (
        np.array([0, 5, 50])[cluster][:, None] + rng.normal(size=(num, D)) * np.array([0.01, 1, 20])[cluster][:, None]
    )


SHAPES = {
    "clusters": clusters,
    "normal": normal,
    "widths": widths,
    "tails": tails,
    "two sizes": two_sizes,
    "skewed": skewed,
}


def points_of(loc: np.ndarray) -> LatentDataset:
    return LatentDataset(LatentSpec(loc.shape[1:]), "delta", {"loc": np.float32(loc)})


def fitted(train: np.ndarray, val: np.ndarray, **settings: float | str) -> tuple[Mixture, list[str]]:
    prior = Mixture(LatentSpec((train.shape[1],)), **settings)  # type: ignore[arg-type]
    return prior, prior.fit(points_of(train), points_of(val), RUN).notes


def nats(prior: Mixture | Gaussian, z: np.ndarray) -> float:
    return prior.log_prob(torch.from_numpy(np.float32(z))).double().mean().item()


@pytest.mark.parametrize("name", SHAPES)
def test_defaults_are_as_good_as_a_well_chosen_mixture_and_as_a_gaussian(name: str) -> None:
    """The best of three of scikit-learn's, and the moments: within 0.1 nats a latent that neither saw."""
    rng = np.random.default_rng(0)
    train, val, test = (SHAPES[name](rng, num) for num in (3000, 500, 2000))
    found, notes = fitted(train, val)
    gaussian = Gaussian(LatentSpec((D,)))
    gaussian.fit(points_of(train), points_of(val), RUN)
    unit = train.std(0)
    scores = [GaussianMixture(k, random_state=0).fit(train / unit).score(test / unit) for k in (1, 10, 30)]
    ours = nats(found, test)
    assert ours > max(scores) - np.log(unit).sum() - 0.1
    assert ours > nats(gaussian, test) - 0.03
    assert any("held-out latents gain" in note for note in notes)


def test_clusters_much_narrower_than_the_whole_have_their_components() -> None:
    """Ten are enough for three clusters: within 0.1 nats of those that have them."""
    rng = np.random.default_rng(0)
    train, val, test = (three_sizes(rng, num) for num in (3000, 500, 2000))
    found, notes = fitted(train, val, num_components=10)
    unit = train.std(0)
    theirs = GaussianMixture(10, random_state=0).fit(train / unit).score(test / unit) - np.log(unit).sum()
    assert nats(found, test) > theirs - 0.1
    assert notes[0].startswith("EM was begun once more, at latents at random, and covariances are shrunk towards ")


@pytest.mark.parametrize("looks", [0, 1, 3, 5, 9])
def test_what_held_out_latents_choose_ends_with_the_seconds_of_the_fit(looks: int) -> None:
    train, val = (clusters(np.random.default_rng(seed), num) for seed, num in ((0, 2000), (1, 500)))
    asked = [0]

    def is_over() -> bool:
        asked[0] += 1
        return asked[0] > looks

    whole, (note, *_) = fitted(train, val, num_components=20)
    cut = Mixture(whole.spec, 20)
    notes = cut.fit(points_of(train), points_of(val), replace(RUN, is_over=is_over)).notes
    assert "shrunk towards" in note and notes[-1].endswith("ended with the seconds of the fit")
    assert looks < asked[0] <= looks + 4, "each loop looks once more, and ends"
    test = clusters(np.random.default_rng(2), 500)
    assert nats(cut, test) > nats(whole, test) - 7, "the first EM loses six"


@pytest.mark.parametrize("kind", ["full", "diagonal", "spherical"])
def test_one_shape_is_brought_to_the_size_of_each(kind: str) -> None:
    """Three components of one shape, 1, 100 and 10,000 times as wide, and one without points."""
    covariance, shape = (
        COVARIANCES[kind],
        torch.tensor([1.0, 1, 1] if kind == "spherical" else [2.0, 0.5, 0.5]).double(),
    )
    wide = torch.tensor([1.0, 1e2, 1e4, 0]).double()
    count = torch.tensor([50, 30, 20, torch.finfo(torch.float64).tiny], dtype=torch.float64)
    variances = wide[:, None] * shape
    scatter = count.reshape(-1, 1, 1) * torch.diag_embed(variances) if kind == "full" else count[:, None] * variances
    with flushed_denormals():  # as stages are made
        size, found = sizes_and_shape(covariance, count, scatter)
    common = math.exp(0.3 * math.log(1e2) + 0.2 * math.log(1e4))
    expected = (count * wide + common) / (count + 1)
    torch.testing.assert_close(size, expected)
    total = sum(n * w / (100 * s) for n, w, s in zip(count, wide, expected, strict=True)) * shape
    torch.testing.assert_close(found.diagonal() if kind == "full" else found, total)


@pytest.mark.parametrize("kind", ["full", "diagonal", "spherical"])
def test_an_empty_component_is_moved_under_a_guess_of_its_own(kind: str) -> None:
    covariance = COVARIANCES[kind]
    rng = np.random.default_rng(0)
    loc = torch.from_numpy(np.concatenate([rng.normal(size=(300, 2)), [[40.0, 40]]]))
    points, _, _ = in_memory(points_of(loc.numpy()), torch.device("cpu"), covariance.isotropic, 1e-3)
    guess = torch.tensor([1.0, 1.0, 1e-4]).double().reshape(-1, 1) * torch.ones(2).double()
    guess = torch.diag_embed(guess) if kind == "full" else guess
    settings = EMSettings(covariance, guess, 1.0, max_iter=50, tol=1e-6)
    means = torch.tensor([[0.0, 0], [0.1, 0], [-1e6, 0]]).double()
    start = Components(torch.full((3,), -math.log(3)).double(), means, covariance.factor(guess))
    end = expectation_maximisation(points, EMState.begin(start), settings)
    assert end.reseeded == 1 and end.current.means.isfinite().all()
    assert end.current.scale[2].max() < 0.1, "it stays on the one point, under its own guess and no other's"


def test_random_statistics_are_means_of_all_points() -> None:
    rng = np.random.default_rng(0)
    points, _, _ = in_memory(points_of(clusters(rng, 500)), torch.device("cpu"), False, 1e-3)
    stats = random_statistics(points, COVARIANCES["full"], 7, RUN, torch.Generator().manual_seed(0))
    mean = points.rows(slice(None)).features(COVARIANCES["full"], torch.float64).mean(0)
    torch.testing.assert_close(stats.sum(0), mean)
    assert (stats[:, 0] > 0).all()


def test_a_second_start_is_for_few_points_or_where_shrinkage_has_changed_something() -> None:
    prior = Mixture(LatentSpec((D,)), num_components=2)
    none, some = (Shrunk(Components(*torch.zeros(3, 1)), words) for words in ("", "their mean by 1 points"))
    few, many = points_of(np.zeros((999, D))), points_of(np.zeros((1000, D)))
    wide = LatentDataset.of(torch.zeros(999, D), torch.zeros(999, D))
    may = prior._may_begin_again
    assert [may(few, none), may(many, none), may(many, some), may(wide, none), may(wide, some)] == [
        *(True, False, True),
        *(False, True),
    ]
    assert not may(few.take(torch.arange(999), repeats=3), some), "draws of one image"
    assert not may(points_of(np.zeros((100_001, 1))), some)
    assert not Mixture(LatentSpec((D,)), covariance="tied")._may_begin_again(few, some)


def test_what_pays_and_what_is_likelier() -> None:
    """By means and standard errors of differences; what is not a number is neither."""
    signs = torch.tensor([1.0, -1.0]).double().repeat(200)  # of 400: a standard error of 0.05
    zero = torch.zeros(400).double()
    assert pays(0.11 + signs, zero) and not pays(0.09 + signs, zero)
    assert pays(1.1 + 20 * signs, zero) and not pays(0.9 + 20 * signs, zero)
    assert not pays(1.1 + 30 * signs, zero)
    assert is_likelier(0.06 + signs, zero) and not is_likelier(0.04 + signs, zero)
    assert not is_likelier(0.15 + signs[:100], zero[:100]) and is_likelier(0.25 + signs[:100], zero[:100])
    assert not pays(zero * torch.nan, zero) and not is_likelier(zero * torch.nan, zero)


def test_one_wild_latent_sets_no_scale() -> None:
    rng = np.random.default_rng(0)
    train, val, test = (rng.normal(size=(num, D)) for num in (3000, 500, 2000))
    train[1500] = 1e4
    found, _ = fitted(train, val)
    truth = -0.5 * (test**2).sum(1).mean() - 0.5 * D * math.log(2 * math.pi)
    assert nats(found, test) > truth - 0.1
    assert nats(found, train[1500:1501]) > -100


def test_wild_latents_of_which_rounding_leaves_no_spread_are_fitted() -> None:
    rng = np.random.default_rng(0)
    wild = np.where(rng.random((3000, 1)) < 0.002, 1e8, 1.0)
    mixture, _ = fitted(rng.normal(size=(2100, D)) * wild[:2100], rng.normal(size=(900, D)) * wild[2100:])
    assert nats(mixture, rng.normal(size=(1000, D))) > -14


def test_a_cluster_that_no_fit_has_seen_costs_a_few_nats_and_not_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train, val, test = clusters(rng, 1500), clusters(rng, 300), clusters(rng, 300)
    found, notes = fitted(train, val)
    monkeypatch.setattr(mixture, "put_behind", lambda current, *_: (current, ()))
    bare, _ = fitted(train, val)
    unseen = np.random.default_rng(8).normal(size=(50, D))
    assert nats(found, unseen) > -30 > -1000 > nats(bare, unseen)
    assert nats(found, test) > 13.2 and "for what no fit has seen: 1 of 50 components" in notes[-1]


def test_components_as_flat_as_lines_are_hardly_shrunk() -> None:
    rng = np.random.default_rng(77)
    ways, places = rng.normal(size=(6, D)), 3 * rng.normal(size=(6, D))

    def lines(num: int) -> np.ndarray:
        line = rng.integers(6, size=num)
        return places[line] + ways[line] * rng.normal(size=(num, 1)) + 1e-3 * rng.normal(size=(num, D))

    train, val, test = lines(3000), lines(500), lines(2000)
    centre, unit = train.mean(0), train.std(0)
    peer = GaussianMixture(10, random_state=0).fit((train - centre) / unit)
    found, notes = fitted(train, val)
    assert "by 1/256 points a component" in " ".join(notes)
    assert nats(found, test) > peer.score((test - centre) / unit) - np.log(unit).sum() - 0.3


def test_units_are_those_of_the_middle_where_a_few_latents_are_far_out() -> None:
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(3000, 3)) * [1, 5, 1] + [0, 2, 0]
    loc[7, 1:] = 1e4
    aggregate = moments(points_of(loc))
    shift, unit, few = location_and_spread(points_of(loc), aggregate.mean, aggregate.total)
    assert few.tolist() == [False, True, True]
    torch.testing.assert_close(unit, torch.tensor([1.0, 5, 1]).double(), rtol=0.06, atol=0)
    torch.testing.assert_close(shift, torch.tensor([0.0, 2, 0]).double(), rtol=0, atol=0.3)
    assert aggregate.total[1] > 1e4
    handful = points_of(loc[:40])
    few = location_and_spread(handful, moments(handful).mean, moments(handful).total)[2]
    assert not few.any(), "of so few, nobody can say which one is wild"


def test_a_cloud_is_fitted_as_with_four_pseudo_counts() -> None:
    """Posteriors of a VAE: nothing pays, so that nothing is changed."""
    rng = np.random.default_rng(0)
    loc = CENTRES[rng.integers(20, size=6000)] * 0.7 + 0.4 * rng.normal(size=(6000, D))
    whole = LatentDataset.of(torch.from_numpy(loc), torch.full(loc.shape, math.log(0.3)))
    train, val = whole.take(torch.arange(5000)), whole.take(torch.arange(5000, 6000))
    both = [Mixture(LatentSpec((D,)), num_components=20, pseudo_counts=c) for c in ("held_out", 4.0)]
    notes = [prior.fit(train, val, RUN).notes for prior in both]
    assert notes == [[], []]
    assert all(
        torch.equal(a, b) for a, b in zip(both[0].state_dict().values(), both[1].state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("kind", sorted(COVARIANCES))
def test_every_kind_stays_a_density(kind: str) -> None:
    """It integrates to one in two dimensions, whatever was put behind its components."""
    rng = np.random.default_rng(1)
    train, val = (rng.standard_t(2, size=(num, 2)) for num in (400, 200))
    found, _ = fitted(train, val, covariance=kind, num_components=6)
    assert found.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-9)
    torch.manual_seed(0)  # importance sampling from a density with heavier tails
    z = torch.from_numpy(rng.standard_t(1, size=(200_000, 2)) * 3).float()
    proposal = -2 * math.log(3 * math.pi) - torch.log1p((z / 3).square()).sum(1)
    assert (found.log_prob(z) - proposal).exp().mean().item() == pytest.approx(1, abs=0.05)


def test_what_was_fitted_decides_nothing() -> None:
    """A class without held-out latents is given those that it is fitted to."""
    train = points_of(clusters(np.random.default_rng(0), 500))
    priors = [Mixture(LatentSpec((D,)), pseudo_counts=counts) for counts in ("held_out", 4.0)]
    for prior in priors:
        prior.fit(train, train, RUN)
    assert torch.equal(priors[0].means, priors[1].means)


def test_few_held_out_latents_decide_on_what_stands_behind_alone() -> None:
    """Of points; of one latent, or of what has a width, not on that either."""
    rng = np.random.default_rng(0)
    train, val, one = (clusters(rng, num) for num in (500, 10, 1))
    (chosen, _), (fixed, _) = fitted(train, val), fitted(train, val, pseudo_counts=4.0)
    same = (chosen.means == fixed.means).all(1)
    assert (~same).sum() == 1 and not same[fixed.log_weights.argmin()]
    assert torch.equal(fitted(train, one)[0].means, fixed.means)
    priors = [Mixture(LatentSpec((8,))), Mixture(LatentSpec((8,)), pseudo_counts=4.0)]
    wide, few = (LatentDataset.of(loc, std=np.full_like(loc, 0.1)) for loc in (train, val))
    for prior in priors:
        prior.fit(wide, few, RUN)
    assert torch.equal(priors[0].means, priors[1].means)


@pytest.mark.parametrize("wrong", [-1.0, "many"])
def test_counts_that_are_none_are_refused(wrong: float | str) -> None:
    with pytest.raises(ValueError, match=r"pseudo_counts=.*give held_out, or a number that is not negative"):
        Mixture(LatentSpec((2,)), pseudo_counts=wrong)  # type: ignore[arg-type]
