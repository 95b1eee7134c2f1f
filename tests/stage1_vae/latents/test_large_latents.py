"""Latents larger than memory: epochs in shuffled blocks, moments and EM in passes, and the memory that it takes."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_values import drawn_epoch
from torch import Tensor
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.latents import dataset as door
from stage2_prior.em.covariances import COVARIANCES
from stage2_prior.em.gaussian import Components, EMSettings
from stage2_prior.em.points import Points
from stage2_prior.em.stepwise import StepwiseSettings, StepwiseState, stepwise_em
from stage2_prior.fit import FixedDraws, FreshBatches
from stage2_prior.fitting import PriorError, Sizes
from stage2_prior.held_out import check_finite
from stage2_prior.moments import moments
from stage2_prior.priors.mixture import Mixture

ROOT = Path(__file__).parents[3]
ROW_BYTES, BLOCK = 16, 10  # of latents of two dimensions; rows a block


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set counts as too large for memory, and is read in blocks of a few rows."""
    monkeypatch.setattr(door, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(door, "BLOCK_ELEMENTS", 300)
    monkeypatch.setattr(door, "BUFFER_BLOCKS", 100)
    monkeypatch.setattr(door, "BUFFER_BYTES", 100 * BLOCK * ROW_BYTES)


ON_DISK = replace(RUN, sizes=Sizes(in_memory_bytes=0, buffer_bytes=100 * BLOCK * ROW_BYTES))


def numbered(num: int) -> LatentDataset:
    """Latents whose first dimension is their row number, sorted by their ten classes."""
    loc = np.stack([np.arange(num), np.zeros(num)], 1).astype(np.float32)
    params = {"loc": loc, "log_std": np.full_like(loc, -20)}
    return LatentDataset(LatentSpec((2,), num_classes=10), "diagonal_normal", params, np.arange(num) * 10 // num)


@pytest.mark.parametrize("num", [9_994, 1_000, 7])
def test_an_epoch_in_blocks_has_every_row_once(num: int, on_disk: None) -> None:
    data = numbered(num)
    epochs = []
    for seed in (0, 1, 1):
        batches = list(drawn_epoch(data, 64, torch.Generator().manual_seed(seed)))
        assert [len(z) for z, *_ in batches[:-1]] == [64] * (len(batches) - 1)
        z, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        rows = z[:, 0].round().long()
        assert torch.equal(rows.sort().values, torch.arange(num))
        assert torch.equal(labels, data.labels[rows]), "labels left their latents"
        epochs.append(rows)
    assert torch.equal(epochs[1], epochs[2]) and not torch.equal(epochs[0], epochs[1])
    assert sum(len(rows) for rows, _ in data.epoch(64, num=num // 2)) == num // 2


def test_a_set_sorted_by_class_is_mixed(on_disk: None) -> None:
    """A buffer of 100 blocks out of 1,000: each class within three standard deviations of its share in a buffer."""
    data = numbered(10_000)
    _, labels = (torch.cat(c) for c in zip(*drawn_epoch(data, 50, torch.Generator().manual_seed(0)), strict=True))
    for buffer in labels.split(1000):
        share = torch.bincount(buffer, minlength=10) / 1000
        assert (share - 0.1).abs().max() < 3.5 * (0.1 * 0.9 / 100) ** 0.5
    first = labels[:50]
    assert len(first.unique()) >= 8, "the rows of a buffer are mixed, not its blocks alone"


class Recorded:
    """An array that remembers which rows were asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.asked = values, list[slice]()
        self.shape = values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> np.ndarray:
        assert isinstance(rows, slice), "rows of a large set were read one by one"
        self.asked.append(rows)
        return self.values[rows]


def test_the_disk_is_read_in_blocks(on_disk: None) -> None:
    loc = Recorded(np.zeros((4_000, 4), np.float32))
    for _ in LatentDataset(LatentSpec((4,)), "delta", {"loc": loc}).epoch(64):
        pass
    read = Counter(rows.start for rows in loc.asked if rows.stop)
    assert set(read) == set(range(0, 4_000, BLOCK)) and set(read.values()) == {1}
    assert sorted(read) != list(read)


def test_fresh_batches_fill_an_epoch_and_held_out_draws_are_bounded(
    on_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = numbered(5_000)
    batches = FreshBatches(data, 64)
    sizes = Counter(len(z) for z, *_ in batches)
    assert sizes == {64: len(batches)}
    monkeypatch.setattr("stage2_prior.fit.HELD_OUT_BYTES", 1000 * 8)
    drawn = torch.cat([z for z, *_ in FixedDraws(data, 10, 64)])[:, 0]
    assert len(drawn) == 1000 and drawn.min() < 5 and drawn.max() > 4_990


@pytest.mark.parametrize("full", [False, True])
def test_moments_do_not_depend_on_blocks(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    loc = np.float32(1e3 + rng.normal(size=(5_000, 3)) * [1, 0.01, 10])
    loc[2_500:] += 5
    log_std = np.float32(rng.normal(-1, 0.3, (5_000, 3)))
    data = LatentDataset(LatentSpec((3,)), "diagonal_normal", {"loc": loc, "log_std": log_std})
    monkeypatch.setattr(door, "BLOCK_ELEMENTS", 333)
    found = moments(data, full=full)
    covariance = np.cov(loc.astype(np.float64).T, bias=True) + np.diag(np.exp(2 * log_std.astype(np.float64)).mean(0))
    np.testing.assert_allclose(found.mean.numpy(), loc.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.total.numpy(), covariance if full else covariance.diagonal(), rtol=1e-9, atol=1e-9)


def test_the_first_bad_row_is_found_in_whatever_block(on_disk: None) -> None:
    data = numbered(1_000)
    data.params["log_std"][[431, 765, 766]] = np.inf
    with pytest.raises(PriorError, match=r"log_std of the training latents is not finite in 3 rows \(first: 431\)"):
        check_finite(data, "training")


def known_mixture(num: int, seed: int) -> LatentDataset:
    """Six overlapping clusters in four dimensions, sorted, with posteriors of width 0.3."""
    shape, rng = np.random.default_rng(5), np.random.default_rng(seed)
    centres, mixing = 1.5 * shape.normal(size=(6, 4)), 0.5 * shape.normal(size=(6, 4, 4))
    cluster = np.sort(rng.integers(6, size=num))
    loc = centres[cluster] + np.einsum("nde,ne->nd", mixing[cluster], rng.normal(size=(num, 4)))
    params = {"loc": np.float32(loc), "log_std": np.full((num, 4), np.log(0.3), np.float32)}
    return LatentDataset(LatentSpec((4,)), "diagonal_normal", params)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(COVARIANCES))
def test_mini_batches_reach_what_exact_em_reaches(kind: str, on_disk: None) -> None:
    """Held-out nats within 0.01 of exact EM, from the same start, on a sorted set read in blocks."""
    train, val = known_mixture(20_000, 0), known_mixture(4_000, 1)
    torch.manual_seed(0)
    z = known_mixture(20_000, 2).draw(torch.arange(20_000))
    nll = {}
    for size in ("all", 400):
        mixture = Mixture(train.spec, num_components=6, covariance=kind, tol=1e-4, batch_size=size)
        report = mixture.fit(train, val, ON_DISK)
        nll[size] = -mixture.log_prob(z).mean().item()
        assert report.notes == []
        assert report.curve[-1]["train_bound_nats"] < report.curve[0]["train_bound_nats"]
    assert nll[400] < nll["all"] + 0.01


def test_exact_em_from_the_disk_is_exact_em() -> None:
    train = known_mixture(3_000, 0)
    curves = []
    for run in (RUN, ON_DISK):
        mixture = Mixture(train.spec, num_components=6, batch_size="all", max_iter=20, tol=0)
        curves.append([row["objective_nats"] for row in mixture.fit(train, train, run).curve])
    assert curves[1] == pytest.approx(curves[0], abs=1e-4) and len(curves[0]) > 10


def test_auto_takes_batches_only_where_the_set_is_large() -> None:
    train = known_mixture(2_000, 0)
    for run, keys in ((RUN, {"objective_nats"}), (ON_DISK, {"val_bound_nats"})):
        row = Mixture(train.spec, num_components=3, max_iter=2).fit(train, train, run).curve[0]
        assert keys <= set(row)
    with pytest.raises(PriorError, match="batch_size=0: give auto, all or a number"):
        Mixture(train.spec, batch_size=0)


def em_parts() -> tuple[StepwiseState, Points, StepwiseSettings]:
    data = known_mixture(2_000, 0)
    points = Points(torch.from_numpy(data.params["loc"][:]), torch.full((2_000, 4), 0.09))
    covariance, guess = COVARIANCES["full"], torch.eye(4).double()
    means = points.loc[::400].double()
    start = Components(torch.full((5,), 0.2).double().log(), means, torch.eye(4).double().expand(5, 4, 4).clone())
    stats = Points(means, torch.ones(5, 4)).features(covariance, torch.float64) / 5
    settings = EMSettings(covariance, guess, 1.0, max_iter=6, tol=-1.0)
    return StepwiseState.begin(start, stats), points, StepwiseSettings(settings, 2_000, 100)


def shuffled(points: Points, epoch: int) -> list[Points]:
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(epoch))
    return [points.rows(rows) for rows in order.split(100)]


def test_an_interrupted_fit_goes_on_to_the_same_bits() -> None:
    state, points, settings = em_parts()
    kept: list[StepwiseState] = []
    whole = stepwise_em(state, lambda n: shuffled(points, n), points, settings, kept.append)
    again = stepwise_em(kept[2], lambda n: shuffled(points, n), points, settings)
    assert len(kept) == 6 and again.curve == whole.curve and again.train_curve == whole.train_curve
    for name in ("log_weights", "means", "scale"):
        one, other = (getattr(s.current, name) for s in (whole, again))
        assert isinstance(one, Tensor) and torch.equal(one, other)
    assert whole.curve[-1] > whole.curve[0]


def test_empty_components_are_placed_anew() -> None:
    state, points, settings = em_parts()
    state.current.means[2] = 1e3
    state.stats[2] = 0
    result = stepwise_em(state, lambda n: shuffled(points, n), points, settings)
    assert result.reseeded == 1
    assert result.current.log_weights.exp().min() > 4 / 2_000 and result.current.means.abs().max() < 10


MEASURED = """
import json, sys
from pathlib import Path
import torch
from benchmarks.latents.fitting import status, watched
from stage1_vae.latents import dataset as door
from stage2_prior.fitting import FitRun, Sizes
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture
from stage2_prior.wrappers.standardize import Standardized

door.IN_MEMORY_BYTES, door.BLOCK_ELEMENTS = 2**20, 2**17
door.BUFFER_BYTES, door.BUFFER_BLOCKS = 2**22, 32
train, val = (door.LatentDataset.load(Path(sys.argv[1]) / split) for split in ("train", "val"))
sizes = Sizes(in_memory_bytes=2**20, buffer_bytes=2**22, start_points=2000)
run = FitRun(torch.device("cpu"), 0, lambda figures, step: None, lightning_fit=None, sizes=sizes)
def fit(data):
    Standardized(Mixture(data.spec, 4, covariance="diagonal", max_iter=1, batch_size=2048)).fit(data, val, run)
    Gaussian(data.spec).fit(data, val, run)
    for _, posterior in data.epoch(8192):
        posterior.sample()
fit(val)
before = status("RssAnon")
with watched() as peak:
    fit(train)
print(json.dumps(peak["anonymous"] - before))
"""


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """128 MB of parameters are fitted three ways with buffers of 4 MB: half of the set is never held."""
    rng, num = np.random.default_rng(0), 250_000
    for split, size in (("train", num), ("val", 5_000)):
        (tmp_path / split).mkdir()
        loc = rng.standard_normal((size, 64), np.float32)
        LatentDataset(
            LatentSpec((64,)), "diagonal_normal", {"loc": loc, "log_std": loc - 2}, np.arange(size) % 10
        ).save(tmp_path / split)
    # by chance a second arena of the allocator holds what is free already, another 14 MiB
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    grown_mib = json.loads(done.stdout)
    assert grown_mib < 0.5 * num * 64 * 8 / 2**20, f"{grown_mib:.0f} MiB of anonymous memory"
