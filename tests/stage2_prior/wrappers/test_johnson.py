"""Heavy tails taken in: the density of Johnson's S_U, where it is used and where latents stay as they are."""

import math
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy import stats
from torch import Tensor
from without_lightning import RUN, no_loop

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.ranks import Ranks
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.priors.kde import Kernels
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.johnson import WORTH_NATS, Johnson, best_bends
from stage2_prior.wrappers.per_class import PerClass
from stage2_prior.wrappers.whiten import Whitened

SPEC = LatentSpec((3,))
LAWS = (stats.johnsonsu(0.0, 0.8, 5.0, 2.0), stats.norm(-1.0, 3.0), stats.lognorm(1.0, scale=0.01))
"""Of the three dimensions: heavy on both sides, on none, and on one."""


def points(num: int = 5000, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([law.rvs(num, random_state=rng) for law in LAWS], 1)).float()


def bent(loc: Tensor) -> tuple[Johnson, list[str]]:
    latents = LatentDataset.of(loc)
    prior = Johnson(Whitened(StandardNormal(latents.spec)))
    return prior, prior.fit(latents, latents, RUN).notes


def test_around_one_gaussian_it_is_the_distribution_of_johnson() -> None:
    prior, notes = bent(points())
    assert prior.is_bent.tolist() == [True, False, True] and prior.num_parameters == 6 + 4
    assert notes[0].startswith("heavy tails taken in by asinh in 2 of 3 dimensions: worth ")
    test = points(5000, 1)
    truth = sum(law.logpdf(test[:, d].double().numpy()) for d, law in enumerate(LAWS))
    assert abs(prior.log_prob(test).mean().item() - float(np.mean(truth))) < 0.05
    torch.testing.assert_close(prior.loss(test), -prior.log_prob(test))
    torch.manual_seed(0)
    draws = prior.sample(50_000).double().numpy()
    for d, law in enumerate(LAWS):
        assert stats.ks_1samp(draws[:, d], law.cdf).statistic < 0.03


def test_density_is_the_change_of_variables() -> None:
    prior, _ = bent(points())
    z = points(7, 2).requires_grad_()
    y, log_det = prior._to_y(z)
    slopes = [torch.autograd.grad(y[:, d].sum(), z, retain_graph=True)[0] for d in range(3)]
    jacobian = torch.stack(slopes, 1)  # [7, 3, 3]
    torch.testing.assert_close(jacobian.diagonal(dim1=1, dim2=2).sum(1), jacobian.sum((1, 2)))
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det)
    torch.testing.assert_close(prior._to_z(y), z, rtol=1e-4, atol=1e-5)
    far = prior._to_z(torch.full((1, 3), 1e6)).requires_grad_()  # as far as samples go
    log_det = prior._to_y(far)[1]
    (gradient,) = torch.autograd.grad(log_det.sum(), far)
    assert far.isfinite().all() and log_det.isfinite().all() and gradient.isfinite().all()


def test_figures_are_in_units_of_z() -> None:
    """Of held-out and training latents by their own slopes: they differ where tails do."""
    logged: list[dict[str, float]] = []
    run = FitRun(torch.device("cpu"), 0, lambda figures, step: logged.append(dict(figures)), no_loop)

    class Saying(StandardNormal):
        def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
            mean = {"train_nll_nats": -self.log_prob(train.draw(torch.arange(len(train)))).mean().item()}
            mean |= {"val_nll_nats": -self.log_prob(val.draw(torch.arange(len(val)))).mean().item(), "lr": 1.0}
            run.log(mean, 1)
            return FitReport(0.0, mean["train_nll_nats"], mean["val_nll_nats"], [mean])

    train, val = LatentDataset.of(points()), LatentDataset.of(points(1000, 3))
    prior = Johnson(Whitened(Saying(SPEC)))
    report = prior.fit(train, val, run)
    expected = {
        name: -prior.log_prob(of.draw(torch.arange(len(of)))).mean().item()
        for name, of in {"train_nll_nats": train, "val_nll_nats": val}.items()
    }
    assert report.curve == logged and logged[0]["lr"] == 1.0
    for name, nats in expected.items():
        assert getattr(report, name) == pytest.approx(nats, abs=1e-4) == logged[0][name]


def test_a_few_wild_points_bend_nothing() -> None:
    loc = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 3))).float()
    loc[:10] *= 1e4
    assert not bent(loc)[0].is_bent.any()


