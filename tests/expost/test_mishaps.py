"""What happens to a run's files behind its back: one line and exit code 2, or it goes on; nothing is lost."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, Result, run_here
from PIL import Image
from sklearn.datasets import load_digits

from expost import job as stages
from expost.evaluation.images import features
from expost.stages import vae
from expost.store import manifest
from expost.store.artifacts import Store, digest
from stage1_vae.data.arrays import Arrays
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import DataError, fingerprint
from stage1_vae.data.watched import Watched

KEY = digest({"a": 1})
LATER = ("latents", "prior", "features", "evaluation")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def stored(root: Path) -> tuple[Store, Path]:
    store = Store(root)
    with store.writing("latents", KEY, {"a": 1}) as folder:
        (folder / "train").mkdir()
        (folder / "train" / "loc.npy").write_bytes(b"numbers")
    return store, root / "latents" / KEY


@pytest.mark.parametrize(
    "name",
    [
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "train/._loc.npy",
        ".nfs0001",
        "note.txt",
        "@eaDir/loc.npy/x.png",
        "train/@eaDir/loc.npy@SynoEAStream",
        "new/loc.npy",
        "conflict copy",
    ],
)
def test_what_desktops_and_people_leave_in_an_artifact_does_no_harm(tmp_path: Path, name: str) -> None:
    store, folder = stored(tmp_path)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    messages: list[str] = []
    assert store.find("latents", KEY, messages.append) is not None and messages == [] and (folder / name).is_file()


@pytest.mark.parametrize("name", ["train/labels.npy", "extra.json", "loc (1).npy"])
def test_a_stranger_that_a_stage_could_read_is_moved_aside_alone(tmp_path: Path, name: str) -> None:
    store, folder = stored(tmp_path)
    (folder / name).write_bytes(b"planted")
    messages: list[str] = []
    assert store.find("latents", KEY, messages.append) is not None
    assert len(messages) == 1 and name in messages[0] and not (folder / name).exists()
    (aside,) = store.quarantined_folders()
    assert (aside / name).read_bytes() == b"planted" and list(manifest.damaged_files(folder)) == []


def test_litter_of_a_desktop_is_not_sealed_in(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("vae", KEY, {"a": 1}) as folder:
        for name in ("model.bin", ".DS_Store", "Thumbs.db"):
            (folder / name).write_bytes(b"x")
    (tmp_path / "vae" / KEY / ".DS_Store").unlink()
    assert store.find("vae", KEY) is not None


def test_beside_artifacts_it_does_no_harm_either(tmp_path: Path) -> None:
    store, _ = stored(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "@eaDir/x", "latents/@eaDir/x", "latents/desktop.ini", "latents/._x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [artifact.stage for artifact in store.artifacts()] == ["latents"] and store.unfinished_folders() == []


def test_damage_is_named_where_it_is_found(tmp_path: Path) -> None:
    store, folder = stored(tmp_path)
    (folder / "train" / "loc.npy").write_bytes(b"numberz")
    messages: list[str] = []
    assert store.find("latents", KEY, messages.append) is None
    (aside,) = store.quarantined_folders()
    assert len(messages) == 1 and "train/loc.npy is damaged" in messages[0] and str(aside) in messages[0]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644)])
def test_the_store_honours_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    def private(path: str, flags: int) -> int:
        return os.open(path, flags, 0o600)

    with umask(mask):
        store = Store(tmp_path / "store")
        with store.writing("vae", KEY, {"a": 1}) as folder:
            (folder / "deep").mkdir()
            for name in ("open.json", "deep/open.json"):
                (folder / name).touch()
            with open(folder / "private.safetensors", "wb", opener=private):
                pass
    for path in (tmp_path / "store/vae" / KEY).rglob("*"):
        assert path.stat().st_mode & 0o777 == (mode if path.is_file() else 0o777 & ~mask), path


def small(folder: Path, *words: str) -> Result:
    return run_here(folder, *SMALL, *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert small(folder).code == 0
    return folder


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_latest_that_is_no_link_stays_and_the_run_is_whole(finished: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs", symlinks=True)
    latest = tmp_path / "runs/latest"
    latest.unlink()
    latest.mkdir() if kind == "folder" else latest.touch()
    precious = latest / "mine.txt" if kind == "folder" else latest
    precious.write_text("precious", encoding="utf-8")
    done = small(tmp_path, "stage=report", "name=again")
    assert (done.code, done.err) == (0, "") and done.stages("is no link") == ["latest"]
    assert precious.read_text(encoding="utf-8") == "precious"
    assert len(list((tmp_path / "runs").glob("*-again/report.html"))) == 1


def test_a_disk_without_links(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    shutil.copytree(finished / "runs/store", tmp_path / "runs/store")
    done = small(tmp_path, "stage=report")
    assert (done.code, done.err) == (0, "") and done.stages("knows no links") == ["latest"]


def remove_root(folder: Path) -> None:
    shutil.rmtree(folder / "runs")


def replace_root(folder: Path) -> None:
    remove_root(folder)
    (folder / "runs").write_text("a file", encoding="utf-8")


def remove_inputs(folder: Path) -> None:
    for stage in ("vae", "latents", "prior"):
        shutil.rmtree(folder / "runs/store" / stage, ignore_errors=True)


@pytest.mark.parametrize("mishap", [remove_root, replace_root, remove_inputs])
@pytest.mark.parametrize("stage", LATER)
def test_what_vanishes_under_a_stage_is_one_line(
    finished: Path, tmp_path: Path, stage: str, mishap: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if mishap is remove_inputs and stage == "features":
        pytest.skip("it reads none")
    shutil.copytree(finished / "runs/store", tmp_path / "runs/store")
    for later in LATER[LATER.index(stage) :]:
        shutil.rmtree(tmp_path / "runs/store" / later)
    held = Store.writing

    def writing(store: Store, at: str, *words: Any, **named: Any) -> object:
        if at == stage:
            mishap(tmp_path)
            if mishap is not remove_inputs:
                monkeypatch.undo()
        return held(store, at, *words, **named)

    monkeypatch.setattr(stages.Store, "writing", writing)
    done = small(tmp_path)
    assert done.code == 2, done.err
    assert (len(done.lines) == 1 and "repeat the command" in done.err) or "paths.root" in done.err, done.err
    assert "Traceback" not in done.err


def test_images_that_change_on_disk_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    data = Arrays(str(path), memory_limit_gib=0).load()
    data.check_unchanged()
    mapped = np.lib.format.open_memmap(path, "r+")
    mapped[:] = 255 - mapped
    mapped.flush()
    with pytest.raises(DataError, match=r"x\.npy has changed while it was read"):
        data.check_unchanged()
    path.unlink()
    with pytest.raises(DataError, match="put it back"):
        data.check_unchanged()


def test_a_change_between_the_first_look_and_the_last_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"x")
    now = (tmp_path / "x.npy").stat().st_mtime_ns
    Watched([tmp_path / "x.npy"], now).check()
    with pytest.raises(DataError, match="has changed while it was read"):
        Watched([tmp_path / "x.npy"], now - 1)


def test_images_that_are_in_memory_may_change(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    data = Arrays(str(tmp_path / "x.npy")).load()
    (tmp_path / "x.npy").unlink()
    data.check_unchanged()


@pytest.mark.parametrize("change", ["edited", "removed", "replaced"])
def test_one_changed_picture_of_a_folder_is_noticed(tmp_path: Path, change: str) -> None:
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / f"{i:02d}.png")
    data = ImageFolder(str(tmp_path), memory_limit_gib=0).load()
    data.check_unchanged()
    picture = tmp_path / "07.png"
    if change == "edited":
        Image.new("L", (8, 8), 3).save(picture)
    elif change == "removed":
        picture.unlink()
    else:
        os.replace(tmp_path / "08.png", picture)
    with pytest.raises(DataError, match=r"0[78]\.png"):
        data.check_unchanged()


def test_a_vae_of_images_that_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    trained = vae.train

    def spoilt(*words: Any, **named: Any) -> object:
        history = trained(*words, **named)
        np.save(tmp_path / "x.npy", np.zeros((60, 8, 8), np.uint8) + 9)
        return history

    monkeypatch.setattr(vae, "train", spoilt)
    words = ("data=arrays", f"data.root={tmp_path / 'x.npy'}", "data.memory_limit_gib=0", "stage=vae")
    done = small(tmp_path, *words)
    assert done.code == 2 and len(done.lines) == 1 and "has changed while it was read" in done.err
    assert not list((tmp_path / "runs/store/vae").iterdir())


def test_names_with_bytes_that_are_no_text_have_a_fingerprint() -> None:
    assert fingerprint(("caf\udce9",)) != fingerprint(("caf",))
    assert fingerprint(("café",)) == fingerprint(("café".encode().decode(),))


def test_the_feature_net_does_not_depend_on_the_number_of_threads() -> None:
    images, labels = torch.rand(200, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 4
    before, nets = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            nets.append(features.make_feature_net(images, labels, 4, 0, "cpu").state_dict())
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(value, other[name]) for other in nets[1:] for name, value in nets[0].items())


def test_a_folder_named_in_another_encoding_goes_through(tmp_path: Path) -> None:
    root = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(root)
    for i, image in enumerate(load_digits().images[:60]):
        Image.fromarray((image * 15).astype(np.uint8)).save(os.path.join(os.fsdecode(root), f"{i}.png"))
    done = small(tmp_path, "data=image_folder", f"data.root='{os.fsdecode(root)}'")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
