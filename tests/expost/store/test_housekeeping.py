"""stage=store: the listing, who needs what, collecting, verifying; without data and without torch."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROJECT, run_here

from expost.store.artifacts import Artifact, Store, digest
from expost.store.housekeeping import Inventory

KEYS = {name: digest({"name": name}) for name in ("vae", "latents", "prior", "other", "figures", "lonely", "sample")}


def make(root: Path, stage: str, name: str, run: str | None, **upstream: str) -> Artifact:
    store = Store(root / "store")
    ingredients = {k: KEYS[v] for k, v in upstream.items()}
    with store.lock(stage, KEYS[name]), store.writing(stage, KEYS[name], ingredients, run=run) as folder:
        (folder / "content.bin").write_bytes(name.encode() * 100)
    return Artifact(stage, KEYS[name], root / "store" / stage / KEYS[name])


def report(root: Path, run: str, *names: str) -> None:
    (root / run).mkdir(parents=True)
    (root / run / "report.json").write_text(
        json.dumps({"provenance": {name: KEYS[name] for name in names}}), encoding="utf-8"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two runs on one VAE, of which one is in a sweep; one artifact of a deleted run; one of a run without a report."""
    root = tmp_path / "runs"
    make(root, "vae", "vae", "deleted")
    make(root, "latents", "latents", "deleted", vae="vae")
    make(root, "prior", "prior", "deleted", latents="latents")
    make(root, "prior", "other", "deleted", latents="latents")
    make(root, "evaluation", "figures", "deleted", prior="other")
    make(root, "vae", "lonely", "deleted")
    make(root, "samples", "sample", "no-report", vae="vae")
    report(root, "one", "prior")  # names only the last link: the chain is in the manifests
    report(root, "sweeps/s/0", "figures")
    (root / "no-report").mkdir()
    (root / "latest").symlink_to("one")
    return root


def stage_store(root: Path, *words: str) -> tuple[int, str, str]:
    result = run_here(root.parent, "stage=store", "data.root=nowhere", "data=arrays", *words)
    return result.code, result.out, result.err


def held(root: Path) -> set[str]:
    by_key = {key: name for name, key in KEYS.items()}
    return {by_key[artifact.key] for artifact in Store(root / "store").artifacts()}


def test_who_needs_what(root: Path) -> None:
    needs = {entry.key: entry.runs for entry in Inventory.of(Store(root / "store"), root).artifacts}
    assert {name: needs[key] for name, key in KEYS.items()} == {
        "vae": ["no-report", "one", "sweeps/s/0"],
        "latents": ["one", "sweeps/s/0"],
        "prior": ["one"],
        "other": ["sweeps/s/0"],
        "figures": ["sweeps/s/0"],
        "sample": ["no-report"],
        "lonely": [],
    }


def test_the_listing_shows_all_and_changes_nothing(root: Path) -> None:
    before = sorted(str(path) for path in root.rglob("*"))
    code, out, err = stage_store(root)
    assert (code, err) == (0, "")
    rows = {line.split()[1]: line for line in out.splitlines() if len(line.split()) > 2}
    assert all(key in rows for key in KEYS.values())
    assert rows[KEYS["lonely"]].endswith("no run") and "and 1 more" in rows[KEYS["vae"]]
    assert "7 artifacts" in out and "no run needs 1 of them" in out
    assert before == sorted(str(path) for path in root.rglob("*"))


def test_gc_removes_what_no_run_needs_and_says_so(root: Path) -> None:
    code, out, err = stage_store(root, "store.gc=true")
    assert (code, err) == (0, "")
    assert held(root) == set(KEYS) - {"lonely"}
    assert out.index("removing 1 folders") < out.index(f"vae/{KEYS['lonely']}") < out.index("removed 1; 0 ")
    shutil.rmtree(root / "sweeps")
    assert stage_store(root, "store.gc=true")[0] == 0
    assert held(root) == {"vae", "latents", "prior", "sample"}
    shutil.rmtree(root / "one")
    shutil.rmtree(root / "no-report")
    assert stage_store(root, "store.gc=true")[0] == 0
    assert held(root) == set()
    assert not Store(root / "store").unfinished_folders()


