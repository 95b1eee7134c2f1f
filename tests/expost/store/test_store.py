"""Artifacts: all or nothing, verified, one writer a key."""

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from expost.base.errors import UserError
from expost.store.artifacts import MANIFEST, Artifact, Store, digest

KEY = digest({"a": 1})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(store: Store, key: str = KEY) -> Artifact:
    with store.writing("vae", key, {"a": 1}) as folder:
        (folder / "model.safetensors").write_bytes(bytes(range(256)))
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "notes.txt").write_text("x", encoding="utf-8")
    found = store.find("vae", key)
    assert found is not None
    return found


def leftovers(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_what_is_written_is_found(store: Store) -> None:
    assert store.find("vae", KEY) is None
    assert not store.root.exists(), "looking makes no folders"
    artifact = write(store)
    assert artifact == Artifact("vae", KEY, store.root / "vae" / KEY)
    assert (artifact.path / "model.safetensors").read_bytes() == bytes(range(256))
    assert artifact.path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in artifact.path.parent.iterdir()] == [KEY], "scratch was left behind"
    assert store.find("vae", digest({"a": 2})) is None and store.find("latents", KEY) is None


def test_manifest_lists_every_file_with_its_hash(store: Store) -> None:
    artifact = write(store)
    manifest = artifact.manifest()
    files = {str(p.relative_to(artifact.path)): p for p in artifact.path.rglob("*") if p.is_file()}
    del files[MANIFEST]
    assert set(manifest["files"]) == set(files) == {"model.safetensors", "deep/er/notes.txt"}
    for name, path in files.items():
        content = path.read_bytes()
        assert manifest["files"][name] == {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    assert (manifest["stage"], manifest["key"], manifest["ingredients"]) == ("vae", KEY, {"a": 1})
    assert manifest["started"] <= manifest["finished"]


@pytest.mark.parametrize("failure", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_unfinished_artifact_is_invisible(store: Store, failure: BaseException) -> None:
    with pytest.raises(type(failure)), store.writing("vae", KEY, {}) as folder:
        (folder / "half.bin").write_bytes(b"half")
        assert store.find("vae", KEY) is None
        raise failure
    assert store.find("vae", KEY) is None and leftovers(store) == []
    write(store)  # and the place is free


def test_a_killed_writer_leaves_nothing_that_is_found(store: Store) -> None:
    script = (
        "import os, sys; from pathlib import Path; from expost.store.artifacts import Store\n"
        "with Store(Path(sys.argv[1])).writing('vae', sys.argv[2], {}) as folder:\n"
        "    (folder / 'half.bin').write_bytes(b'half'); os._exit(9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, store.root, KEY], cwd=Path(__file__).parents[3])
    assert killed.returncode == 9 and any("half.bin" in name for name in leftovers(store))
    assert store.find("vae", KEY) is None
    write(store)


def test_an_artifact_appears_in_one_step(store: Store) -> None:
    """The scratch folder itself is renamed: a copy would be seen half done."""
    with store.writing("vae", KEY, {}) as folder:
        (folder / "a.bin").write_bytes(b"a")
        inode = folder.stat().st_ino
        assert folder.parent == store.root / "vae"
    assert store.find("vae", KEY).path.stat().st_ino == inode


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def break_payload(artifact: Artifact) -> None:
    flip(artifact.path / "model.safetensors", 100)


def break_nested(artifact: Artifact) -> None:
    flip(artifact.path / "deep/er/notes.txt", 0)


def truncate(artifact: Artifact) -> None:
    path = artifact.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def remove_file(artifact: Artifact) -> None:
    (artifact.path / "model.safetensors").unlink()


def remove_manifest(artifact: Artifact) -> None:
    (artifact.path / MANIFEST).unlink()


def empty_manifest(artifact: Artifact) -> None:
    (artifact.path / MANIFEST).write_text("", encoding="utf-8")


def foreign_manifest(artifact: Artifact) -> None:
    (artifact.path / MANIFEST).write_text("[]", encoding="utf-8")


def misspell_manifest(artifact: Artifact) -> None:
    path = artifact.path / MANIFEST
    path.write_text(path.read_text(encoding="utf-8").replace('"bytes"', '"cytes"'), encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        break_payload,
        break_nested,
        truncate,
        remove_file,
        remove_manifest,
        empty_manifest,
        foreign_manifest,
        misspell_manifest,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_artifact_is_moved_aside_and_made_again(store: Store, damage: Callable[[Artifact], None]) -> None:
    artifact = write(store)
    damage(artifact)
    assert store.find("vae", KEY) is None
    assert not artifact.path.exists()
    (aside,) = (store.root / "quarantine").iterdir()
    assert KEY in aside.name and "vae" in aside.name
    assert (aside / "deep/er/notes.txt").is_file(), "nothing is thrown away"
    assert write(store).path == artifact.path


def test_every_flipped_byte_is_found(store: Store) -> None:
    artifact = write(store)
    payload = artifact.path / "model.safetensors"
    for at in range(0, 256, 15):
        flip(payload, at)
        assert store.find("vae", KEY) is None, at
        write(store)


def test_digest_depends_on_content_and_not_on_order() -> None:
    base = {"net": {"hidden": [512, 256], "act": "relu"}, "seed": 0}
    assert digest(base) == digest({"seed": 0, "net": {"act": "relu", "hidden": [512, 256]}})
    others = [
        {**base, "seed": 1},
        {**base, "seed": "0"},
        {**base, "seed": None},
        {**base, "more": 1},
        {"net": {"hidden": [256, 512], "act": "relu"}, "seed": 0},
        {"net": {"hidden": [512, 256]}, "act": "relu", "seed": 0},
    ]
    keys = {digest(base), *map(digest, others)}
    assert len(keys) == len(others) + 1
    assert all(len(key) == 20 and set(key) <= set("0123456789abcdef") for key in keys)
    with pytest.raises(ValueError):
        digest({"seed": float("nan")})


WORKER = """
import sys, time
from pathlib import Path
from expost.store.artifacts import Store

root, key, name, start = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
store = Store(root)
time.sleep(max(0, start - time.time()))
with store.lock("vae", key, waiting=lambda owner: print(f"waiting for {owner}")):
    if store.find("vae", key) is not None:
        print("found")
    else:
        with store.writing("vae", key, {}) as folder:
            (folder / "by.txt").write_text(name)
            time.sleep(0.6)
        print("made")
"""


def test_of_processes_with_one_key_one_makes_it(store: Store) -> None:
    import time

    start = str(time.time() + 0.8)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, store.root, KEY, name, start],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for name in ("one", "two", "three")
    ]
    outputs = [worker.communicate(timeout=60) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), outputs
    ends = sorted(out.splitlines()[-1] for out, _ in outputs)
    assert ends == ["found", "found", "made"], outputs
    for worker, (out, _) in zip(workers, outputs, strict=True):
        if out.splitlines()[-1] == "made":
            assert "waiting" not in out
            maker = worker.pid
    waited = [out for out, _ in outputs if "waiting" in out]
    assert waited and any(f"process {maker} on " in out for out in waited), outputs
    assert store.find("vae", KEY) is not None and not list((store.root / ".locks").glob("*.owner"))


def test_lock_is_released_after_an_exception(store: Store) -> None:
    with pytest.raises(RuntimeError), store.lock("vae", KEY):
        raise RuntimeError
    with store.lock("vae", KEY, waiting=pytest.fail):
        pass


def test_locks_of_other_keys_are_other_locks(store: Store) -> None:
    holders: list[str] = []
    with (
        store.lock("vae", KEY),
        store.lock("vae", digest({"a": 2}), holders.append),
        store.lock("prior", KEY, holders.append),
    ):
        assert holders == []


def test_an_unwritable_store_is_the_users_to_mend(tmp_path: Path) -> None:
    """A file stands where the folder should be: that stops root too."""
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    for root in (blocked, blocked / "store"):
        store = Store(root)
        assert store.find("vae", KEY) is None
        with pytest.raises(UserError, match=r"paths\.root=DIR"), store.writing("vae", KEY, {}):
            pytest.fail("the block ran")
        with pytest.raises(UserError, match=r"paths\.root=DIR"), store.lock("vae", KEY):
            pytest.fail("the block ran")


def test_a_full_disk_is_the_users_to_mend(store: Store) -> None:
    import errno

    with pytest.raises(UserError, match="make room"), store.writing("vae", KEY, {}) as folder:
        (folder / "half.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert leftovers(store) == []
    with pytest.raises(FileNotFoundError), store.writing("vae", KEY, {}):
        (store.root / "missing").read_text(encoding="utf-8")


def test_manifest_is_json_for_other_programs(store: Store) -> None:
    assert json.loads((write(store).path / MANIFEST).read_text(encoding="utf-8"))["stage"] == "vae"
