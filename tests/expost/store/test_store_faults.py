"""Faults injected into a store: killed writers, flipped bytes, full and read-only disks, many processes at once."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from expost.base.errors import UserError
from expost.store import manifest
from expost.store.artifacts import MANIFEST, Store, digest

KEY = digest({"a": 1})
WRITER = """
import os, sys, time
from pathlib import Path
from expost.store.artifacts import Store

store, key, log, after = Store(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
with store.lock("vae", key, waiting=lambda owner: print(f"waiting for {owner}", flush=True)):
    if store.find("vae", key) is None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        with store.writing("vae", key, {}) as folder:
            for n in range(8):
                (folder / f"{n}.bin").write_bytes(bytes([n]) * 10_000)
                print("writing", flush=True)
                time.sleep(after / 8)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def start(store: Store, log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.root), KEY, str(log), str(seconds)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def write(store: Store, stage: str = "vae", key: str = KEY) -> Path:
    with store.writing(stage, key, {"a": 1, "note": "gr\u00fc\u00df"}, run="a run") as folder:
        (folder / "model.bin").write_bytes(bytes(range(256)))
        (folder / "deep").mkdir()
        (folder / "deep" / "notes.txt").write_text("some words", encoding="utf-8")
        (folder / "empty").write_text("", encoding="utf-8")
    return store.root / stage / key


def test_a_killed_writer_leaves_no_orphan_behind_the_next(store: Store, tmp_path: Path) -> None:
    killed = start(store, tmp_path / "log", 4)
    assert killed.stdout is not None
    for _ in range(3):
        assert killed.stdout.readline() == "writing\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert store.find("vae", KEY) is None and len(store.unfinished_folders()) == 1
    following = start(store, tmp_path / "log", 0.0)
    following.communicate(timeout=60)
    assert following.returncode == 0
    assert store.find("vae", KEY) is not None
    assert store.unfinished_folders() == [] and store.quarantined_folders() == []
    assert [path.name for path in (store.root / "vae").iterdir()] == [KEY]
    assert not list((store.root / ".locks").glob("*.owner"))


def test_while_the_trainer_lives_its_scratch_stays_and_when_it_is_killed_a_waiter_takes_over(
    store: Store, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    trainer = start(store, log, 30)
    assert trainer.stdout is not None and trainer.stdout.readline() == "writing\n"
    waiter = start(store, log, 0.0)
    assert waiter.stdout is not None
    said = waiter.stdout.readline()
    assert said.startswith(f"waiting for process {trainer.pid} on "), said
    assert len(store.unfinished_folders()) == 1, "of a living writer nothing is removed"
    trainer.send_signal(signal.SIGKILL)
    trainer.communicate()
    killed = time.monotonic()
    waiter.communicate(timeout=30)
    assert waiter.returncode == 0 and time.monotonic() - killed < 10
    assert store.find("vae", KEY) is not None and store.unfinished_folders() == []
    assert log.read_text(encoding="utf-8").split() == [str(trainer.pid), str(waiter.pid)]


def test_four_processes_make_one_key_once(store: Store, tmp_path: Path) -> None:
    workers = [start(store, tmp_path / "log", 0.4) for _ in range(4)]
    outputs = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, outputs
    maker = (tmp_path / "log").read_text(encoding="utf-8").split()
    assert len(maker) == 1 and store.find("vae", KEY) is not None
    assert all("waiting" not in out for w, (out, _) in zip(workers, outputs, strict=True) if str(w.pid) in maker)


def test_any_byte_that_changes_is_found_and_named(store: Store) -> None:
    """200 random places over all files, the manifest's own included, each with a random other value."""
    draw = random.Random(0)
    folders = [write(store), write(store, "latents", digest({"a": 2})), write(store, "prior", digest({"a": 3}))]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    places = [(path, at) for path in files for at in range(path.stat().st_size)]
    chosen = [(path, draw.randrange(path.stat().st_size)) for path in files]  # every file is hit
    chosen += draw.sample(places, 200 - len(files))
    found = 0
    for path, at in chosen:
        intact = path.read_bytes()
        folder = next(folder for folder in folders if path.is_relative_to(folder))
        path.write_bytes(intact[:at] + bytes([intact[at] ^ draw.randrange(1, 256)]) + intact[at + 1 :])
        found += next(manifest.damaged_files(folder), None) == path.relative_to(folder).as_posix()
        path.write_bytes(intact)
    assert found == 200
    assert [next(manifest.damaged_files(folder), None) for folder in folders] == [None] * 3


def test_every_byte_of_a_manifest_counts(store: Store) -> None:
    path = write(store) / MANIFEST
    intact = path.read_bytes()
    for at in range(len(intact)):
        path.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        assert list(manifest.damaged_files(path.parent)) == [MANIFEST], (at, intact[at - 5 : at + 5])
    for blank in (b"\t", b"\n", b"\r"):  # the same to JSON
        path.write_bytes(intact.replace(b" ", blank, 1))
        assert list(manifest.damaged_files(path.parent)) == [MANIFEST]


def test_what_is_added_moved_or_linked_is_damage(store: Store, tmp_path: Path) -> None:
    folder = write(store)
    (folder / ".nfs0001").write_text("left by a network file system", encoding="utf-8")
    assert not list(manifest.damaged_files(folder))
    (folder / "labels.npy").write_text("planted", encoding="utf-8")
    assert list(manifest.damaged_files(folder)) == ["labels.npy (not in the manifest)"]
    (folder / "labels.npy").unlink()
    outside = tmp_path / "outside"
    (folder / "deep").rename(outside)
    (folder / "deep").symlink_to(outside)
    assert next(manifest.damaged_files(folder)) == "deep/notes.txt"
    (folder / "deep").unlink()
    outside.rename(folder / "deep")
    moved = folder.rename(folder.with_name(digest({"a": 9})))
    assert list(manifest.damaged_files(moved)) == [MANIFEST], "another key's content"


def test_a_listing_cannot_lead_out_of_its_folder(store: Store, tmp_path: Path) -> None:
    folder = write(store)
    (tmp_path / "secret").write_text("s", encoding="utf-8")
    facts = manifest.read(folder)
    assert facts is not None
    for name in ("../../../secret", str(tmp_path / "secret")):
        said = {"sha256": manifest.file_sha256(tmp_path / "secret"), "bytes": 1}
        forged = {k: v for k, v in facts.items() if k != "checksum"} | {"files": {**facts["files"], name: said}}
        forged["checksum"] = manifest.checksum(forged)
        (folder / MANIFEST).write_text(json.dumps(forged, indent=2), encoding="utf-8")
        assert list(manifest.damaged_files(folder)) == [name]


def test_an_artifact_from_before_there_were_checksums_stays_readable(store: Store) -> None:
    folder = write(store)
    facts = manifest.read(folder)
    assert facts is not None
    old = {name: facts[name] for name in ("stage", "key", "ingredients", "started", "finished", "files")}
    (folder / MANIFEST).write_text(json.dumps(old, indent=2), encoding="utf-8")
    found = store.find("vae", KEY)
    assert found is not None and found.manifest() == old
    (folder / MANIFEST).write_text(json.dumps(facts | {"checksun": "x"}, indent=2), encoding="utf-8")
    assert list(manifest.damaged_files(folder)) == [MANIFEST]


SAYS_FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # as Rust says it
]


@pytest.mark.parametrize("error", SAYS_FULL, ids=["errno", "quota", "words"])
def test_a_full_disk_while_writing_is_one_line_and_leaves_nothing(store: Store, error: Exception) -> None:
    with pytest.raises(UserError) as caught, store.writing("vae", KEY, {}) as folder:
        (folder / "half.bin").write_bytes(b"half")
        raise error
    assert "make room" in str(caught.value) and "\n" not in str(caught.value)
    assert store.artifacts() == [] and store.unfinished_folders() == []
    assert write(store).is_dir() and store.find("vae", KEY) is not None


def test_a_full_disk_while_the_manifest_is_forced_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="make room"):
            write(store)
    assert store.artifacts() == [] and store.unfinished_folders() == []
    write(store)
    assert store.find("vae", KEY) is not None


