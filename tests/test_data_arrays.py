"""Images in NumPy files."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stage1_vae.data.arrays import Arrays, Mapped
from stage1_vae.data.images import DataError, Domain, ImageSet

RNG = np.random.default_rng(1)


def refusal(call, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def saved(folder: Path, images: np.ndarray, **more: np.ndarray) -> str:
    path = folder / ("set.npz" if more else "set.npy")
    if more:
        np.savez(path, x=images, **more)
    else:
        np.save(path, images)
    return str(path)


def everything(images: ImageSet) -> torch.Tensor:
    return images.batch(torch.arange(len(images)))


def rows_of(images: torch.Tensor) -> list[bytes]:
    return sorted(image.contiguous().numpy().tobytes() for image in images)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((30, 5, 9), (1, 5, 9)),
        ((30, 1, 5, 9), (1, 5, 9)),
        ((30, 3, 5, 9), (3, 5, 9)),
        ((30, 5, 9, 3), (3, 5, 9)),
        ((30, 5, 9, 4), (4, 5, 9)),
        ((30, 4, 4, 1), (1, 4, 4)),  # an axis of size 1 is the channel
        ((30, 3, 5, 3), (3, 5, 3)),  # both ends qualify: channels-first
    ],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]):
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    data = Arrays(saved(tmp_path, images)).load()
    assert data.shape == expected and data.levels == 256 and data.num_classes == 0 and data.class_names == ()
    last = len(shape) == 4 and shape[1] != expected[0]
    truth = images.transpose(0, 3, 1, 2) if last else images.reshape(30, *expected)
    found = torch.cat([everything(part) for part in (data.train, data.val, data.test)])
    assert rows_of(found) == rows_of(torch.tensor(np.ascontiguousarray(truth)))
    assert data.train.labels is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats(tmp_path: Path, dtype: object):
    images = RNG.random((30, 4, 6)).astype(dtype)
    data = Arrays(saved(tmp_path, images)).load()
    assert data.levels is None and data.domain is Domain.UNIT
    found = everything(data.train)
    assert found.dtype == torch.float32
    known = {row.tobytes() for row in images.astype(np.float32)}
    assert all(row.numpy().tobytes() in known for row in found)


def test_labels_travel_with_their_images(tmp_path: Path):
    labels = np.arange(30) % 3
    images = np.broadcast_to((labels * 50 + 7)[:, None, None], (30, 4, 6)).astype(np.uint8)
    data = Arrays(saved(tmp_path, images, label=labels.astype(np.uint16))).load()
    assert data.num_classes == 3 and data.class_names == ("0", "1", "2")
    for part in (data.train, data.val, data.test):
        assert part.labels.dtype == torch.int64
        assert torch.equal(part.labels * 50 + 7, everything(part)[:, 0, 0, 0].long())


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_large_files_stay_on_disk_and_read_the_same(tmp_path: Path, layout: tuple[int, ...]):
    images = RNG.random((30, 3, 5, 6)).transpose(layout)
    root = saved(tmp_path, images)
    whole, mapped = Arrays(root).load(), Arrays(root, memory_limit_gib=0).load()
    assert isinstance(mapped.train, Mapped)
    index = torch.tensor([5, 0, 0, 11])
    assert torch.equal(whole.train.batch(index), mapped.train.batch(index))
    assert whole.fingerprint == mapped.fingerprint


def test_fingerprint(tmp_path: Path):
    images = RNG.integers(0, 256, (30, 4, 4), dtype=np.uint8)
    labels = np.arange(30) % 2
    base = Arrays(saved(tmp_path, images, label=labels)).load().fingerprint
    assert Arrays(saved(tmp_path, images, label=labels)).load().fingerprint == base
    changed = images.copy()
    changed[29, 3, 3] ^= 1
    others = {
        Arrays(saved(tmp_path, changed, label=labels)).load().fingerprint,
        Arrays(saved(tmp_path, images, label=1 - labels)).load().fingerprint,
        Arrays(saved(tmp_path, images)).load().fingerprint,
        Arrays(saved(tmp_path, images, label=labels), test_fraction=0.3).load().fingerprint,
    }
    assert len(others) == 4 and base not in others


def test_real_domain_takes_any_numbers(tmp_path: Path):
    images = RNG.normal(size=(30, 4, 4)).astype(np.float32) * 100
    root = saved(tmp_path, images)
    refusal(lambda: Arrays(root).load(), "outside [0, 1]", "divide by 255", "data.domain=real")
    data = Arrays(root, domain="real").load()
    assert data.domain is Domain.REAL and data.levels is None
    assert float(everything(data.train).abs().max()) > 50


def test_not_a_file_of_images(tmp_path: Path):
    refusal(lambda: Arrays(None).load(), "data.root is not set", "data.root=PATH")
    refusal(lambda: Arrays(str(tmp_path / "gone.npy")).load(), "does not exist", ".npy or .npz")
    refusal(lambda: Arrays(str(tmp_path)).load(), "is a folder", "data.root=FILE", "data=image_folder")
    (tmp_path / "x.csv").write_text("1,2", encoding="utf-8")
    refusal(lambda: Arrays(str(tmp_path / "x.csv")).load(), "neither .npy nor .npz", "numpy.save")
    refusal(lambda: Arrays(str(tmp_path), domain="complex").load(), "data.domain=complex", "unit or real")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("domain", ["unit", "real"])
def test_nan_and_infinite_values(tmp_path: Path, bad: float, domain: str):
    images = RNG.random((30, 4, 4))
    images[17, 2, 1] = bad
    root = saved(tmp_path, images)
    refusal(lambda: Arrays(root, domain=domain).load(), "NaN or infinite", "image 17", "remove or replace")


def test_beyond_float32(tmp_path: Path):
    root = saved(tmp_path, np.full((30, 4, 4), 1e300))
    refusal(lambda: Arrays(root, domain="real").load(), "beyond float32", "rescale")


@pytest.mark.parametrize("shape", [(30,), (30, 16), (30, 1, 1, 4, 4), (30, 0, 4)])
def test_wrong_rank(tmp_path: Path, shape: tuple[int, ...]):
    root = saved(tmp_path, np.zeros(shape, np.uint8))
    refusal(lambda: Arrays(root).load(), str(shape), "(N, C, H, W)")


def test_no_channel_axis(tmp_path: Path):
    refusal(lambda: Arrays(saved(tmp_path, np.zeros((30, 2, 8, 8), np.uint8))).load(), "size 1, 3 or 4")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_python_objects(tmp_path: Path, kind: str):
    images = np.array([np.zeros((4, 4)), "code"] * 10, dtype=object)
    path = tmp_path / f"set.{kind}"
    if kind == "npy":
        np.save(path, images, allow_pickle=True)
    else:
        np.savez(path, x=images)
    refusal(lambda: Arrays(str(path)).load(), str(path), "Python objects", "uint8 or float32")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_files(tmp_path: Path, kind: str):
    images = RNG.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    path = Path(saved(tmp_path, images) if kind == "npy" else saved(tmp_path, images, label=np.zeros(30, int)))
    content = path.read_bytes()
    for broken in (content[:-100], content[:5], b""):
        path.write_bytes(broken)
        refusal(lambda: Arrays(str(path)).load(), str(path), "cannot be read", "save it again")


def test_other_types(tmp_path: Path):
    for dtype in (np.int64, np.uint16, bool, np.complex64):
        root = saved(tmp_path, np.zeros((30, 4, 4), dtype))
        refusal(lambda root=root: Arrays(root).load(), str(np.dtype(dtype)), "uint8", "float32 in [0, 1]")


def test_uint8_of_zeros_and_ones_is_a_mistake(tmp_path: Path):
    root = saved(tmp_path, RNG.integers(0, 2, (30, 4, 4), dtype=np.uint8))
    refusal(lambda: Arrays(root).load(), "only 0 and 1", "multiply by 255")


def test_uint8_is_not_real(tmp_path: Path):
    root = saved(tmp_path, np.full((30, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root, domain="real").load(), "data.domain=unit")


@pytest.mark.parametrize("label", [np.arange(30) - 1, np.arange(30) * 2, np.zeros(30), np.array(["a"] * 30)])
def test_labels_that_are_no_class_numbers(tmp_path: Path, label: np.ndarray):
    root = saved(tmp_path, np.full((30, 4, 4), 200, np.uint8), label=label)
    refusal(lambda: Arrays(root).load(), "0..K-1", "numpy.unique(label, return_inverse=True)[1]")


def test_labels_of_another_length(tmp_path: Path):
    for label in (np.zeros(29, int), np.zeros((30, 1), int)):
        root = saved(tmp_path, np.full((30, 4, 4), 200, np.uint8), label=label)
        refusal(lambda root=root: Arrays(root).load(), "30 images", str(label.shape), "one label an image")


def test_npz_keys(tmp_path: Path):
    path = tmp_path / "set.npz"
    np.savez(path, images=np.zeros((30, 4, 4), np.uint8))
    refusal(lambda: Arrays(str(path)).load(), "holds images", "must be called x")
    np.savez(path, x=np.full((30, 4, 4), 9, np.uint8), y=np.zeros(30, int))
    refusal(lambda: Arrays(str(path)).load(), "holds y", "must be called label")
    with zipfile.ZipFile(path, "w"):
        pass
    refusal(lambda: Arrays(str(path)).load(), "holds nothing", "must be called x")


def test_too_few(tmp_path: Path):
    root = saved(tmp_path, np.full((9, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root).load(), "9 images", "at least 10")
    root = saved(tmp_path, np.full((0, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root).load(), "0 images", "at least 10")
    root = saved(tmp_path, np.full((20, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root, val_fraction=0.6, test_fraction=0.4).load(), "lower data.val_fraction")
    refusal(lambda: Arrays(root, memory_limit_gib=-1).load(), "data.memory_limit_gib")
