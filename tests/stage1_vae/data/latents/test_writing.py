"""Draws are written as the files hold latents: read back, they are the same numbers in the same shape."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.data import LatentStyle
from stage1_vae.data.latents.source import Latents
from stage1_vae.data.latents.writing import write_draws

RNG = np.random.default_rng(0)
CASES: list[tuple[str, np.ndarray, dict[str, Any]]] = [
    ("mu", RNG.normal(size=(30, 5)).astype(np.float32), {}),
    ("z", RNG.normal(size=(30, 5)).astype(np.float16), {}),
    ("latents", RNG.normal(size=(30, 4, 3, 3)).astype(np.float32).astype(np.float64), {}),
    ("latents", RNG.normal(size=(30, 2, 3, 5)).astype(np.float32), {"axes": "NWHC"}),
    ("latents", RNG.normal(size=(30, 5, 3)).astype(np.float32), {"axes": "NWC"}),
    ("tokens", RNG.integers(0, 200, (30, 2, 4)).astype(np.int32), {}),
    ("codes", RNG.integers(0, 200, (30, 8)).astype(np.uint8), {"grids": [[2, 2], [1, 4]]}),
    ("bits", RNG.integers(0, 2, (30, 6)).astype(bool), {}),
]


def blocks(latents: Tensor) -> Iterator[Tensor]:
    yield from latents.split(7)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy"])
@pytest.mark.parametrize(("name", "array", "keys"), CASES)
def test_what_is_written_is_read_back(
    tmp_path: Path, suffix: str, name: str, array: np.ndarray, keys: dict[str, Any]
) -> None:
    np.savez(tmp_path / "came.npz", **{name: array, "y": np.arange(30) % 3})  # type: ignore[arg-type]
    data = Latents(str(tmp_path / "came.npz"), **keys).load()
    latents = data.train.draw(torch.arange(len(data.train)))
    out = tmp_path / f"out{suffix}"
    write_draws(out, blocks(latents), len(latents), data.style, data.train.labels)
    if suffix == ".npz":
        with np.load(out) as file:
            written, labels = file[name], file["y"]
    elif suffix == ".safetensors":
        with safe_open(out, "np") as file:
            written, labels = file.get_tensor(name), file.get_tensor("y")
    else:
        written, labels = np.load(out), data.train.labels.numpy()
    assert written.dtype == array.dtype and (labels == data.train.labels.numpy()).all()
    rows = {row.tobytes() for row in array}
    assert written.shape[1:] == array.shape[1:] and all(row.tobytes() in rows for row in written)
    again = Latents(str(out), **keys, label=None if suffix != ".npy" else False).load()
    columns = [part.draw(torch.arange(len(part))) for part in again.splits.values()]
    order = {row.numpy().tobytes() for row in torch.cat(columns)}
    assert again.spec.shape == data.spec.shape and order == {row.numpy().tobytes() for row in latents}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_bfloat16(tmp_path: Path, suffix: str) -> None:
    save_file({"latents": torch.randn(30, 4).bfloat16()}, tmp_path / "came.safetensors")
    data = Latents(str(tmp_path / "came.safetensors")).load()
    latents = torch.cat([torch.randn(50, 4), torch.tensor([[1.00390625, -1.01171875, 3.4e38, 0.0]])])
    write_draws(tmp_path / f"out{suffix}", blocks(latents), 51, data.style)
    if suffix == ".npz":
        with np.load(tmp_path / "out.npz") as file:
            np.testing.assert_array_equal(file["latents"], latents.numpy())
    else:
        with safe_open(tmp_path / "out.safetensors", "pt") as file:
            written = file.get_tensor("latents")
        assert written.dtype is torch.bfloat16 and torch.equal(written, latents.bfloat16())


def test_equal_draws_are_equal_bytes(tmp_path: Path) -> None:
    latents, style = torch.randn(20, 3), LatentStyle("z", "float32", (3,))
    for suffix in (".npz", ".npy", ".safetensors"):
        for name in "ab":
            write_draws(tmp_path / f"{name}{suffix}", blocks(latents), 20, style)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    latents = torch.full((20, 3), 1e5)
    with pytest.raises(DataError, match=r"a draw of 100000 does not fit float16.*save those in a wider one"):
        write_draws(tmp_path / "a.npz", blocks(latents), 20, LatentStyle("z", "float16", (3,)))
    with pytest.raises(DataError, match=r"does not fit uint8"):
        write_draws(tmp_path / "a.npz", blocks(latents.long()), 20, LatentStyle("z", "uint8", (3,)))
    with pytest.raises(DataError, match=r"a\.csv is no \.npy, \.npz or \.safetensors file"):
        write_draws(tmp_path / "a.csv", blocks(latents), 20, LatentStyle("z", "float32", (3,)))
    with pytest.raises(ValueError, match="20 latents were drawn, and 21"):
        write_draws(tmp_path / "a.npz", blocks(latents), 21, LatentStyle("z", "float32", (3,)))
    with pytest.raises(ValueError, match="labels of shape"):
        write_draws(tmp_path / "a.npz", blocks(latents), 20, LatentStyle("z", "float32", (3,)), np.arange(19))