@pytest.mark.parametrize("through", ["bytes", "numpy", "safetensors"])
def test_a_disk_that_is_really_full(tmp_path: Path, through: str) -> None:
    """A tmpfs of 256 KiB; each library has its own way to say it."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        store, large = Store(place / "store"), np.ones(100_000, dtype=np.float32)
        saves = {
            "bytes": lambda folder: (folder / "x").write_bytes(large.tobytes()),
            "numpy": lambda folder: np.save(folder / "x.npy", large),
            "safetensors": lambda folder: save_file({"x": large}, folder / "x.safetensors"),
        }
        with (
            pytest.raises(UserError, match="make room") as caught,
            store.lock("vae", KEY),
            store.writing("vae", KEY, {}) as folder,
        ):
            saves[through](folder)
        assert "\n" not in str(caught.value)
        assert store.find("vae", KEY) is None and store.unfinished_folders() == []
        subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
        with store.lock("vae", KEY):
            write(store)
        assert store.find("vae", KEY) is not None and store.unfinished_folders() == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_damage_in_a_store_that_cannot_be_written_is_named_and_nothing_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(store)
    (folder / "model.bin").write_bytes(b"")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, read_only)
            with pytest.raises(UserError) as caught:
                store.find("vae", KEY)
            words = str(caught.value)
            assert "model.bin" in words and "Read-only file system" in words and "\n" not in words
        assert folder.is_dir()
    assert store.find("vae", KEY) is None and len(store.quarantined_folders()) == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES])
def test_a_vanished_mount_is_no_damage(store: Store, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(store)

    def gone(path: Path) -> str:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "file_sha256", gone)
        with pytest.raises(UserError, match=os.strerror(code)) as caught:
            store.find("vae", KEY)
    assert str(folder) in str(caught.value) and "paths.root=DIR" in str(caught.value)
    assert store.find("vae", KEY) is not None and store.quarantined_folders() == []


def test_a_scratch_folder_that_vanishes_is_one_line(store: Store) -> None:
    with pytest.raises(UserError, match="vanished"), store.writing("vae", KEY, {}) as folder:
        shutil.rmtree(folder)
        (folder / "x").write_text("x", encoding="utf-8")


def test_a_mistake_of_the_stage_keeps_its_own_words(store: Store) -> None:
    with pytest.raises(UserError, match=r"^mine$"), store.writing("vae", KEY, {}):
        raise UserError("mine") from OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ValueError, match=r"^ours$"), store.writing("vae", KEY, {}):
        raise ValueError("ours")


def test_of_two_writers_that_both_believe_in_their_lock_one_result_stays(store: Store) -> None:
    with store.writing("vae", KEY, {}) as slow:
        (slow / "a").write_text("a", encoding="utf-8")
        with store.writing("vae", KEY, {}) as quick:
            (quick / "a").write_text("a", encoding="utf-8")
    assert store.find("vae", KEY) is not None and store.unfinished_folders() == []
