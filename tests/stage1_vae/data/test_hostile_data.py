"""Data files that mean harm are refused by name, in one line, with nothing executed and no memory taken."""

from pathlib import Path

import pytest
import torch
from hostile.data import ARCHIVES, HEADERS, IDX, IMAGES, PICTURE_PLACES, PICTURES, archive, honest_picture, idx, member
from hostile.watch import nothing_runs, refused

from stage1_vae.data.arrays import Arrays
from stage1_vae.data.idx import FILES, Idx
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import DataError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", HEADERS)
def test_array_files(tmp_path: Path, name: str) -> None:
    content, match = HEADERS[name]
    (tmp_path / "set.npy").write_bytes(content)
    with refused(rf"set\.npy.*({match})", tmp_path, kind=DataError):
        Arrays(str(tmp_path / "set.npy")).load()


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(tmp_path: Path, name: str) -> None:
    make, match = ARCHIVES[name]
    make(tmp_path / "set.npz")
    with refused(rf"set\.npz.*({match})", tmp_path, kind=DataError):
        Arrays(str(tmp_path / "set.npz")).load()


@pytest.mark.parametrize("name", IDX)
def test_idx_files(tmp_path: Path, name: str) -> None:
    content, match = IDX[name]
    for file in FILES:
        body = idx((20, 8, 8), bytes(1280)) if "images" in file else idx((20,), bytes(20))
        (tmp_path / file).write_bytes(body)
    (tmp_path / FILES[0]).write_bytes(content)
    with refused(rf"{FILES[0]}.*({match})", tmp_path, kind=DataError):
        Idx(str(tmp_path), num_val=5).load()


def _folder(place: Path) -> Path:
    place.mkdir()
    for i in range(20):
        (place / f"{i:02d}.png").write_bytes(honest_picture(i))
    return place


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path: Path, name: str, limit: int) -> None:
    content, match = PICTURES[name]
    folder = _folder(tmp_path / "set")
    (folder / "evil.png").write_bytes(content)
    with refused(rf"evil\.png.*({match})", tmp_path, kind=DataError):
        data = ImageFolder(str(folder), size=8, memory_limit_gib=limit).load()
        for part in (data.train, data.val, data.test):  # those left on the disk are decoded when they are asked for
            part.batch(torch.arange(len(part)))


@pytest.mark.parametrize("name", PICTURE_PLACES)
def test_what_is_no_picture_file(tmp_path: Path, name: str) -> None:
    make, match = PICTURE_PLACES[name]
    folder = _folder(tmp_path / "set")
    make(folder / "evil.png")
    with refused(rf"evil\.png.*({match})", tmp_path, kind=DataError):
        ImageFolder(str(folder)).load()


def test_the_honest_ones_are_loaded(tmp_path: Path) -> None:
    archive(member(IMAGES), member(b"a note", "README"))(tmp_path / "set.npz")
    with nothing_runs(tmp_path):
        assert Arrays(str(tmp_path / "set.npz")).load().shape == (1, 8, 8)
        assert ImageFolder(str(_folder(tmp_path / "set"))).load().shape == (1, 8, 8)
