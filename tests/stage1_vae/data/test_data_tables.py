"""Pictures in Parquet tables: splits by shards, classes by the metadata, in memory and where they lie."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from image_files import everything, refusal, sizes
from layouts.array_files import encode, write_parquet
from pyarrow import parquet

from stage1_vae.data.arrays import Arrays
from stage1_vae.data.folders.files import Files
from stage1_vae.data.image_folder import ImageFolder

X = np.random.default_rng(0).integers(0, 256, (60, 10, 10), dtype=np.uint8)
Y = (np.arange(60) % 3).tolist()
NAMES = ["frog", "cat", "ape"]
PICTURES = encode(X)


def shards(folder: Path) -> Path:
    """40 training images in two shards, 20 test images."""
    for i in range(2):
        rows = slice(20 * i, 20 * i + 20)
        path = folder / "data" / f"train-0000{i}-of-00002-a09b74.parquet"
        write_parquet(path, PICTURES[rows], Y[rows], NAMES, row_group_size=7)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", PICTURES[40:], Y[40:], NAMES)
    return folder


@pytest.mark.parametrize("limit", [2.0, 1e-5, 0.0], ids=["in memory", "decoded", "on the disk"])
def test_shards_of_the_hub(tmp_path: Path, limit: float) -> None:
    data = ImageFolder(str(shards(tmp_path)), memory_limit_gib=limit).load()
    assert sizes(data) == (36, 4, 20) and data.class_names == ("frog", "cat", "ape") and data.shape == (1, 10, 10)
    assert isinstance(data.train, Files) == (limit == 0)
    assert any("slow" in words for words in data.guesses) == (limit < 1)
    numbers = {image.tobytes(): label for image, label in zip(X, Y, strict=True)}
    for part, num in ((data.train, 36), (data.test, 20)):
        images = everything(part)
        assert [numbers[image.numpy().tobytes()] for image in images] == part.labels.tolist()
        assert len({image.numpy().tobytes() for image in images}) == num
    reference = ImageFolder(str(tmp_path)).load()
    assert torch.equal(everything(data.val), everything(reference.val)) and data.fingerprint == reference.fingerprint


def test_a_set_on_the_disk_is_read_by_other_processes_and_watched(tmp_path: Path) -> None:
    data = ImageFolder(str(shards(tmp_path)), memory_limit_gib=0).load()
    index = torch.tensor([5, 1, 5])
    assert torch.equal(pickle.loads(pickle.dumps(data.train)).batch(index), data.train.batch(index))
    data.check_unchanged()
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", PICTURES[39:])
    refusal(data.check_unchanged, "has changed")


def test_one_file_is_cut_three_ways(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "0000.parquet", PICTURES)
    for root in (path, tmp_path):
        data = ImageFolder(str(root)).load()
        assert sizes(data) == (42, 6, 12) and not data.class_names
    refusal(lambda: Arrays(str(path)).load(), "0000.parquet", "data=image_folder")


def test_folders_called_as_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "default/train/0000.parquet", PICTURES[:40], Y[:40])
    write_parquet(tmp_path / "default/test/0000.parquet", PICTURES[40:], [-1] * 20)
    data = ImageFolder(str(tmp_path)).load()
    assert sizes(data) == (36, 4, 20) and data.class_names == ("0", "1", "2") and data.test.labels is None
    assert any("labels of test" in words for words in data.left_out)
    assert ImageFolder(str(tmp_path), classes="none").load().class_names == ()
    assert sizes(ImageFolder(str(tmp_path), splits="none").load()) != sizes(data)
    write_parquet(tmp_path / "large/train/0000.parquet", PICTURES[:40], Y[:40])
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "several folders", f"data.root={tmp_path / 'default'}")


def test_shards_that_are_not_there_are_told(tmp_path: Path) -> None:
    (shards(tmp_path) / "data" / "train-00001-of-00002-a09b74.parquet").unlink()
    assert "1 of 2 shards of train, which are not there" in ImageFolder(str(tmp_path)).load().left_out


def test_columns_by_name(tmp_path: Path) -> None:
    table = pa.table({"photo": encode(255 - X), "img": PICTURES, "fine": Y, "kind": ["a", "b"] * 30})
    parquet.write_table(table, tmp_path / "set.parquet")
    plain = ImageFolder(str(tmp_path)).load()
    assert not plain.class_names
    data = ImageFolder(str(tmp_path), x="photo", label="kind").load()
    assert data.class_names == ("a", "b") and torch.equal(everything(data.train), 255 - everything(plain.train))
    refusal(lambda: ImageFolder(str(tmp_path), x="kind").load(), "data.x=kind", "pictures in photo, img")
    refusal(lambda: ImageFolder(str(tmp_path), label="colour").load(), "data.label=colour", "fine, kind")


def test_what_is_no_table_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.parquet"
    parquet.write_table(pa.table({"a": [1.0] * 20, "b": ["x"] * 20}), path)
    refusal(lambda: ImageFolder(str(path)).load(), "without pictures", "a, b", "data=vectors")
    write_parquet(path, [*PICTURES[:19], None])
    refusal(lambda: ImageFolder(str(path)).load(), "set.parquet, row 19", "embed")
    write_parquet(path, [*PICTURES[:19], b"no picture"])
    refusal(lambda: ImageFolder(str(path)).load(), "set.parquet, row 19", "not an image")
    write_parquet(path, [bytes(2**25)] * 20, compression="zstd")
    refusal(lambda: ImageFolder(str(path)).load(), "promises")
    path.write_bytes(write_parquet(path, PICTURES).read_bytes()[:-100])
    refusal(lambda: ImageFolder(str(path)).load(), "cannot be read as a Parquet table")
    write_parquet(path, PICTURES)
    refusal(lambda: ImageFolder(str(path), x="image", memory_limit_gib=-1).load(), "data.memory_limit_gib")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    refusal(lambda: ImageFolder(str(path)).load(), "pyarrow", "pip install 'expost[formats]'")
