"""The door between the stages: stored, drawn from, and summed up exactly."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_values import drawn_epoch, log_stds, means
from torch import Tensor
from torch.distributions import Normal

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.latents.dataset import HEADER

N, DIMS = 200, 3


def dataset(num: int = N, shape: tuple[int, ...] = (DIMS,), labels: bool = True, spread: float = 2.0) -> LatentDataset:
    rng = np.random.default_rng(0)
    loc = (spread * rng.standard_normal((num, *shape))).astype(np.float32)
    log_std = (0.7 * rng.standard_normal((num, *shape)) - 1.5).astype(np.float32)
    return LatentDataset(
        LatentSpec(shape, num_classes=10 if labels else 0),
        "diagonal_normal",
        {"loc": loc, "log_std": log_std},
        np.arange(num) % 10 if labels else None,
        {"vae": "abc", "data": "def"},
    )


def points(num: int = N) -> LatentDataset:
    return LatentDataset(
        LatentSpec((DIMS,)), "delta", {"loc": np.random.default_rng(0).random((num, DIMS), np.float32)}
    )


def log_aggregate_by_loop(latents: LatentDataset, z: Tensor) -> Tensor:
    """log 1/N sum_i q(z|x_i), float64, one term at a time."""
    per_term = []
    for loc, log_std in zip(means(latents).double(), log_stds(latents).double(), strict=True):
        per_term.append(Normal(loc, log_std.exp()).log_prob(z.double()).flatten(1).sum(1))
    return torch.logsumexp(torch.stack(per_term), 0) - math.log(len(latents))


@pytest.mark.parametrize("labels", [True, False])
def test_save_and_load(labels: bool, tmp_path: Path) -> None:
    latents = dataset(shape=(2, 3), labels=labels)
    latents.save(tmp_path)
    loaded = LatentDataset.load(tmp_path)
    assert loaded.spec == latents.spec and loaded.family == latents.family
    assert loaded.provenance == latents.provenance and len(loaded) == N
    for name, values in loaded.params.items():
        assert isinstance(values, np.memmap), f"{name} was read into memory"
        assert values.dtype == np.float32 and np.array_equal(values, latents.params[name])  # type: ignore[arg-type]
    assert (loaded.labels is None) == (not labels)
    if labels:
        assert loaded.labels.dtype == torch.int64 and torch.equal(loaded.labels, latents.labels)
    index = torch.tensor([5, 3, 3])
    torch.manual_seed(0)
    expected = latents.draw(index)
    torch.manual_seed(0)
    assert torch.equal(loaded.draw(index), expected)


def test_point_masses_survive_the_disk(tmp_path: Path) -> None:
    points().save(tmp_path)
    loaded = LatentDataset.load(tmp_path)
    assert loaded.is_point_mass and "log_std" not in loaded.params
    index = torch.tensor([7, 2])
    assert torch.equal(loaded.draw(index), means(points())[index])


def test_load_reads_nothing_but_the_header(tmp_path: Path) -> None:
    dataset(num=100_000, shape=(16,)).save(tmp_path)
    tracemalloc.start()
    loaded = LatentDataset.load(tmp_path)
    loaded.draw(torch.arange(10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6, "more than the labels was read: 6.4 MB a parameter"


def test_draws_are_fresh_and_have_the_right_moments() -> None:
    torch.manual_seed(0)
    latents = dataset()
    index = torch.tensor([4, 4, 9])
    first, second = latents.draw(index), latents.draw(index)
    assert first.shape == (3, DIMS) and not torch.equal(first, second) and not torch.equal(first[0], first[1])
    n = 20_000
    z = latents.draw(torch.full((n,), 9))
    loc, std = means(latents)[9], log_stds(latents)[9].exp()
    assert ((z.mean(0) - loc).abs() < 5 * std / math.sqrt(n)).all()
    assert ((z.std(0) / std - 1).abs() < 5 / math.sqrt(2 * n)).all()


def test_batches_cover_each_image_once_with_its_label() -> None:
    loc = np.arange(N, dtype=np.float32).reshape(N, 1)
    latents = LatentDataset(
        LatentSpec((1,)), "diagonal_normal", {"loc": loc, "log_std": np.full_like(loc, -9)}, np.arange(N)
    )
    generator = torch.Generator().manual_seed(3)
    epochs = []
    for _ in range(2):
        batches = list(drawn_epoch(latents, 64, generator))
        assert [len(z) for z, _ in batches] == [64, 64, 64, 8]
        z, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        assert torch.equal(z.squeeze(1).round().long(), labels), "labels left their latents"
        assert torch.equal(labels.sort().values, torch.arange(N))
        epochs.append(labels)
    assert not torch.equal(*epochs) and not torch.equal(epochs[0], torch.arange(N))
    again = torch.cat([labels for _, labels in drawn_epoch(latents, 64, torch.Generator().manual_seed(3))])
    assert torch.equal(again, epochs[0])
    assert next(drawn_epoch(dataset(labels=False), 10))[1] is None


@pytest.mark.parametrize("shape", [(DIMS,), (2, 2, 2)])
@pytest.mark.parametrize("spread", [2.0, 30.0])
def test_log_aggregate_equals_the_loop(shape: tuple[int, ...], spread: float) -> None:
    torch.manual_seed(0)
    latents = dataset(shape=shape, spread=spread)
    z = torch.cat([latents.draw(torch.arange(0, N, 3)), 40 * torch.randn(9, *shape)]).double()
    expected = log_aggregate_by_loop(latents, z)
    torch.testing.assert_close(latents.log_aggregate(z), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(latents.log_aggregate(z, chunk=7), expected, rtol=1e-6, atol=1e-6)
    single = latents.log_aggregate(z.float())
    assert single.dtype == torch.float32 and single.shape == (len(z),)
    torch.testing.assert_close(single.double(), log_aggregate_by_loop(latents, z.float()), rtol=1e-6, atol=1e-5)


def test_log_aggregate_of_narrow_posteriors() -> None:
    """At the narrowest width that the bottleneck allows, exp(-8), the expanded square must not cancel."""
    latents = dataset()
    latents.params["log_std"] = np.full_like(latents.params["log_std"], -8)
    z = latents.draw(torch.arange(50)).double()
    torch.testing.assert_close(latents.log_aggregate(z), log_aggregate_by_loop(latents, z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e6, 1e12, 1e30])
def test_log_aggregate_beside_a_wild_latent(scale: float) -> None:
    """Squares about the mean of all would lose every digit of all others, those about the middle its own."""
    latents = dataset()
    latents.params["loc"][7] = scale
    z = latents.draw(torch.arange(50)).double()
    torch.testing.assert_close(latents.log_aggregate(z), log_aggregate_by_loop(latents, z), rtol=1e-6, atol=1e-6)


def test_an_infinite_latent_has_no_finite_density() -> None:
    z = torch.zeros(2, DIMS, dtype=torch.float64)
    z[0, 0], z[1] = math.inf, -math.inf
    assert not dataset().log_aggregate(z).isfinite().any()


def test_log_aggregate_of_one_image_is_its_posterior() -> None:
    latents = dataset(num=1)
    z = torch.randn(40, DIMS, dtype=torch.float64)
    expected = Normal(means(latents).double(), log_stds(latents).double().exp()).log_prob(z).sum(1)
    torch.testing.assert_close(latents.log_aggregate(z), expected, rtol=1e-6, atol=1e-6)


def test_log_aggregate_integrates_to_one() -> None:
    latents = dataset(num=5, shape=(1,))
    grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64).unsqueeze(1)
    total = torch.trapezoid(latents.log_aggregate(grid).exp(), dx=1e-3)
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_log_aggregate_refuses_point_masses() -> None:
    with pytest.raises(ValueError, match="no density"):
        points().log_aggregate(torch.zeros(2, DIMS))


def test_load_never_unpickles(tmp_path: Path) -> None:
    dataset().save(tmp_path)
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (trap,)

    for name in ("loc.npy", "labels.npy"):
        dataset().save(tmp_path)
        np.save(tmp_path / name, np.array([[Trap()] * DIMS] * N, dtype=object), allow_pickle=True)
        with pytest.raises(ValueError, match=r"(?i)object"):
            LatentDataset.load(tmp_path)
        assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("loc", np.zeros((N - 1, DIMS), np.float32)),
        ("log_std", np.zeros((N, DIMS + 1), np.float32)),
        ("log_std", np.zeros(N * DIMS, np.float32)),
        ("labels", np.zeros(N + 1, np.int64)),
    ],
)
def test_load_refuses_mismatched_arrays(name: str, values: np.ndarray, tmp_path: Path) -> None:
    dataset().save(tmp_path)
    np.save(tmp_path / f"{name}.npy", values)
    with pytest.raises(ValueError, match=str(N)):
        LatentDataset.load(tmp_path)


def test_load_refuses_another_count_than_the_header(tmp_path: Path) -> None:
    dataset(labels=False).save(tmp_path)
    for name in ("loc", "log_std"):
        np.save(tmp_path / f"{name}.npy", np.zeros((N // 2, DIMS), np.float32))
    with pytest.raises(ValueError, match=str(N)):
        LatentDataset.load(tmp_path)


def test_constructor_refuses_what_does_not_fit() -> None:
    loc = np.zeros((4, DIMS), np.float32)
    with pytest.raises(ValueError, match="family"):
        LatentDataset(LatentSpec((DIMS,)), "unheard_of", {"loc": loc})
    with pytest.raises(ValueError, match="log_std"):
        LatentDataset(LatentSpec((DIMS,)), "diagonal_normal", {"loc": loc})


@pytest.mark.parametrize(
    "spec",
    [
        LatentSpec((16,)),
        LatentSpec((4, 7, 7), Support.SPHERE, num_classes=10),
        LatentSpec((80,), Support.CODES, grids=((4, 4), (8, 8)), num_codes=(512, 256)),
        LatentSpec((64,), Support.BITS),
    ],
)
def test_spec_survives_json(spec: LatentSpec) -> None:
    restored = LatentSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert restored == spec and hash(restored) == hash(spec)
    assert isinstance(restored.support, Support)
    assert restored.num_dims == math.prod(spec.shape)


def test_header_is_plain_json(tmp_path: Path) -> None:
    dataset().save(tmp_path)
    header = json.loads((tmp_path / HEADER).read_text(encoding="utf-8"))
    assert header["num"] == N and header["provenance"] == {"vae": "abc", "data": "def"}
