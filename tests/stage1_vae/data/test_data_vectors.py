"""Vectors as data: rows or columns of files, standardised by their training rows, in memory and on the disk."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import everything, refusal, sizes
from layouts.array_files import write_hdf5

from stage1_vae.data.images import Domain, InMemory
from stage1_vae.data.vectors import Standardised, Vectors

SCALES = np.array([1e-3, 1.0, 1e3, 5.0, 0.0])
X = (np.random.default_rng(0).standard_normal((200, 5)) * SCALES + 7).astype(np.float32)
Y = np.arange(200) % 4


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(write_hdf5(tmp_path / "set.h5", {"x": X, "label": Y}))


@pytest.mark.parametrize("limit", [2.0, 0.0])
def test_columns_are_standardised_by_the_training_rows(path: str, limit: float) -> None:
    data = Vectors(path, memory_limit_gib=limit).load()
    assert (
        data.shape == (1, 1, 5)
        and data.domain is Domain.REAL
        and not data.are_pictures
        and sizes(data) == (140, 20, 40)
    )
    assert isinstance(data.train, InMemory if limit else Standardised) and data.num_classes == 4
    train = everything(data.train).flatten(1)
    assert torch.allclose(train.mean(0), torch.zeros(5), atol=1e-4)
    assert torch.allclose(train.std(0, correction=0), torch.tensor([1.0, 1, 1, 1, 0]), atol=1e-3)
    assert data.units is not None and data.units.scale[-1] == 1
    rows = {row.tobytes() for row in X.round(2)}
    restored = data.units.restore(everything(data.test)).flatten(1).numpy()
    assert all(row.tobytes() in rows for row in restored.round(2))
    deviations = torch.from_numpy(X[:, :4]).double().std(0)
    assert data.units.log_volume == pytest.approx(deviations.log().sum().item(), abs=0.3)
    assert any("data.standardize=false" in words for words in data.guesses)
    assert "1 column never varies" in data.guesses
    assert data.fingerprint == Vectors(path).load().fingerprint


def test_they_are_taken_as_they_are_where_asked(path: str, tmp_path: Path) -> None:
    data = Vectors(path, standardize=False).load()
    assert data.units is None and data.fingerprint != Vectors(path).load().fingerprint
    assert {row.tobytes() for row in everything(data.val).flatten(1).numpy()} <= {row.tobytes() for row in X}
    bits = np.random.default_rng(1).integers(0, 2, (60, 9), dtype=np.uint8)
    np.save(tmp_path / "bits.npy", bits)
    data = Vectors(str(tmp_path / "bits.npy"), domain="unit").load()
    assert data.levels == 2 and data.units is None and data.shape == (1, 1, 9)


def test_vectors_in_columns(path: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "columns.npz", x=X.T, label=Y)
    data = Vectors(str(tmp_path / "columns.npz")).load()
    assert torch.equal(everything(data.train), everything(Vectors(path).load().train))
    assert any("data.layout=ND otherwise" in words for words in data.guesses)
    np.save(tmp_path / "columns.npy", X.T)
    assert Vectors(str(tmp_path / "columns.npy"), layout="DN").load().shape == (1, 1, 5)


def test_the_jacobian_is_that_of_the_density(path: str) -> None:
    """-log p of numbers is -log p of standardised ones and the sum of log deviations."""
    units = Vectors(path).load().units
    assert units is not None
    x = torch.randn(5)
    of_numbers = torch.distributions.Normal(units.centre, units.scale).log_prob(units.restore(x)).sum()
    of_x = torch.distributions.Normal(0, 1).log_prob(x).sum()
    assert (of_x - of_numbers).item() == pytest.approx(units.log_volume, abs=1e-2) and math.isfinite(units.log_volume)


def test_what_are_no_vectors(path: str, tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", np.zeros((20, 4, 4), np.float32))
    refusal(lambda: Vectors(str(tmp_path / "maps.npy")).load(), "shape (20, 4, 4)", "x.reshape(len(x), -1)")
    refusal(lambda: Vectors(path, layout="NHW").load(), "data.layout=NHW", "ND")
    refusal(lambda: Vectors(path, standardize="no").load(), "data.standardize=no")  # type: ignore[arg-type]
    np.save(tmp_path / "nan.npy", np.where(X > 100, np.nan, X))
    refusal(lambda: Vectors(str(tmp_path / "nan.npy")).load(), "NaN")
