"""Stores and runs that somebody else made: reports, latents and weights that mean harm are refused in one line."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, run_here
from hostile.checkpoints import Bomb
from hostile.data import HEADERS
from hostile.watch import nothing_runs, refused

from expost import compare
from expost.base.errors import UserError
from expost.store.manifest import MANIFEST, checksum, file_sha256
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.latents.dataset import HEADER


@pytest.fixture
def latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "train"
    folder.mkdir()
    params = {name: np.zeros((20, 3), np.float32) for name in ("loc", "log_std")}
    LatentDataset(LatentSpec((3,)), "diagonal_normal", params, np.zeros(20, np.int64)).save(folder)
    return folder


@pytest.mark.parametrize("file", ["loc.npy", "labels.npy"])
@pytest.mark.parametrize("name", HEADERS)
def test_arrays_of_latents(latents: Path, name: str, file: str) -> None:
    (latents / file).write_bytes(HEADERS[name][0])
    with refused("holds no latents that can be read", latents, kind=ValueError):
        LatentDataset.load(latents)


def _changed(**facts: object) -> Callable[[dict], bytes]:
    return lambda header: json.dumps(header | facts).encode()


LATENT_HEADERS: dict[str, Callable[[dict], bytes]] = {
    "another count": _changed(num=10**12),
    "another family": _changed(family="os.system"),
    "family of a list": _changed(family=["os"]),
    "no spec": _changed(spec=None),
    "another shape": lambda header: json.dumps(header | {"spec": header["spec"] | {"shape": [4]}}).encode(),
    "endless shape": lambda header: json.dumps(header | {"spec": header["spec"] | {"shape": [2**62] * 9}}).encode(),
    "another support": lambda header: json.dumps(header | {"spec": header["spec"] | {"support": "moon"}}).encode(),
    "deep": lambda header: b"[" * 500_000,
    "long": lambda header: b" " * 2**21,
    "a list": lambda header: b"[]",
    "no text": lambda header: b"\xff\xfe",
    "empty": lambda header: b"",
}


@pytest.mark.parametrize("name", LATENT_HEADERS)
def test_headers_of_latents(latents: Path, name: str) -> None:
    header = json.loads((latents / HEADER).read_text(encoding="utf-8"))
    (latents / HEADER).write_bytes(LATENT_HEADERS[name](header))
    with refused("holds no latents that can be read", latents, kind=ValueError):
        LatentDataset.load(latents)


REPORTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep": (lambda place: place.write_bytes(b"[" * 400_000), "damaged"),
    "deep object": (lambda place: place.write_bytes(b'{"a":' * 400_000), "damaged"),
    "gigabyte": (lambda place: (place.touch(), os.truncate(place, 2**30)), "at most"),
    "terabyte": (lambda place: (place.touch(), os.truncate(place, 2**40)), "at most"),
    "long number": (lambda place: place.write_bytes(b'{"a": ' + b"9" * 10**6 + b"}"), "damaged"),
    "pickle": (lambda place: place.write_bytes(pickle.dumps(Bomb())), "cannot be read|damaged"),
    "YAML": (lambda place: place.write_bytes(b"!!python/object/apply:os.system ['touch canary']"), "damaged"),
    "YAML that laughs": (lambda place: place.write_bytes(b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"), "damaged"),
    "no text": (lambda place: place.write_bytes(b"\xff\xfe"), "cannot be read"),
    "device": (lambda place: place.symlink_to("/dev/zero"), "no plain file"),
    "pipe": (os.mkfifo, "no plain file"),
    "dangling link": (lambda place: place.symlink_to("nowhere"), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
def test_reports(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, match = REPORTS[name]
    (tmp_path / "theirs").mkdir()
    make(tmp_path / "theirs" / compare.REPORT)
    with refused(rf"theirs.*({match})", tmp_path, kind=UserError):
        compare.load(tmp_path, tmp_path / "theirs")


def _sealed_again(folder: Path) -> None:
    """The manifest of an artifact, as whoever means harm would write it."""
    facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name in facts["files"]:
        facts["files"][name] = {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size}
    facts["checksum"] = checksum(facts)
    (folder / MANIFEST).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def test_weights_in_a_store_that_was_sealed_again(tmp_path: Path) -> None:
    words = ("stage=vae", f"paths.root={tmp_path}", *SMALL)
    assert run_here(tmp_path, *words).code == 0
    (folder,) = (tmp_path / "store" / "vae").iterdir()
    for content in (pickle.dumps(Bomb()), b"\x00" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        (folder / "model.safetensors").write_bytes(content)
        _sealed_again(folder)
        with nothing_runs(tmp_path):
            done = run_here(tmp_path, "stage=sample", "sample.prior=base", "sample.num=2", *words[1:])
        assert done.code == 2 and len(done.lines) == 1, done.err
        assert "model.safetensors" in done.err