NORMAL = np.random.default_rng(0).normal(size=(3000, 3))
LEFT = {
    "normal": LatentDataset.of(torch.from_numpy(NORMAL)),
    "uniform": LatentDataset.of(torch.from_numpy(stats.norm.cdf(NORMAL))),
    "exact zeros": LatentDataset.of(torch.from_numpy(NORMAL * (np.abs(NORMAL) > 0.67))),
    "mostly zeros": LatentDataset.of(torch.from_numpy(NORMAL * (NORMAL > 0.84))),
    "one of many": LatentDataset.of(torch.from_numpy(1.0 * (NORMAL > 1.28))),
    "few": LatentDataset.of(points(150)),
    "maps": LatentDataset.of(points().view(-1, 3, 1, 1)),
    "posteriors": LatentDataset.of(points(), torch.full((5000, 3), -2.0)),
}


@pytest.mark.parametrize("name", LEFT)
def test_the_rest_is_left_as_it_is(name: str) -> None:
    latents = LEFT[name]
    prior, other = Johnson(Whitened(StandardNormal(latents.spec))), Whitened(StandardNormal(latents.spec))
    assert prior.fit(latents, latents, RUN).notes == other.fit(latents, latents, RUN).notes
    z = latents.draw(torch.arange(9))
    assert torch.equal(prior.log_prob(z), other.log_prob(z)) and prior.num_parameters == other.num_parameters


def test_what_is_skewed_beyond_a_log_normal_gets_its_logarithm() -> None:
    law = stats.lognorm(2.5, scale=1e-3)
    loc, test = (torch.from_numpy(law.rvs((5000, 1), random_state=seed)).float() for seed in range(2))
    prior, _ = bent(loc)
    truth = law.logpdf(test.double().numpy()).mean()
    assert prior.is_bent.all() and prior.log_prob(test).mean().item() > truth - 0.1


def test_a_tail_that_gains_a_gaussian_next_to_nothing_is_left() -> None:
    """A uniform middle with few points beyond its edge."""
    loc = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (5000, 1))).float()
    loc[::80] += 3.0
    worth = best_bends(loc.double())[2].item()
    assert 0 < worth < WORTH_NATS and not bent(loc)[0].is_bent.any()


def test_each_class_has_bends_of_its_own() -> None:
    """Of two classes one has heavy tails; the density is that of both, by their shares."""
    loc = torch.cat([points(3000), torch.from_numpy(np.random.default_rng(4).normal(size=(1000, 3))).float() + 50])
    latents = LatentDataset.of(loc, labels=torch.tensor([0] * 3000 + [1] * 1000))
    prior = PerClass(Johnson(Whitened(StandardNormal(latents.spec))))
    prior.fit(latents, latents, RUN)
    classes = [one for one in prior.priors if isinstance(one, Johnson)]
    assert [one.is_bent.tolist() for one in classes] == [[True, False, True], [False] * 3]
    z = torch.cat([points(20, 1), torch.full((5, 3), 50.0)])
    parts = torch.stack([math.log(share) + one.log_prob(z) for share, one in zip((0.75, 0.25), classes, strict=True)])
    torch.testing.assert_close(prior.log_prob(z), parts.logsumexp(0), rtol=1e-4, atol=1e-4)


def bend_in_rank(rank: int, world: int, port: int, folder: Path) -> None:
    """What one rank bends; each has other latents, of which its own choice would be another."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    latents = LatentDataset.of(points() if rank == 0 else points().flip(1))
    prior = Johnson(Whitened(StandardNormal(latents.spec)))
    prior.fit(latents, latents, replace(RUN, ranks=Ranks(rank, world)))
    np.savez(folder / f"{rank}.npz", centre=prior.centre, width=prior.width, is_bent=prior.is_bent)
    dist.destroy_process_group()


def test_two_ranks_bend_as_the_first_one_chooses(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.spawn(bend_in_rank, (2, port, tmp_path), nprocs=2)
    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in (0, 1))
    assert first["is_bent"].tolist() == [True, False, True]
    for name in first:
        assert np.array_equal(first[name], second[name]), name


def test_kernels_reach_tails_that_they_would_lose() -> None:
    """Student's of two degrees, in eight dimensions: kernels of one width are too narrow far out."""
    rng = np.random.default_rng(0)
    train, test = (torch.from_numpy(rng.standard_t(2, (2000, 8))).float() for _ in range(2))
    latents = LatentDataset.of(train)
    nats, kernels = {}, lambda: Whitened(Kernels(latents.spec, num_points=2000))
    for name, prior in {"bent": Johnson(kernels()), "not": kernels()}.items():
        prior.fit(latents, LatentDataset.of(test[:500]), RUN)
        nats[name] = prior.log_prob(test).mean().item()
    truth = stats.t(2).logpdf(test.numpy()).sum(1).mean()
    assert nats["not"] < truth - 2 and nats["bent"] > truth - 0.5
