"""Training checkpoints that mean harm are refused by name, and the honest one comes back to the last bit."""

import random
from pathlib import Path

import pytest
import torch
from hostile.checkpoints import ATTACKS, equal, honest
from hostile.watch import nothing_runs, refused

from expost.store import checkpoints
from expost.store.checkpoints import read_checkpoint
from expost.store.safe import UnsafeError


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, match = ATTACKS[name]
    make(tmp_path / "last.ckpt")
    with refused(rf"last\.ckpt.*({match})", tmp_path, kind=UnsafeError):
        read_checkpoint(tmp_path, "last.ckpt")


def test_the_honest_one_is_read(tmp_path: Path) -> None:
    content = honest()
    torch.save(content, tmp_path / "last.ckpt")
    with nothing_runs(tmp_path):
        assert equal(read_checkpoint(tmp_path, "last.ckpt"), content)
    with pytest.raises(UnsafeError, match="at most 100 are expected"):
        read_checkpoint(tmp_path, "last.ckpt", max_bytes=100)


def test_a_long_history_is_read_as_far_as_memory_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = honest() | {"history": [{"epoch": i, "train_loss": i / 7, "val_loss": i / 3} for i in range(20_000)]}
    torch.save(content, tmp_path / "last.ckpt")
    monkeypatch.setattr(checkpoints, "PICKLE_BYTES", 2**18)
    assert equal(read_checkpoint(tmp_path, "last.ckpt"), content)
    monkeypatch.setattr(checkpoints, "available_bytes", lambda: 2**26)
    with pytest.raises(UnsafeError, match="its pickle has"):
        read_checkpoint(tmp_path, "last.ckpt")


def test_a_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    """Padding between the members holds nothing; every other bit is found."""
    place, content, draw = tmp_path / "last.ckpt", honest(), random.Random(0)
    torch.save(content, place)
    whole, found = place.read_bytes(), 0
    tried = [*range(8), *(draw.randrange(len(whole)) for _ in range(300))]
    for position in tried:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << draw.randrange(8)
        place.write_bytes(flipped)
        try:
            assert equal(read_checkpoint(tmp_path, "last.ckpt"), content)
        except UnsafeError:
            found += 1
    assert found > 0.7 * len(tried)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    torch.save(honest(), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in {*range(0, len(whole), len(whole) // 40), len(whole) - 1}:
        (tmp_path / "last.ckpt").write_bytes(whole[:length])
        with refused(r"last\.ckpt", kind=UnsafeError):
            read_checkpoint(tmp_path, "last.ckpt")
