"""Caches of one file an image: all draws of an image are in one split, and none is lost."""

from pathlib import Path

import numpy as np
import pytest

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.data import LatentData
from stage1_vae.data.latents.source import Latents

RNG = np.random.default_rng(0)
NUM, CROPS = 24, 10
MOMENTS = RNG.normal(size=(NUM, 2, 8, 4, 4)).astype(np.float32)
CODES = RNG.integers(0, 300, (NUM, 1, CROPS, 9))


@pytest.fixture
def moments(tmp_path: Path) -> Path:
    for i, (plain, flip) in enumerate(MOMENTS):
        folder = tmp_path / f"n0144{i % 3}"
        folder.mkdir(exist_ok=True)
        np.savez(folder / f"{i}.JPEG.npz", moments=plain, moments_flip=flip)
    return tmp_path


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    for i, crops in enumerate(CODES):
        for name, array in (("imagenet256_codes", crops), ("imagenet256_labels", np.array([i % 3 + 5]))):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / f"{i}.npy", array)
    return tmp_path


def load(root: Path, layout: str = "auto", label: bool | None = None) -> LatentData:
    return Latents(str(root), layout, label=label).load()


def test_moments_of_an_image_and_of_its_mirrored_copy(moments: Path) -> None:
    data = load(moments)
    assert data.spec.shape == (4, 4, 4) and data.train.family == "diagonal_normal"
    assert data.class_names == ("n01440", "n01441", "n01442")
    image = {draw[:4].tobytes(): (i, flip) for i, draws in enumerate(MOMENTS) for flip, draw in enumerate(draws)}
    numbers = []
    for part in data.splits.values():
        loc, log_std = (np.asarray(part.params[name][np.arange(len(part))]) for name in ("loc", "log_std"))
        draws = [image[row.tobytes()] for row in loc]
        images = {i for i, _ in draws}
        assert set(draws) == {(i, flip) for i in images for flip in range(2)} and len(draws) == 2 * len(images)
        for (i, flip), row in zip(draws, log_std, strict=True):
            np.testing.assert_array_equal(row, MOMENTS[i, flip, 4:] / 2)
        assert part.labels.tolist() == [i % 3 for i, _ in draws]
        numbers += sorted(images)
    assert sorted(numbers) == list(range(NUM)) and "two draws" in data.guesses[0]
    assert (data.style.name, data.style.shape, data.style.suffix) == ("latents", (4, 4, 4), ".npz")
    assert load(moments, "moments_npz").fingerprint == data.fingerprint
    assert load(moments, label=False).num_classes == 0


def test_moments_in_split_folders(tmp_path: Path) -> None:
    for i, (plain, flip) in enumerate(MOMENTS):
        split = "train" if i < 16 else "val"
        (tmp_path / split).mkdir(exist_ok=True)
        np.savez(tmp_path / split / f"{i}.npz", moments=plain, moments_flip=flip)
    data = load(tmp_path)
    assert [len(part) for part in data.splits.values()] == [26, 16, 6]
    assert "test cut from train (data.test_fraction)" in data.guesses
    np.testing.assert_array_equal(data.val.params["loc"][:], MOMENTS[16:, :, :4].reshape(16, 4, 4, 4))


@pytest.mark.parametrize("below", ["", "imagenet256_codes"])
def test_crops_are_draws_of_one_image(codes: Path, below: str) -> None:
    data = load(codes / below)
    assert data.spec.grids == ((1, 9),) and data.class_names == ("5", "6", "7")
    image = {crop.tobytes(): i for i, crops in enumerate(CODES) for crop in crops[0]}
    numbers = []
    for part in data.splits.values():
        rows = np.asarray(part.params["codes"][np.arange(len(part))]).astype(np.int64)
        images = [image[row.tobytes()] for row in rows]
        assert all(images.count(i) == CROPS for i in images)
        assert part.labels.tolist() == [i % 3 for i in images]
        numbers += sorted(set(images))
    assert sorted(numbers) == list(range(NUM)) and "10 crops" in data.guesses[0]
    assert load(codes, "code_crops", label=False).num_classes == 0


def refusal(root: Path, *words: str, layout: str = "auto") -> None:
    with pytest.raises(DataError) as raised:
        load(root, layout)
    message = str(raised.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_an_image_that_is_not_as_the_first(moments: Path) -> None:
    odd = moments / "n01441" / "7.JPEG.npz"
    for arrays, words in (
        ({"moments": MOMENTS[7, 0]}, ["7.JPEG.npz has no moments_flip", "it holds moments"]),
        ({"moments": MOMENTS[7, 0], "moments_flip": MOMENTS[7, 1, :4]}, ["of different shapes"]),
        ({"moments": MOMENTS[7, 0, :4], "moments_flip": MOMENTS[7, 1, :4]}, ["(2, 4, 4, 4)", "save all images alike"]),
        ({"moments": MOMENTS[7, 0] * np.nan, "moments_flip": MOMENTS[7, 1]}, ["7.JPEG.npz (moments) holds nan"]),
    ):
        np.savez(odd, **arrays)
        refusal(moments, *words)
    odd.write_bytes(b"no archive")
    refusal(moments, "7.JPEG.npz cannot be read", "save it again")


def test_codes_that_are_not_as_the_first(codes: Path) -> None:
    (codes / "imagenet256_labels" / "7.npy").unlink()
    refusal(codes, "7.npy", "No such file")
    np.save(codes / "imagenet256_labels" / "7.npy", np.zeros(2, int))
    refusal(codes, "7.npy holds int64 (2,)", "data.label=false")
    np.save(codes / "imagenet256_labels" / "7.npy", np.zeros(1, int))
    np.save(codes / "imagenet256_codes" / "7.npy", CODES[7, :, :9])
    refusal(codes, "7.npy holds int64 (9, 9)", "0.npy int64 (10, 9)")
    np.save(codes / "imagenet256_codes" / "7.npy", -CODES[7] - 1)
    refusal(codes, "7.npy: crop 0 holds -", "count from 0")


def test_a_layout_that_is_not_there(moments: Path, tmp_path: Path) -> None:
    refusal(moments, "no .npy files of codes", "data.layout=arrays", layout="code_crops")
    (tmp_path / "empty").mkdir()
    refusal(tmp_path / "empty", "no .npz file of moments", layout="moments_npz")
    with pytest.raises(DataError, match=r"data\.loc=mu: data\.layout=moments_npz has its own names"):
        Latents(str(moments), loc="mu").load()
    with pytest.raises(DataError, match=r"data\.groups=g: files of one image are groups already"):
        Latents(str(moments), groups="g").load()


def test_files_that_are_written_otherwise_hold_the_same(moments: Path, codes: Path) -> None:
    before = [load(moments, "moments_npz").fingerprint, load(codes).fingerprint]
    np.savez_compressed(moments / "n01441" / "7.JPEG.npz", moments=MOMENTS[7, 0], moments_flip=MOMENTS[7, 1])
    np.savez(moments / "n01442" / "8.JPEG.npz", moments_flip=MOMENTS[8, 1], moments=MOMENTS[8, 0], more=np.zeros(3))
    np.save(codes / "imagenet256_codes" / "9.npy", np.asfortranarray(CODES[9]))
    assert [load(moments, "moments_npz").fingerprint, load(codes).fingerprint] == before
