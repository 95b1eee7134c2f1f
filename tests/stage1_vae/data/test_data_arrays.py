"""Images in NumPy files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import everything, refusal

from stage1_vae.data.arrays import Arrays, Mapped
from stage1_vae.data.images import Domain
from stage1_vae.data.preprocess import Preprocess

RNG = np.random.default_rng(1)


def saved(folder: Path, images: np.ndarray, **more: Any) -> str:
    path = folder / ("set.npz" if more else "set.npy")
    if more:
        np.savez(path, x=images, **more)
    else:
        np.save(path, images)
    return str(path)


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
def test_layouts(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    data = Arrays(saved(tmp_path, images)).load()
    assert data.shape == expected and data.levels == 256 and data.num_classes == 0 and data.class_names == ()
    last = len(shape) == 4 and shape[1] != expected[0]
    truth = images.transpose(0, 3, 1, 2) if last else images.reshape(30, *expected)
    found = torch.cat([everything(part) for part in (data.train, data.val, data.test)])
    assert rows_of(found) == rows_of(torch.tensor(np.ascontiguousarray(truth)))
    assert data.train.labels is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats(tmp_path: Path, dtype: Any) -> None:
    images = RNG.random((30, 4, 6)).astype(dtype)
    data = Arrays(saved(tmp_path, images)).load()
    assert data.levels is None and data.domain is Domain.UNIT
    found = everything(data.train)
    assert found.dtype == torch.float32
    known = {row.tobytes() for row in images.astype(np.float32)}
    assert all(row.numpy().tobytes() in known for row in found)


def test_labels_travel_with_their_images(tmp_path: Path) -> None:
    labels = np.arange(30) % 3
    images = np.broadcast_to((labels * 50 + 7)[:, None, None], (30, 4, 6)).astype(np.uint8)
    data = Arrays(saved(tmp_path, images, label=labels.astype(np.uint16))).load()
    assert data.num_classes == 3 and data.class_names == ("0", "1", "2")
    for part in (data.train, data.val, data.test):
        assert part.labels.dtype == torch.int64
        assert torch.equal(part.labels * 50 + 7, everything(part)[:, 0, 0, 0].long())


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_large_files_stay_on_disk_and_read_the_same(tmp_path: Path, layout: tuple[int, ...]) -> None:
    images = RNG.random((30, 3, 5, 6)).transpose(layout)
    root = saved(tmp_path, images)
    whole, mapped = Arrays(root).load(), Arrays(root, memory_limit_gib=0).load()
    assert isinstance(mapped.train, Mapped)
    index = torch.tensor([5, 0, 0, 11])
    assert torch.equal(whole.train.batch(index), mapped.train.batch(index))
    assert whole.fingerprint == mapped.fingerprint


def test_fingerprint(tmp_path: Path) -> None:
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


def test_real_domain_takes_any_numbers(tmp_path: Path) -> None:
    images = RNG.normal(size=(30, 4, 4)).astype(np.float32) * 100
    root = saved(tmp_path, images)
    refusal(lambda: Arrays(root).load(), "outside [0, 1]", "data.range=[LOW,HIGH]", "data.domain=real")
    data = Arrays(root, domain="real").load()
    assert data.domain is Domain.REAL and data.levels is None
    assert float(everything(data.train).abs().max()) > 50


def test_not_a_file_of_images(tmp_path: Path) -> None:
    refusal(lambda: Arrays(None).load(), "data.root is not set", "data.root=PATH")
    refusal(lambda: Arrays(str(tmp_path / "gone.npy")).load(), "does not exist", ".npy, .npz, .h5")
    refusal(lambda: Arrays(str(tmp_path)).load(), "is a folder", "data.root=FILE", "data=image_folder")
    (tmp_path / "x.doc").write_text("1,2", encoding="utf-8")
    refusal(lambda: Arrays(str(tmp_path / "x.doc")).load(), "neither .npy nor .npz", "numpy.save")
    refusal(lambda: Arrays(str(tmp_path), domain="complex").load(), "data.domain=complex", "unit or real")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("domain", ["unit", "real"])
def test_nan_and_infinite_values(tmp_path: Path, bad: float, domain: str) -> None:
    images = RNG.random((30, 4, 4))
    images[17, 2, 1] = bad
    root = saved(tmp_path, images)
    refusal(lambda: Arrays(root, domain=domain).load(), "NaN or infinite", "image 17", "remove or replace")


def test_beyond_float32(tmp_path: Path) -> None:
    root = saved(tmp_path, np.full((30, 4, 4), 1e300))
    refusal(lambda: Arrays(root, domain="real").load(), "beyond float32", "rescale")


@pytest.mark.parametrize("shape", [(30,), (30, 16), (30, 1, 1, 4, 4), (30, 0, 4)])
def test_wrong_rank(tmp_path: Path, shape: tuple[int, ...]) -> None:
    root = saved(tmp_path, np.zeros(shape, np.uint8))
    refusal(lambda: Arrays(root).load(), str(shape), "(N, C, H, W)")


def test_no_channel_axis(tmp_path: Path) -> None:
    refusal(lambda: Arrays(saved(tmp_path, np.zeros((30, 2, 8, 8), np.uint8))).load(), "size 1, 3 or 4")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_python_objects(tmp_path: Path, kind: str) -> None:
    images = np.array([np.zeros((4, 4)), "code"] * 10, dtype=object)
    path = tmp_path / f"set.{kind}"
    if kind == "npy":
        np.save(path, images, allow_pickle=True)
    else:
        np.savez(path, x=images)
    refusal(lambda: Arrays(str(path)).load(), str(path), "Python objects", "uint8 or float32")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    images = RNG.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    path = Path(saved(tmp_path, images) if kind == "npy" else saved(tmp_path, images, label=np.zeros(30, int)))
    content = path.read_bytes()
    for broken in (content[:-100], content[:5], b""):
        path.write_bytes(broken)
        refusal(lambda: Arrays(str(path)).load(), str(path), "cannot be read", "save it again")


def test_other_types(tmp_path: Path) -> None:
    for dtype in (np.int64, np.uint16, np.complex64):
        root = saved(tmp_path, np.zeros((30, 4, 4), dtype))
        refusal(lambda root=root: Arrays(root).load(), str(np.dtype(dtype)), "uint8", "float32 in [0, 1]")
    root = saved(tmp_path, RNG.integers(0, 3000, (30, 4, 4)))
    refusal(lambda: Arrays(root).load(), "int64", "data.range=[0,4095]")
    refusal(lambda: Arrays(root, domain="real").load(), "int64", "float32")


@pytest.mark.parametrize(("high", "levels"), [(1, 2), (16, 17), (31, 32)])
def test_bytes_of_few_levels_are_taken_by_their_own_range(tmp_path: Path, high: int, levels: int) -> None:
    images = RNG.integers(0, high + 1, (30, 4, 4), dtype=np.uint8)
    images[0, 0, 0] = high
    data = Arrays(saved(tmp_path, images)).load()
    assert data.levels == levels and data.value_range == (0, high)
    assert any(f"data.levels={256}" in guess for guess in data.guesses)
    assert Preprocess(data.levels).clean(everything(data.train)).max() == 1
    as_asked = Arrays(saved(tmp_path, images), levels=256).load()
    assert as_asked.levels == 256 and as_asked.guesses == () and as_asked.fingerprint != data.fingerprint
    refusal(lambda: Arrays(saved(tmp_path, images), levels=high).load(), f"data.levels={high}")


def test_bytes_of_half_the_range_are_taken_as_they_are_and_said(tmp_path: Path) -> None:
    data = Arrays(saved(tmp_path, RNG.integers(0, 64, (30, 4, 4), dtype=np.uint8))).load()
    assert data.levels == 256 and "data.levels=64" in data.guesses[0]


def test_truth_values_are_two_levels(tmp_path: Path) -> None:
    images = RNG.integers(0, 2, (30, 4, 4)).astype(bool)
    data = Arrays(saved(tmp_path, images)).load()
    assert data.levels == 2 and everything(data.train).dtype == torch.uint8 and everything(data.train).max() == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_black_images_are_refused(tmp_path: Path, dtype: type) -> None:
    refusal(lambda: Arrays(saved(tmp_path, np.zeros((30, 4, 4), dtype))).load(), "nothing but 0", "black")


UNIT = RNG.random((30, 4, 4), dtype=np.float32)
UNIT[0, 0, :2] = 0, 1


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (2 * UNIT - 1, ["(x + 1) / 2", "data.range=[-1,1]"]),
        (UNIT - 0.5, ["x + 0.5", "data.range=[-0.5,0.5]"]),
        (UNIT * 255, ["divide by 255", "data.range=[0,255]"]),
        (UNIT * 65535, ["divide by 65535", "data.range=[0,65535]"]),
        (UNIT * 4000, ["divide by 4095", "data.range=[0,4095]"]),
        (UNIT * 1.1, ["numpy.clip(x, 0, 1)"]),
        (UNIT * 1.2 - 0.1, ["numpy.clip(x, 0, 1)"]),
        (UNIT / 255, ["divided by 255 twice", "multiply by 255"]),
        (UNIT * 6 - 3, ["standardisation", "data.range=[LOW,HIGH]"]),
    ],
)
def test_advice_for_floats_is_what_mends_them(tmp_path: Path, images: np.ndarray, words: list[str]) -> None:
    refusal(lambda: Arrays(saved(tmp_path, images)).load(), *words)


@pytest.mark.parametrize("images", [UNIT * np.float32(1 + 2e-7), UNIT - np.float32(1e-8), (UNIT * 1.0005).astype("f2")])
def test_what_rounding_puts_outside_is_cut_and_said(tmp_path: Path, images: np.ndarray) -> None:
    data = Arrays(saved(tmp_path, images)).load()
    found = everything(data.train)
    assert found.min() >= 0 and found.max() <= 1 and "cut to [0, 1]" in data.guesses[0]


@pytest.mark.parametrize(
    ("images", "ends"),
    [
        (2 * UNIT - 1, [-1, 1]),
        ((UNIT * 4095).astype(np.uint16), [0, 4095]),
        ((UNIT * 255).round().astype(np.int64), [0, 255]),
        (UNIT, [0, 1]),
    ],
)
def test_a_range_is_mapped_to_black_and_white(tmp_path: Path, images: np.ndarray, ends: list[float]) -> None:
    root = saved(tmp_path, images)
    whole, mapped = Arrays(root, range=ends).load(), Arrays(root, range=ends, memory_limit_gib=0).load()
    truth = (images.astype(np.float64) - ends[0]) / (ends[1] - ends[0])
    found = torch.cat([everything(part) for part in (whole.train, whole.val, whole.test)])
    assert whole.levels is None and torch.equal(everything(whole.train), everything(mapped.train))
    assert np.allclose(np.sort(found.numpy().ravel()), np.sort(truth.ravel()), atol=1e-6)
    assert whole.value_range == (images.min(), images.max())


def test_bad_ranges(tmp_path: Path) -> None:
    root = saved(tmp_path, 2 * UNIT - 1)
    for bad in ([1], [1, 0], "01", [0, np.inf], [True, 3]):
        refusal(lambda bad=bad: Arrays(root, range=bad).load(), "data.range=[-1,1]")
    refusal(lambda: Arrays(root, range=[0, 1]).load(), "outside data.range=[0,1]")
    refusal(lambda: Arrays(root, range=[-1, 1], domain="real").load(), "leave one out")


@pytest.mark.parametrize(
    ("shape", "domain", "expected"),
    [
        ((30, 8, 4, 4), "real", (8, 4, 4)),
        ((30, 4, 4, 8), "real", (8, 4, 4)),
        ((30, 16, 8, 8), "real", (16, 8, 8)),
        ((30, 8, 8, 16), "real", (16, 8, 8)),
        ((30, 4, 32, 32), "real", (4, 32, 32)),
        ((30, 28, 28, 1), "real", (1, 28, 28)),
        ((30, 48, 64, 3), "real", (3, 48, 64)),
        ((30, 8, 8, 4), "unit", (4, 8, 8)),
    ],
)
def test_maps_of_real_numbers_have_any_number_of_channels(
    tmp_path: Path, shape: tuple[int, ...], domain: str, expected: tuple[int, ...]
) -> None:
    root = saved(tmp_path, RNG.random(shape, dtype=np.float32))
    assert Arrays(root, domain=domain).load().shape == expected


@pytest.mark.parametrize(
    ("shape", "domain"),
    [((30, 8, 4, 4), "unit"), ((30, 8, 6, 4), "real"), ((30, 7, 8, 9), "real"), ((30, 8, 8, 8), "real")],
)
def test_what_has_two_readings_is_asked_for(tmp_path: Path, shape: tuple[int, ...], domain: str) -> None:
    root = saved(tmp_path, RNG.random(shape, dtype=np.float32))
    refusal(lambda: Arrays(root, domain=domain).load(), str(shape), "data.layout=NCHW", "data.layout=NHWC")
    assert Arrays(root, domain=domain, layout="NCHW").load().shape == shape[1:]
    assert Arrays(root, domain=domain, layout="NHWC").load().shape == (shape[3], shape[1], shape[2])


def test_any_order_of_axes_can_be_named(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (5, 6, 3, 30), dtype=np.uint8)  # as street view house numbers come
    data = Arrays(saved(tmp_path, images), layout="HWCN").load()
    found = torch.cat([everything(part) for part in (data.train, data.val, data.test)])
    assert rows_of(found) == rows_of(torch.tensor(np.ascontiguousarray(images.transpose(3, 2, 0, 1))))
    refusal(lambda: Arrays(saved(tmp_path, images), layout="HWC").load(), "data.layout=HWC", "NHWC")
    refusal(lambda: Arrays(saved(tmp_path, images), layout="NHW").load(), "names 3 axes")


def test_uint8_is_not_real(tmp_path: Path) -> None:
    root = saved(tmp_path, np.full((30, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root, domain="real").load(), "data.domain=unit")


def test_too_few(tmp_path: Path) -> None:
    root = saved(tmp_path, np.full((9, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root).load(), "9 images", "at least 10")
    root = saved(tmp_path, np.full((0, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root).load(), "0 images", "at least 10")
    root = saved(tmp_path, np.full((20, 4, 4), 200, np.uint8))
    refusal(lambda: Arrays(root, val_fraction=0.6, test_fraction=0.4).load(), "lower data.val_fraction")
    refusal(lambda: Arrays(root, memory_limit_gib=-1).load(), "data.memory_limit_gib")


def test_dark_floats_are_said(tmp_path: Path) -> None:
    data = Arrays(saved(tmp_path, UNIT * np.float32(0.06))).load()
    assert "data.range=[0,0.06]" in data.guesses[0]
    data = Arrays(saved(tmp_path, (UNIT * 15).astype(np.int64)), range=[0, 255]).load()
    assert "values reach 0.059" in data.guesses[0]
