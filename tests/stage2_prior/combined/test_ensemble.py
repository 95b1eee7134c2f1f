"""A mixture of fitted priors: the weights are those of the largest held-out density, and nothing else is changed."""

import math

import numpy as np
import pytest
import torch
from latent_values import means
from prior_cases import ring_run, run_for
from torch import Tensor

from expost.base.errors import UserError
from expost.parts.priors import make_prior
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.combined.ensemble import Ensemble, fit_weights
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.held_out import mean_nll_nats
from stage2_prior.prior import Exactness, Prior
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.sampling import Sampling

SPEC, CPU = LatentSpec((2,)), torch.device("cpu")


class Fixed(Gaussian):
    """N(mean, I), which no fit changes."""

    def __init__(self, mean: float, exactness: Exactness = Exactness.EXACT) -> None:
        super().__init__(SPEC)
        self.mean.fill_(mean)
        self.log_prob_is = exactness

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        return FitReport(10.0, None, None, notes=["is as it was"])


class Unknobbed(StandardNormal):
    knobs = frozenset()


def points(num: int, seed: int, share: float = 0.3) -> LatentDataset:
    """Around 2 in a share of all, around -2 in the rest."""
    rng = np.random.default_rng(seed)
    centre = np.where(rng.random((num, 1)) < share, 2.0, -2.0)
    return LatentDataset(SPEC, "delta", {"loc": np.float32(centre + rng.normal(size=(num, 2)))})


def fitted(*members: Prior, num: int = 4000) -> tuple[Ensemble, FitReport]:
    ensemble = Ensemble(SPEC, members)
    return ensemble, ensemble.fit(points(num, 0), points(num, 1), run_for(ensemble))


def test_weights_are_recovered() -> None:
    ensemble, report = fitted(Fixed(-2.0), Fixed(2.0), Fixed(9.0))
    weights = ensemble.log_weights.exp()
    assert weights.tolist() == pytest.approx([0.7, 0.3, 0.0], abs=0.025)
    assert weights.sum().item() == pytest.approx(1)
    assert report.seconds > 30
    assert "member" in report.notes[1] and sum("is as it was" in note for note in report.notes) == 3
    assert report.curve[0]["val_nll_nats"] > report.curve[-1]["val_nll_nats"]
    assert ensemble.caveats[0].startswith("weights of the members: Fixed 0.")


def test_no_other_weights_are_better_on_the_same_draws() -> None:
    """Against a fine grid over the simplex of two, and moves towards each corner."""
    torch.manual_seed(0)
    log_probs = torch.randn(500, 3, dtype=torch.float64).mul(2) + torch.tensor([0.0, 0.5, -1.0])
    weights, found = fit_weights(log_probs)

    def mean(w: Tensor) -> float:
        return (w.log() + log_probs).logsumexp(1).mean().item()

    assert mean(weights) == pytest.approx(found[-1], abs=1e-9) and found == sorted(found)
    for corner in torch.eye(3, dtype=torch.float64):
        for step in (1e-3, 1e-2, 0.1):
            assert mean((1 - step) * weights + step * corner) <= mean(weights) + 1e-8
    assert found[-1] >= log_probs.mean(0).max().item()
    responsibilities = (weights.log() + log_probs).softmax(1).mean(0)
    torch.testing.assert_close(responsibilities, weights, atol=1e-4, rtol=0)


