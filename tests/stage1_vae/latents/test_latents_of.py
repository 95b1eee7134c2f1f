"""Arrays and tensors of somebody else's encoder become a data set, or a line that says which row is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.posteriors import DiagonalNormal

RNG = np.random.default_rng(0)
LOC = RNG.normal(size=(20, 3)).astype(np.float32)


def test_float32_is_kept_where_it_lies() -> None:
    log_std = np.full_like(LOC, -1)
    latents = LatentDataset.of(LOC, log_std, np.arange(20) % 4)
    assert latents.spec == LatentSpec((3,), num_classes=4) and latents.family == "diagonal_normal"
    assert latents.params["loc"] is LOC and latents.params["log_std"] is log_std
    assert torch.equal(latents.labels, torch.arange(20) % 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_float_type(dtype: torch.dtype) -> None:
    maps = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    latents = LatentDataset.of(maps)
    assert latents.family == "delta" and latents.spec.shape == (4, 2, 2)
    assert torch.equal(latents.posterior(slice(None)).mean, maps.detach().float())


@pytest.mark.parametrize(
    ("name", "of_std"),
    [("std", lambda s: s), ("var", np.square), ("log_var", lambda s: 2 * np.log(s)), ("log_std", np.log)],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_spread_is_the_same_standard_deviation(name: str, of_std: Any, dtype: type) -> None:
    std = RNG.uniform(0.1, 3, LOC.shape)
    latents = LatentDataset.of(LOC, **{name: of_std(std).astype(dtype)})
    posterior = latents.posterior(slice(None))
    assert isinstance(posterior, DiagonalNormal) and posterior.log_std.dtype is torch.float32
    np.testing.assert_allclose(posterior.log_std.exp(), std, rtol=1e-2 if dtype is np.float16 else 1e-5)


def test_codes_become_sequences_of_maps(tmp_path: Path) -> None:
    codes = RNG.integers(0, 300, (10, 2, 3), dtype=np.uint16)
    codes[0, 0, 0] = 299
    latents = LatentDataset.of(codes=codes)
    assert latents.spec == LatentSpec((6,), Support.CODES, ((2, 3),), (300,))
    assert torch.equal(latents.draw(torch.arange(10)), torch.from_numpy(codes.astype(np.int64)).reshape(10, 6))
    latents.save(tmp_path)
    assert LatentDataset.load(tmp_path).spec == latents.spec
    assert LatentDataset.of(codes=codes.reshape(10, 6)).spec.grids == ((1, 6),)
    several = LatentDataset.of(codes=codes.reshape(10, 6), num_codes=512, grids=[(1, 2), (2, 2)]).spec
    assert several.grids == ((1, 2), (2, 2)) and several.num_codes == (512, 512)
    assert LatentDataset.of(codes=np.zeros((4, 2))).spec.num_codes == (2,)


def changed(value: float, row: int = 7, dtype: type = np.float32) -> np.ndarray:
    array: np.ndarray = np.ones((20, 3), dtype)
    array[row, 1] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, ["give either loc or codes"]),
        ({"loc": LOC, "codes": LOC}, ["give either loc or codes"]),
        ({"loc": LOC, "std": LOC, "var": LOC}, ["std and var given", "one spread"]),
        ({"codes": changed(1), "std": LOC}, ["std given", "none with codes"]),
        ({"loc": LOC, "num_codes": 4}, ["num_codes", "go with codes"]),
        ({"loc": LOC[:, 0]}, ["(20,)", "[N, D] or maps [N, C, h, w]"]),
        ({"loc": LOC[:0]}, ["(0, 3)", "at least one"]),
        ({"loc": LOC.astype(str)}, ["loc: row 0 holds", "whole or real numbers"]),
        ({"loc": LOC, "std": LOC[:19]}, ["std has shape (19, 3)", "loc (20, 3)"]),
        ({"loc": changed(np.nan)}, ["loc: row 7 holds nan", "leave such rows out"]),
        ({"loc": changed(1e300, dtype=np.float64)}, ["loc: row 7 holds 1e+300", "float32"]),
        ({"loc": LOC, "log_std": changed(-np.inf)}, ["log_std: row 7 holds -inf"]),
        ({"loc": LOC, "log_std": changed(100)}, ["log_std: row 7 holds 100", "zero or infinite", "std or var"]),
        ({"loc": LOC, "std": changed(0)}, ["std: row 7 holds 0", "a standard deviation is positive", "keep loc alone"]),
        ({"loc": LOC, "var": changed(-0.5)}, ["var: row 7 holds -0.5", "a variance is positive"]),
        ({"codes": changed(-1)}, ["codes: row 7 holds -1", "not negative", "count from 0"]),
        ({"codes": changed(0.5)}, ["codes: row 7 holds 0.5", "a code is whole", "name it loc"]),
        ({"codes": changed(np.nan)}, ["codes: row 7 holds nan"]),
        ({"codes": changed(9), "num_codes": 9}, ["codes: row 7 holds 9", "codebook has 9", "0 to 8", "special tokens"]),
        ({"codes": changed(2**16)}, ["codes: row 7 holds 65536", "0 to 65535"]),
        ({"codes": changed(1), "num_codes": 1}, ["num_codes=1", "2 to 65,536"]),
        ({"codes": changed(1), "grids": [(2, 2)]}, ["2x2", "3 codes"]),
        ({"loc": LOC, "labels": np.arange(19)}, ["(19,)", "20 latents", "one label a latent"]),
        ({"loc": LOC, "labels": np.arange(20) - 1}, ["row 0 holds -1", "from 0"]),
        ({"loc": LOC, "labels": np.full(20, "cat")}, ["number the classes from 0"]),
    ],
)
def test_what_is_no_latent_is_one_line(arrays: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        LatentDataset.of(**arrays)
    message = str(raised.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_the_row_is_that_of_the_whole_array() -> None:
    loc = np.zeros((3 * 2**20, 4), np.float32)  # three blocks
    loc[2**21 + 5, 0] = np.inf
    with pytest.raises(ValueError, match=f"row {2**21 + 5} holds inf"):
        LatentDataset.of(loc)
