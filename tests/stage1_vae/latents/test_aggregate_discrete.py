"""The aggregate posterior of bits and codes, against loops; memory that does not grow with the images."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.posteriors import Bits


def bits(num: int, dims: int, scale: float = 4.0) -> LatentDataset:
    logits = scale * np.random.default_rng(0).standard_normal((num, dims)).astype(np.float32)
    return LatentDataset(LatentSpec((dims,), Support.BITS), "bits", {"logits": logits})


def codes(values: np.ndarray, size: int) -> LatentDataset:
    spec = LatentSpec(values.shape[1:], Support.CODES, ((1, values.shape[1]),), (size,))
    return LatentDataset(spec, "codes", {"codes": values.astype(spec.dtype("codes"))})


@pytest.mark.parametrize("chunk", [7, 256])
def test_bits_equal_a_loop_over_images(chunk: int) -> None:
    torch.manual_seed(0)
    data = bits(3000, 40)
    z = torch.cat([data.draw(torch.arange(0, 3000, 100)), torch.randint(2, (10, 40)).float()])
    each = [
        Bits(torch.from_numpy(row).double()[None]).log_prob(z.double()) for row in np.asarray(data.params["logits"])
    ]
    expected = torch.stack(each).logsumexp(0) - math.log(3000)
    torch.testing.assert_close(data.log_aggregate(z.double(), chunk), expected, rtol=0, atol=1e-5)


def test_bits_sum_to_one() -> None:
    data = bits(50, 6, scale=1.0)
    every = torch.tensor([[float(n >> d & 1) for d in range(6)] for n in range(64)], dtype=torch.float64)
    assert data.log_aggregate(every).exp().sum().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("size", [3, 300])
def test_codes_are_counted_as_whole_sequences(size: int) -> None:
    values = np.random.default_rng(1).integers(0, 2, (500, 4)) * (size // 3)
    data = codes(values, size)
    rows = [tuple(row) for row in values.tolist()]
    asked = torch.tensor([*rows[:50], *rows[:5], [0] * 4, [0, 0, 0, size - 1]])
    found = data.log_aggregate(asked)
    expected = [rows.count(tuple(row)) / 500 for row in asked.tolist()]
    torch.testing.assert_close(found.exp(), torch.tensor(expected))
    assert found[-1] == -torch.inf and found.dtype == torch.float32
    every = torch.tensor(sorted(set(rows)))
    assert data.log_aggregate(every).double().exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_codes_of_two_letters_that_look_alike_as_bytes_are_two() -> None:
    data = codes(np.array([[256, 1], [1, 256], [257, 0]]), 300)
    found = data.log_aggregate(torch.tensor([[256, 1], [1, 256], [0, 257], [257, 0]]))
    assert torch.isfinite(found).tolist() == [True, True, False, True]


def test_memory_does_not_grow_with_images_times_latents() -> None:
    data = codes(np.random.default_rng(2).integers(0, 256, (60_000, 49)), 256)
    asked: Tensor = data.draw(torch.arange(5000))
    tracemalloc.start()
    found = data.log_aggregate(asked)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120e6, f"{peak / 1e6:.0f} MB; all pairs of codes would be 14,700 MB"
    torch.testing.assert_close(found, torch.full_like(found, -math.log(60_000)))
