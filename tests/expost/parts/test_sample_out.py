"""What `sample.out` may replace: samples of ours; nothing of anybody else's, and never the images that are read."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, Result, run_here

from expost.base.errors import UserError
from expost.config.schema import Sample
from expost.stages.delivery import check_destination, is_ours

PLAIN: dict[str, Any] = {
    "num": 4,
    "noise": False,
    "prior": "learned",
    "label": None,
    "temperature": 1,
    "top_k": None,
    "top_p": 1,
}


def asked(out: Path, overwrite: bool = False) -> Sample:
    return Sample(**PLAIN, guidance=0, truncation=1, out=out, overwrite=overwrite)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ours.npz`, drawn twice into one name, and a trained model."""
    folder = tmp_path_factory.mktemp("delivered")
    for num in (3, 5):
        assert draw(folder, f"sample.num={num}", "sample.out=ours.npz").code == 0
    return folder


def draw(folder: Path, *words: str) -> Result:
    return run_here(folder, *SMALL, "stage=sample", *words)


def test_samples_of_ours_are_replaced_and_known_by_their_mark(delivered: Path) -> None:
    with np.load(delivered / "ours.npz", allow_pickle=False) as file:
        assert file.files == ["x"] and len(file["x"]) == 5
    assert is_ours(delivered / "ours.npz")
    check_destination(asked(delivered / "ours.npz"), None)


def test_what_only_looks_like_samples_is_not_ours(delivered: Path, tmp_path: Path) -> None:
    x = np.zeros((5, 1, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "same names.npz", x=x)
    np.savez(tmp_path / "more.npz", x=x, label=np.arange(5))
    (tmp_path / "no archive.npz").write_text("years of work", encoding="utf-8")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "link.npz").symlink_to("nowhere")
    (tmp_path / "added.npz").write_bytes((delivered / "ours.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "added.npz", "a") as archive:
        archive.writestr("notes.npy", b"mine")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=r"sample\.overwrite=true"):
            check_destination(asked(path), None)
        check_destination(asked(path, overwrite=True), None)


def test_a_file_of_the_users_stays_and_goes_when_they_say_so(delivered: Path) -> None:
    np.savez(delivered / "mine.npz", x=np.zeros((2, 8, 8)))
    before = (delivered / "mine.npz").read_bytes()
    refused = draw(delivered, "sample.out=mine.npz")
    assert (refused.code, len(refused.lines)) == (2, 1) and "sample.overwrite=true" in refused.err
    assert (delivered / "mine.npz").read_bytes() == before
    assert draw(delivered, "sample.num=5", "sample.out=mine.npz", "sample.overwrite=true").code == 0
    assert (delivered / "mine.npz").read_bytes() == (delivered / "ours.npz").read_bytes()


@pytest.mark.parametrize("name", ["000001.png", "B.PNG", "photo.jpg", "thesis.tex", "inner/"])
def test_a_folder_that_holds_something(tmp_path: Path, name: str) -> None:
    place = tmp_path / "place"
    (place / name).mkdir(parents=True) if name.endswith("/") else place.mkdir()
    if not name.endswith("/"):
        (place / name).touch()
    with pytest.raises(UserError, match="already; empty it"):
        check_destination(asked(place), None)
    check_destination(asked(place, overwrite=True), None)


def test_a_folder_that_only_a_desktop_has_been_in(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).touch()
    check_destination(asked(tmp_path), None)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_images_that_are_read_are_never_written_over(tmp_path: Path, overwrite: bool) -> None:
    file, folder = tmp_path / "x.npz", tmp_path / "images"
    np.savez(file, x=np.zeros((2, 8, 8)))
    (folder / "cats").mkdir(parents=True)
    (folder / "test.npz").touch()
    (tmp_path / "hard.npz").hardlink_to(file)
    (tmp_path / "soft.npz").symlink_to(file)
    (tmp_path / "door").symlink_to(folder)
    dangers = [(file, file), (tmp_path / "hard.npz", file), (tmp_path / "soft.npz", file), (folder, folder)]
    dangers += [(folder / "cats", folder), (folder / "new", folder), (tmp_path / "door" / "test.npz", folder)]
    for place, root in dangers:
        with pytest.raises(UserError, match=r"data\.root"):
            check_destination(asked(place, overwrite), root)
    check_destination(asked(folder / "new.npz", overwrite), folder)
    check_destination(asked(tmp_path / "new", overwrite), folder)


def test_no_file_beside_the_samples_is_touched(delivered: Path) -> None:
    names = [".expost-beside.npz", ".beside.npz.part", ".expost-beside"]
    for name in names:
        (delivered / name).write_text("years of work", encoding="utf-8")
    before = set(delivered.iterdir())
    assert draw(delivered, "sample.num=5", "sample.out=beside.npz").code == 0
    check_destination(asked(delivered / "beside"), None)
    assert [(delivered / name).read_text(encoding="utf-8") for name in names] == ["years of work"] * 3
    assert set(delivered.iterdir()) - before == {delivered / "beside.npz"}
    (delivered / "plain").touch()
    assert (delivered / "beside.npz").stat().st_mode == (delivered / "plain").stat().st_mode, "not as the umask says"


def test_an_ending_in_capitals_names_a_file(delivered: Path) -> None:
    assert draw(delivered, "sample.num=5", "sample.out=UPPER.NPZ").code == 0
    assert (delivered / "UPPER.NPZ").read_bytes() == (delivered / "ours.npz").read_bytes()
    with pytest.raises(UserError, match="neither"):
        check_destination(asked(delivered / "X.PNG"), None)


def test_samples_without_the_mark_are_not_called_somebody_elses(tmp_path: Path) -> None:
    np.savez(tmp_path / "older.npz", x=np.zeros((5, 1, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"does not carry this project's mark; give another name"):
        check_destination(asked(tmp_path / "older.npz"), None)
