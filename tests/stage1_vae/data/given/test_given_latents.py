"""Latents to be scored are read as those were that a prior was fitted to, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stage1_vae.data.given.latents import read_given_latents
from stage1_vae.data.images import DataError
from stage1_vae.data.latents.source import Latents

RNG = np.random.default_rng(0)


def normals(num: int, dims: int = 4) -> dict[str, Any]:
    return {
        "loc": RNG.normal(size=(num, dims)).astype(np.float32),
        "std": np.full((num, dims), 0.5, np.float32),
        "label": np.arange(num) % 2,
    }


@pytest.fixture
def source(tmp_path: Path) -> Latents:
    np.savez(tmp_path / "fitted.npz", **normals(40))
    return Latents(str(tmp_path / "fitted.npz"))


def test_rows_come_in_the_order_of_the_files(tmp_path: Path, source: Latents) -> None:
    new = tmp_path / "new"
    new.mkdir()
    shards = [normals(3), normals(2)]
    for number, shard in enumerate(shards):
        np.savez(new / f"shard-{number}.npz", **shard)
    given = read_given_latents(source, str(new), source.load())
    assert [given.place(row) for row in range(5)] == [
        *(("shard-0.npz", row) for row in range(3)),
        *(("shard-1.npz", row) for row in range(2)),
    ]
    posterior = given.latents.posterior(torch.arange(5))
    assert np.array_equal(posterior.mean.numpy(), np.concatenate([shard["loc"] for shard in shards]))
    assert torch.allclose(posterior.variance, torch.tensor(0.25))


def test_one_latent_and_a_file_that_has_no_training_rows_will_do(tmp_path: Path, source: Latents) -> None:
    np.savez(tmp_path / "new.npz", **{f"test_{name}": values for name, values in normals(1).items()})
    given = read_given_latents(source, str(tmp_path / "new.npz"), source.load())
    assert len(given.latents) == 1 and given.place(0) == ("new.npz", 0)


def test_codes_keep_the_codebook_of_the_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "fitted.npz", codes=np.tile(np.arange(8), (40, 1)))
    np.savez(tmp_path / "new.npz", codes=np.zeros((2, 8), np.int64))
    source = Latents(str(tmp_path / "fitted.npz"))
    like = source.load()
    given = read_given_latents(source, str(tmp_path / "new.npz"), like)
    assert given.latents.spec == like.spec
    np.savez(tmp_path / "new.npz", codes=np.full((2, 8), 8))
    with pytest.raises(DataError, match="holds 8, and the codebook has 8"):
        read_given_latents(source, str(tmp_path / "new.npz"), like)


def test_other_latents_are_refused(tmp_path: Path, source: Latents) -> None:
    like, new = source.load(), tmp_path / "new.npz"
    cases: dict[str, dict[str, Any]] = {
        "holds latents of 5, and this prior was fitted to latents of 4": normals(3, 5),
        "holds points without standard deviations, and this prior": {"loc": normals(3)["loc"]},
        "holds codes, and this prior was fitted to means": {"codes": np.zeros((3, 4), np.int64)},
        "row 0": normals(3) | {"std": np.full((3, 4), -1.0)},
    }
    for words, arrays in cases.items():
        np.savez(new, **arrays)
        with pytest.raises(DataError, match=words):
            read_given_latents(source, str(new), like)
    with pytest.raises(DataError, match=r"score\.root=gone does not exist"):
        read_given_latents(source, "gone", like)
