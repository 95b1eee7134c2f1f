"""A Gaussian behind a prior of points: it is a density, held-out points decide, and what is far out costs little."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_model import job
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from without_lightning import RUN

from expost import fit_prior
from expost.parts.priors import build_prior
from expost.parts.sections import all_held
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.prior import Wrapper
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.kde import Kernels
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.sampling import Sampling
from stage2_prior.wrappers.defensive import FACTORS, Defensive, fit_weights_behind

SPEC = LatentSpec((2,))


def with_wild_rows(num: int, seed: int) -> LatentDataset:
    """Of latents N(0, I) in two dimensions, one in fifty a thousand times as wide."""
    rng = np.random.default_rng(seed)
    loc = rng.normal(size=(num, 2)) * np.where(rng.random((num, 1)) < 0.02, 1000.0, 1.0)
    return LatentDataset.of(loc.astype(np.float32))


def fitted(train: LatentDataset, val: LatentDataset) -> tuple[Defensive, list[str]]:
    """Around N(0, I), which is the law of most."""
    prior = Defensive(StandardNormal(SPEC))
    return prior, prior.fit(train, val, RUN).notes


def test_it_is_the_mixture_of_its_parts() -> None:
    train, val = with_wild_rows(2000, 0), with_wild_rows(500, 1)
    prior, notes = fitted(train, val)
    z = np.asarray(with_wild_rows(300, 2).params["loc"])
    weights = prior.log_weights.exp().numpy()
    assert weights.sum() == pytest.approx(1) and (weights[2:] > 0).any() and not prior.is_alone
    loc = np.asarray(train.params["loc"], np.float64)
    mean, covariance = loc.mean(0), np.cov(loc.T, bias=True)
    wide = [multivariate_normal(mean, factor * np.diag(covariance.diagonal())) for factor in FACTORS]
    laws = [multivariate_normal(mean, covariance), *wide]
    own = prior.prior.log_prob(torch.from_numpy(z)).double().numpy()
    parts = np.stack([own, *(law.logpdf(z.astype(np.float64)) for law in laws)], axis=1)
    truth = logsumexp(parts, axis=1, b=weights)
    np.testing.assert_allclose(prior.log_prob(torch.from_numpy(z)).numpy(), truth, rtol=1e-4, atol=1e-4)
    assert notes[-1].startswith("the Gaussian of all latents, and wider ones, stands behind it, with ")


def test_what_is_far_out_no_longer_costs_without_bound() -> None:
    train, val, test = (with_wild_rows(num, seed) for num, seed in ((2000, 0), (500, 1), (2000, 2)))
    prior, _ = fitted(train, val)
    z = torch.from_numpy(test.params["loc"])
    gaussian = Gaussian(SPEC)
    gaussian.fit(train, val, RUN)
    assert prior.prior.log_prob(z).mean() < -100
    assert prior.log_prob(z).mean() > gaussian.log_prob(z).mean() + 5


def test_samples_are_of_its_parts_and_follow_the_temperature() -> None:
    prior, _ = fitted(with_wild_rows(2000, 0), with_wild_rows(500, 1))
    torch.manual_seed(0)
    z = prior.sample(20_000)
    truth = torch.from_numpy(with_wild_rows(20_000, 3).params["loc"])
    for far in (10, 300, 1000):
        shares = [(points.abs().amax(1) > far).double().mean().item() for points in (z, truth)]
        assert shares[0] == pytest.approx(shares[1], abs=0.006)
    assert prior.sample(0).shape == (0, 2)


def test_at_temperature_0_what_stands_behind_is_its_mean() -> None:
    train = with_wild_rows(2000, 0)
    prior = Defensive(Kernels(SPEC, len(train)))
    prior.fit(train, with_wild_rows(500, 1), RUN)
    torch.manual_seed(0)
    cold = prior.sample(20_000, how=Sampling(temperature=0.0))
    share = (cold == prior.gaussian.mean.float()).all(1).double().mean().item()
    assert share == pytest.approx(prior.log_weights[1:].exp().sum().item(), rel=0.3) and share > 0


def test_where_points_are_normal_it_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    train, val, test = (LatentDataset.of(rng.normal(size=(num, 2)).astype(np.float32)) for num in (2000, 500, 2000))
    prior, _ = fitted(train, val)
    z = torch.from_numpy(test.params["loc"])
    assert (prior.log_prob(z) - prior.prior.log_prob(z)).mean() > -0.005
    assert not prior.log_weights[2:].isfinite().any()


def test_the_report_is_of_the_whole() -> None:
    train, val = with_wild_rows(2000, 0), with_wild_rows(500, 1)
    prior = Defensive(Kernels(SPEC, len(train)))
    report = prior.fit(train, val, RUN)
    assert report.val_nll_nats == pytest.approx(-prior.log_prob(torch.from_numpy(val.params["loc"])).mean().item())
    assert report.seconds > 0 and report.curve


@pytest.mark.parametrize("name", ["widths", "classes"])
def test_it_is_the_prior_itself_of_what_has_a_width_or_of_classes(name: str) -> None:
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(500, 2)).astype(np.float32)
    data = LatentDataset.of(loc, std=np.full_like(loc, 0.1)) if name == "widths" else LatentDataset.of(loc)
    prior = Defensive(Kernels(SPEC, len(data)))
    if name == "classes":
        prior.num_classes = 2
    prior.fit(data, data, RUN)
    assert prior.is_alone and prior.num_parameters == prior.prior.num_parameters
    z = torch.from_numpy(loc)
    assert torch.equal(prior.log_prob(z), prior.prior.log_prob(z)) and torch.equal(prior.loss(z), prior.prior.loss(z))


def test_weights_are_the_likeliest() -> None:
    rng = np.random.default_rng(0)
    nats = torch.from_numpy(rng.normal(size=(400, 4)) * 3)
    weights = fit_weights_behind(nats, 10**9)
    best = (nats + weights.log()).logsumexp(1).mean()
    for place in range(4):
        for share in (0.02, -0.02):
            moved = (weights + share * (torch.nn.functional.one_hot(torch.tensor(place), 4) - weights)).clamp_min(0)
            assert (nats + (moved / moved.sum()).log()).logsumexp(1).mean() <= best + 1e-9
    lost = torch.tensor([[0.0, -50.0, -60.0, -70.0]], dtype=torch.float64).expand(100, 4)
    weights = fit_weights_behind(lost, 1000)
    assert weights[1].item() == pytest.approx(0.0005, rel=0.02) and not weights[2:].any()


def test_only_priors_of_vectors_of_points_have_it(tmp_path: Path) -> None:
    asked = job(tmp_path, "prior=autoregressive")

    def has_it(spec: LatentSpec, family: str) -> bool:
        prior, node = build_prior(asked, spec, 3000, family)
        wrappers: list[str] = []
        while isinstance(prior, Wrapper):
            wrappers.append(type(prior).__name__)
            prior = prior.inner
        assert ("defensive" in node["wrap"]) == (family == "delta")
        return "Defensive" in wrappers

    assert has_it(SPEC, "delta") and not has_it(SPEC, "diagonal_normal")
    assert not has_it(replace(SPEC, shape=(600,)), "delta"), "its covariance is too large"
    assert Defensive.check(LatentSpec((2,), Support.BITS)) is not None


NORMALS = {
    "map": (LatentSpec((4, 2, 2)), "diagonal_normal"),
    "bits": (LatentSpec((6,), Support.BITS), "bits"),
    "vector": (SPEC, "diagonal_normal"),
    "sphere": (LatentSpec((3,), Support.SPHERE), "power_spherical"),
    "box": (LatentSpec((3,), Support.BOX), "truncated_normal"),
}


@pytest.mark.parametrize("kind", NORMALS)
def test_what_has_a_width_is_chosen_as_if_there_were_no_such_wrapper(kind: str, tmp_path: Path) -> None:
    """Members, and what takes over from them, too: their keys are those of before."""
    spec, family = NORMALS[kind]
    others = [("prior=ensemble", "prior.members=[glow,masked]")] * (kind not in ("map", "bits"))  # which taken over
    for words in (("prior=autoregressive",), ("prior=auto",), *others):
        _, node = build_prior(job(tmp_path, *words), spec, 3000, family)
        said = json.dumps(node)
        assert "defensive" not in said
        of_maps = [part for part in (node, *all_held(node)) if "Glow" in part["_target_"]]
        assert all(part["wrap"] == ["standardize"] for part in of_maps)


def test_without_a_rank_what_stands_behind_has_no_correlations() -> None:
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(1500, 16))
    loc[[100, 700, 1300]] *= 1e9
    test = torch.from_numpy(np.concatenate([rng.normal(size=(300, 16)), 1e9 * rng.normal(size=(1, 16))])).float()
    prior = Defensive(StandardNormal(LatentSpec((16,))))
    prior.fit(LatentDataset.of(loc.astype(np.float32)), LatentDataset.of(test), RUN)
    assert prior.log_prob(test).min() > -1000


def test_without_a_dimension_that_moves_it_stays_alone() -> None:
    loc = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    loc[:, 1] = 0.3
    prior = Defensive(StandardNormal(SPEC))
    prior.fit(LatentDataset.of(loc), LatentDataset.of(loc), RUN)
    assert prior.is_alone


def test_a_latent_that_no_fit_has_seen_costs_a_few_nats() -> None:
    rng = np.random.default_rng(0)
    loc = (0.01 * rng.normal(size=(2000, 2)) + 5 * rng.integers(2, size=(2000, 1))).astype(np.float32)
    prior, _ = fit_prior(LatentDataset.of(loc[:1500]), "kde", val=LatentDataset.of(loc[1500:]), seed=0)
    assert prior.log_prob(torch.tensor([[2.5, 2.5]])).item() > -15
    assert prior.log_prob(torch.from_numpy(loc)).mean() > 4


def test_what_is_no_number_is_no_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    right = StandardNormal.log_prob

    def log_prob(prior: StandardNormal, z: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return torch.where(z[:, 0] > 1, torch.nan, right(prior, z, context))

    monkeypatch.setattr(StandardNormal, "log_prob", log_prob)
    prior, notes = fitted(with_wild_rows(2000, 0), val := with_wild_rows(500, 1))
    assert prior.log_prob(torch.from_numpy(np.asarray(val.params["loc"]))).isfinite().all()
    assert "of 500 held-out latents no probability" in notes[-1]


def test_figures_look_at_no_more_than_the_fit_may(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = with_wild_rows(2000, 0), with_wild_rows(500, 1)
    prior, rows = Defensive(Kernels(SPEC, len(train))), list[int]()
    looked = prior.prior.log_prob

    def log_prob(z: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        rows.append(len(z))
        return looked(z, context)

    monkeypatch.setattr(prior.prior, "log_prob", log_prob)
    prior.fit(train, val, replace(RUN, settings={"max_tokens": 200}))
    assert sum(rows) == 2 * 200 // SPEC.num_dims


def test_it_begins_as_the_prior_itself() -> None:
    prior = Defensive(StandardNormal(SPEC))
    z = torch.randn(5, 2)
    assert torch.equal(prior.log_prob(z), prior.prior.log_prob(z))
