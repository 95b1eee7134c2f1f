"""Images to be scored are read in their order, with their names, as the images of the model were, or refused."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stage1_vae.data.arrays import Arrays
from stage1_vae.data.digits import Digits
from stage1_vae.data.given.images import read_given_images
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory
from stage1_vae.data.splits import split_rows
from stage1_vae.data.vectors import Vectors

GREY, COLOUR = (1, 8, 6), (3, 8, 6)
RNG = np.random.default_rng(0)


def like(shape: tuple[int, int, int] = GREY, levels: int | None = 256, domain: Domain = Domain.UNIT) -> ImageData:
    """Images of a model: none of their pixels matter."""
    none = InMemory(torch.zeros(2, *shape, dtype=torch.float32 if levels is None else torch.uint8))
    return ImageData("model", none, none, none, fingerprint="", shape=shape, levels=levels, domain=domain)


def pixels(num: int, shape: tuple[int, ...] = GREY, high: int = 256) -> np.ndarray:
    return RNG.integers(0, high, (num, *shape)).astype(np.uint8)


def all_of(images: ImageSet) -> np.ndarray:
    return images.batch(torch.arange(len(images))).numpy()


@pytest.mark.parametrize("source", [Digits(), Arrays(root=None), ImageFolder(root=None)])
def test_an_array_file_is_read_by_what_it_is_whatever_read_the_training_images(tmp_path: Path, source: object) -> None:
    x = pixels(3)
    np.savez(tmp_path / "new.npz", x=x[:, 0], label=[0, 1, 2])
    given = read_given_images(source, str(tmp_path / "new.npz"), like())
    assert (all_of(given.images) == x).all()
    assert [given.place(row) for row in range(3)] == [("new.npz", row) for row in range(3)]
    assert given.images.labels is None and given.value_range == (x.min(), x.max())


def test_splits_of_a_file_follow_each_other(tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", x_train=pixels(3), x_test=pixels(2))
    given = read_given_images(Digits(), str(tmp_path / "new.npz"), like())
    assert [given.place(row) for row in (0, 2, 3, 4)] == [
        ("new.npz (train)", 0),
        ("new.npz (train)", 2),
        ("new.npz (test)", 0),
        ("new.npz (test)", 1),
    ]


@pytest.mark.parametrize(("shape", "of_file"), [(GREY, (8, 6)), (GREY, GREY), (COLOUR, COLOUR), (COLOUR, (8, 6, 3))])
def test_one_image_needs_no_axis_that_counts(
    tmp_path: Path, shape: tuple[int, int, int], of_file: tuple[int, ...]
) -> None:
    x = pixels(1, of_file)[0]
    np.save(tmp_path / "one.npy", x)
    given = read_given_images(Digits(), str(tmp_path / "one.npy"), like(shape))
    expected = x.transpose(2, 0, 1) if of_file == (8, 6, 3) else x.reshape(shape)
    assert (all_of(given.images)[0] == expected).all()


def test_what_is_on_the_disk_stays_there(tmp_path: Path) -> None:
    x = pixels(5)
    np.save(tmp_path / "new.npy", x)
    given = read_given_images(Arrays(root="elsewhere", memory_limit_gib=0), str(tmp_path / "new.npy"), like())
    assert not isinstance(given.images, InMemory) and (all_of(given.images) == x).all()
    np.save(tmp_path / "new.npy", pixels(5))
    with pytest.raises(DataError, match="has changed"):
        given.check_unchanged()


def test_floats_are_scaled_by_the_range_of_the_run_and_may_be_black(tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", np.full((2, 8, 6), -1, np.float32))
    given = read_given_images(Arrays(root=None, range=(-1, 1)), str(tmp_path / "new.npy"), like(levels=None))
    assert (all_of(given.images) == 0).all()


def write_pictures(folder: Path) -> dict[str, np.ndarray]:
    """Name -> what it holds."""
    named = {'b, "2".png': pixels(1)[0, 0], "a.png": pixels(1)[0, 0], "sub/c.png": pixels(1)[0, 0]}
    (folder / "sub").mkdir(parents=True)
    for name, values in named.items():
        Image.fromarray(values).save(folder / name)
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return named


def test_pictures_of_a_folder_keep_their_names_and_have_no_splits(tmp_path: Path) -> None:
    named = write_pictures(tmp_path / "new")
    given = read_given_images(Digits(), str(tmp_path / "new"), like())
    places = [given.place(row) for row in range(len(given.images))]
    assert sorted(places) == sorted((name, 0) for name in named)
    for (name, _), image in zip(places, all_of(given.images), strict=True):
        assert (image[0] == named[name]).all()
    assert given.left_out == ("1 .txt file (no images)",)
    one = read_given_images(Digits(), str(tmp_path / "new/a.png"), like())
    assert one.place(0) == ("a.png", 0) and len(one.images) == 1


def test_pages_of_a_stack_are_numbered(tmp_path: Path) -> None:
    x = pixels(3)
    first, *others = (Image.fromarray(page) for page in x[:, 0])
    first.save(tmp_path / "stack.tif", save_all=True, append_images=others)
    given = read_given_images(ImageFolder(root=None), str(tmp_path / "stack.tif"), like())
    assert (all_of(given.images) == x).all() and given.place(2) == ("stack.tif", 2)


def test_pictures_of_another_size_follow_the_run_where_it_scales(tmp_path: Path) -> None:
    Image.fromarray(pixels(1, (16, 12))[0]).save(tmp_path / "large.png")
    given = read_given_images(ImageFolder(root=None), str(tmp_path), like())
    assert all_of(given.images).shape == (1, *GREY) and given.guesses == ("1 scaled to 8x6 and cut about the centre",)
    with pytest.raises(DataError, match=r"large\.png is 16x12 .* of 8x6: bring it to that size"):
        read_given_images(Digits(), str(tmp_path), like())


def test_idx_files_are_known_by_their_content(tmp_path: Path) -> None:
    x = pixels(4)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (4, 8, 6))
    (tmp_path / "some-images").write_bytes(header + x.tobytes())
    (tmp_path / "packed").write_bytes(gzip.compress(header + x.tobytes()))
    for name in ("some-images", "packed"):
        given = read_given_images(Digits(), str(tmp_path / name), like())
        assert (all_of(given.images) == x).all() and given.place(3) == (name, 3)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    x = pixels(3)
    for name, values in {"a": x, "b": x, "c": x[::-1]}.items():
        np.save(tmp_path / f"{name}.npy", values)
    prints = [read_given_images(Digits(), str(tmp_path / f"{name}.npy"), like()).fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


REFUSED = {
    "shape": (pixels(3, (1, 9, 6)), like(), "holds images of 1x9x6, and this model is of 1x8x6"),
    "channels": (pixels(3, COLOUR), like(), "3x8x6, and this model is of 1x8x6"),
    "levels": (
        pixels(3),
        like(levels=17),
        "holds values up to 25., and this model is of images of 17 levels: save them",
    ),
    "floats": (pixels(3) / 255, like(), "holds float64, and this model is of images of 256 levels: save them as uint8"),
    "bytes": (pixels(3), like(levels=None), r"holds uint8, and this model is of floats in \[0, 1\]"),
    "real": (pixels(3), like(levels=None, domain=Domain.REAL), "holds uint8, and this model is of real numbers"),
    "range": (np.full((2, 8, 6), 2.0), like(levels=None), "from 2 to 2, and this model is of values from 0 to 1"),
    "nan": (np.full((2, 8, 6), np.nan), like(levels=None), "holds NaN"),
    "none": (pixels(0), like(), "holds no image"),
    "axes": (pixels(2, (2, 2, 2, 2)), like(), "has shape"),
    "objects": (np.array([None, 1]), like(), "Python objects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_that_the_model_cannot_score_are_refused(tmp_path: Path, name: str) -> None:
    x, model, words = REFUSED[name]
    np.save(tmp_path / "new.npy", x)
    with pytest.raises(DataError, match=words):
        read_given_images(Digits(), str(tmp_path / "new.npy"), model)


@pytest.mark.parametrize(
    ("mode", "model", "words"),
    [
        ("RGB", like(), "is RGB, and this model is of grey images: convert it"),
        ("L", like(COLOUR), "is grey, and this model is of RGB images"),
        ("L", like(levels=None), "pictures of 256 levels, and this model is of floats"),
        ("L", like((2, 8, 6)), "pictures have 1, 3 or 4 channels, and this model 2"),
        ("L", like(levels=3), "a.png holds values up to .* 3 levels"),
    ],
)
def test_pictures_that_the_model_cannot_score_are_refused(
    tmp_path: Path, mode: str, model: ImageData, words: str
) -> None:
    Image.fromarray(pixels(1, (8, 6))[0]).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=words):
        read_given_images(Digits(), str(tmp_path / "a.png"), model)


def test_nothing_and_what_is_damaged_are_refused_by_the_key_that_named_them(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.xyz").write_bytes(b"nothing of the kind")
    for name, words in {
        "gone": "score.root=.*gone does not exist",
        "empty": "is empty: give a file or folder of images",
        "a.png": "cannot be read as an image",
        "b.xyz": "is neither .npy nor .npz",
    }.items():
        with pytest.raises(DataError, match=words) as refusal:
            read_given_images(Digits(), str(tmp_path / name), like())
        assert "data.root" not in str(refusal.value)


def test_vectors_are_measured_in_the_units_of_the_training_rows(tmp_path: Path) -> None:
    x = RNG.normal(5, 3, (40, 6)).astype(np.float32)
    np.save(tmp_path / "rows.npy", x)
    np.save(tmp_path / "one.npy", x[0])
    np.save(tmp_path / "new.npy", x[:3])
    source = Vectors(str(tmp_path / "rows.npy"))
    model, train = source.load(), x[split_rows(len(x), 0.1, 0.2)["train"]]
    given = read_given_images(source, str(tmp_path / "new.npy"), model)
    assert all_of(given.images)[:, 0, 0] == pytest.approx((x[:3] - train.mean(0)) / train.std(0), abs=1e-5)
    one = read_given_images(source, str(tmp_path / "one.npy"), model)
    assert all_of(one.images) == pytest.approx(all_of(given.images)[:1])
    np.save(tmp_path / "new.npy", x[:3, :5])
    with pytest.raises(DataError, match="holds images of 1x1x5, and this model is of 1x1x6"):
        read_given_images(source, str(tmp_path / "new.npy"), model)