def test_the_density_is_the_mixture_and_samples_follow_it() -> None:
    ensemble, report = fitted(Fixed(-2.0), Fixed(2.0))
    z = means(points(1000, 5))
    w = ensemble.log_weights.exp()
    by_hand = torch.stack([member.log_prob(z).double().exp() for member in ensemble.parts], 1).mv(w).log()
    torch.testing.assert_close(ensemble.log_prob(z), by_hand.float(), atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    drawn = ensemble.sample(8000)
    assert (drawn.mean(1) > 0).float().mean().item() == pytest.approx(w[1].item(), abs=0.02)
    place = (drawn.mean(1) > 0).float()
    assert abs(float(np.corrcoef(place[:-1], place[1:])[0, 1])) < 0.05  # in no order
    assert report.val_nll_nats == pytest.approx(mean_nll_nats(ensemble, points(4000, 1), 2000), abs=1e-6)


def test_of_bounds_it_is_a_bound_and_estimates_are_refused_by_name() -> None:
    assert Ensemble(SPEC, [Fixed(0.0), Fixed(1.0)]).log_prob_is is Exactness.EXACT
    assert Ensemble(SPEC, [Fixed(0.0), Fixed(1.0, Exactness.LOWER_BOUND)]).log_prob_is is Exactness.LOWER_BOUND
    for exactness in (Exactness.ESTIMATE, Exactness.NONE):
        member = Fixed(1.0, exactness)
        member.title = "energy"
        with pytest.raises(PriorError, match=r"the density of energy is .*leave it out"):
            Ensemble(SPEC, [Fixed(0.0), member])
    with pytest.raises(PriorError, match=r"prior\.members is empty"):
        Ensemble(SPEC, [])


def test_what_is_asked_by_name_is_refused_before_any_work() -> None:
    def made(spec: LatentSpec, **given: object) -> Prior:
        return make_prior({"_target_": f"{Ensemble.__module__}.Ensemble", **given}, spec, 100, 0, CPU)

    with pytest.raises(UserError, match="the density of energy is an estimate"):
        made(SPEC, members=["gaussian", "energy"])
    with pytest.raises(UserError, match=r"prior\.members is empty"):
        made(SPEC, members=[])
    codes = LatentSpec((4,), Support.CODES, ((2, 2),), (8,))
    with pytest.raises(UserError, match=r"these latents are codes.*priors that do: .*bigram"):
        made(codes, members=["bigram", "gaussian"])
    assert made(codes, members=["bigram", "unigram", "transformer"]).log_prob_is is Exactness.EXACT
    with pytest.raises(UserError, match=r"prior\.members: mixtur: no such prior"):
        made(SPEC, members=["mixtur"])
    with pytest.raises(UserError, match="needs at least 500 training images or latents and there are 100"):
        made(SPEC, members=[{"prior": "mixture", "num_components": 500}])


def test_of_classes_every_member_knows_them_and_shares_are_exact() -> None:
    spec = LatentSpec((2,), num_classes=2)
    node = {
        "_target_": f"{Ensemble.__module__}.Ensemble",
        "members": ["gaussian", {"prior": "mixture", "num_components": 3}],
        "conditional": True,
    }
    prior = make_prior(node, spec, 1000, 0, CPU)
    assert isinstance(prior, Ensemble) and [part.num_classes for part in prior.parts] == [2, 2]
    rng = np.random.default_rng(0)
    labels = (rng.random(1000) < 0.25).astype(np.int64)
    loc = np.float32(rng.normal(size=(1000, 2)) + 4.0 * labels[:, None])
    data = LatentDataset(spec, "delta", {"loc": loc}, labels)
    prior.fit(data, data, run_for(prior))
    z = means(data)[:100]
    shares = torch.tensor([1 - labels.mean(), labels.mean()]).log()
    given = torch.stack([prior.log_prob(z, torch.full((100,), y)) for y in (0, 1)])
    torch.testing.assert_close(prior.log_prob(z), (shares[:, None] + given).logsumexp(0).float(), atol=1e-4, rtol=1e-4)
    of_one = prior.sample(200, torch.ones(200, dtype=torch.int64))
    assert of_one.mean().item() == pytest.approx(4.0, abs=0.3)


def test_ensembles_may_hold_ensembles_and_share_only_what_all_can_do() -> None:
    inner = Ensemble(SPEC, [Mixture(SPEC, num_components=2), Gaussian(SPEC)])
    outer = Ensemble(SPEC, [inner, Fixed(2.0)])
    report = outer.fit(points(500, 0), points(500, 1), run_for(outer))
    assert report.val_nll_nats is not None and math.isfinite(report.val_nll_nats)
    assert outer.passes == 3 and outer.knobs == frozenset({"temperature"})
    cold = outer.sample(1000, how=Sampling(temperature=0.0))
    assert len(cold.unique(dim=0)) <= 4  # two components, and two means
    assert outer.sample(10, how=Sampling(truncation=0.5)).shape == (10, 2)
    assert (
        Ensemble(SPEC, [Gaussian(SPEC), StandardNormal(SPEC)]).knobs
        == Gaussian(SPEC).knobs & StandardNormal(SPEC).knobs
    )


def test_members_learn_by_their_own_settings() -> None:
    from stage2_prior.flows.flow import Flow

    flow = Flow(SPEC, num_layers=2, hidden=(8,))
    flow.fit_settings = {"max_epochs": 3, "precision": "32-true"}
    logged: list[str] = []
    ensemble = Ensemble(SPEC, [Fixed(0.0), flow])
    lent = ring_run(max_epochs=1)
    report = ensemble.fit(
        points(600, 0), points(600, 1), FitRun(CPU, 0, lambda f, _: logged.extend(f), lent.lightning_fit)
    )
    assert logged.count("val_nll_nats_of_1") == 3 and report.seconds > 10