def test_gc_removes_what_the_dead_left_and_refuses_while_someone_lives(root: Path) -> None:
    store = Store(root / "store")
    orphan = store.root / "vae" / f".{digest({'x': 1})}.abcd"
    orphan.mkdir()
    (orphan / "half.bin").write_bytes(b"half")
    key = digest({"x": 2})
    with store.lock("vae", key), store.writing("vae", key, {}) as alive:
        out = stage_store(root)[1]
        assert "unfinished, of a dead process" in out and f"being made by process {os.getpid()} on" in out
        code, out, err = stage_store(root, "store.gc=true")
        assert code == 2 and err.count("\n") == 1
        assert f"vae/{key} is being made by process {os.getpid()} on {socket.gethostname()}" in err
        assert alive.is_dir() and orphan.is_dir() and "lonely" in held(root)
    code, _, err = stage_store(root, "store.gc=true")
    assert (code, err) == (0, "") and not orphan.exists() and store.find("vae", key) is None


def test_gc_refuses_where_it_cannot_know(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "store" / "prior" / KEYS["prior"] / "manifest.json"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1])
    code, out, err = stage_store(root, "store.gc=true")
    assert code == 2 and "store.verify=true first" in err and "manifest.json is damaged" in out
    path.write_bytes(intact)
    (root / "one/broken.json").symlink_to("/proc/self/mem")  # present, and an error to read
    code, out, err = stage_store(root, "store.gc=true")
    assert code == 2 and "broken.json cannot be read" in err
    assert held(root) == set(KEYS)


def test_verify_names_every_damaged_file_and_moves_its_folder_aside(root: Path) -> None:
    code, out, err = stage_store(root, "store.verify=true")
    assert (code, err) == (0, "") and "7 artifacts" in out and ": 0 damaged" in out
    for name, stage in (("vae", "vae"), ("figures", "evaluation")):
        path = root / "store" / stage / KEYS[name] / "content.bin"
        path.write_bytes(b"x" + path.read_bytes()[1:])
    (root / "store/vae" / KEYS["vae"] / "manifest.json").unlink()
    code, out, err = stage_store(root, "store.verify=true", "store.gc=true")
    assert code == 2 and err.startswith("error: 2 of 7 artifacts are damaged: ") and err.count("\n") == 1
    assert f"vae/{KEYS['vae']}/manifest.json" in out and f"evaluation/{KEYS['figures']}/content.bin" in out
    assert len(Store(root / "store").quarantined_folders()) == 2
    assert held(root) == set(KEYS) - {"vae", "figures"}, "nothing is collected where something was damaged"


def test_verify_leaves_alone_what_is_kept_of_a_stage_at_work(root: Path) -> None:
    store, key = Store(root / "store"), digest({"x": 3})
    folder = store.resume_folder("vae", key)
    folder.mkdir(parents=True)
    (folder / f"epoch-1-of-9.{64 * '0'}.ckpt").write_bytes(b"replaced between its listing and its reading")
    with store.lock("vae", key):
        code, _, err = stage_store(root, "store.verify=true")
    assert (code, err) == (0, "") and folder.is_dir() and not store.quarantined_folders()
    code, _, err = stage_store(root, "store.verify=true")
    assert code == 2 and f"what is kept of vae/{key}" in err and not folder.exists()


def test_quarantine_goes_when_its_content_is_back(root: Path) -> None:
    store = Store(root / "store")
    for name, stage in (("vae", "vae"), ("figures", "evaluation")):
        (store.root / stage / KEYS[name] / "content.bin").write_bytes(b"")
        assert store.find(stage, KEYS[name]) is None
    make(root, "vae", "vae", "one")
    assert stage_store(root, "store.gc=true")[0] == 0
    (left,) = store.quarantined_folders()
    assert left.name.startswith(f"evaluation-{KEYS['figures']}"), "what is nowhere else stays"


def test_no_store_is_one_line(tmp_path: Path) -> None:
    result = run_here(tmp_path, "stage=store")
    assert result.code == 2 and result.lines == [
        "error: there is no store in runs; make one with python pipeline.py, or set paths.root=DIR"
    ]
    assert not list(tmp_path.iterdir())


def test_it_needs_no_torch(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(PROJECT / "pipeline.py"), "stage=store"],
        cwd=root.parent,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "7 artifacts" in done.stdout
    assert "hydra" in imported and not imported & {"torch", "pytorch_lightning", "wandb"}
