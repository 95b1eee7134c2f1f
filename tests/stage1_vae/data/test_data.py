"""Sources that come with labels: digits and IDX files; the splits; the configs."""

import gzip
import hashlib
import importlib
import json
import struct
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
import yaml
from image_files import everything, refusal

from stage1_vae.data import idx
from stage1_vae.data.digits import Digits
from stage1_vae.data.idx import FILES, MIRRORS, Idx
from stage1_vae.data.images import Domain, ImageData, InMemory, fingerprint
from stage1_vae.data.splits import existing_path, hold_out, split_rows

NUM_TRAIN, NUM_TEST, HEIGHT, WIDTH = 40, 12, 5, 7


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_TRAIN + NUM_TEST, HEIGHT, WIDTH), dtype=np.uint8)
    labels = np.arange(NUM_TRAIN + NUM_TEST, dtype=np.uint8) % 3
    return [images[:NUM_TRAIN], labels[:NUM_TRAIN], images[NUM_TRAIN:], labels[NUM_TRAIN:]]


@pytest.fixture
def folder(tmp_path: Path, arrays: list[np.ndarray]) -> Path:
    for name, values in zip(FILES, arrays, strict=True):
        (tmp_path / name).write_bytes(idx_bytes(values))
    return tmp_path


# --- splits


def test_split_covers_each_row_once_and_is_fixed() -> None:
    split = split_rows(103, 0.1, 0.2)
    assert {name: len(rows) for name, rows in split.items()} == {"train": 72, "val": 10, "test": 21}
    assert sorted(np.concatenate([*split.values()])) == list(range(103))
    again = split_rows(103, 0.1, 0.2)
    assert all(np.array_equal(split[name], again[name]) for name in ("train", "val", "test"))
    assert not np.array_equal(split["train"], np.sort(split["train"]))  # the first n are a fair sample
    assert split["test"][:4].tolist() == [16, 69, 94, 101]  # the definition itself: any change moves published figures


def test_ten_images_are_enough_and_nine_are_not() -> None:
    split = split_rows(10, 0.1, 0.2)
    assert {name: len(rows) for name, rows in split.items()} == {"train": 6, "val": 2, "test": 2}
    refusal(lambda: split_rows(9, 0.1, 0.2), "9 images", "at least 10")


def test_bad_fractions_are_refused() -> None:
    refusal(lambda: split_rows(100, 0.5, 0.5), "lower data.val_fraction or data.test_fraction")
    for bad in (0, 1, -0.1, 1.5, "many", None, True, float("nan")):
        refusal(lambda bad=bad: split_rows(100, bad, 0.2), "data.val_fraction", "between 0 and 1")


def test_hold_out_bounds() -> None:
    rest, held = hold_out(10, 8, "data.num_val")
    assert sorted([*rest, *held]) == list(range(10)) and len(held) == 8
    refusal(lambda: hold_out(10, 9, "data.num_val"), "lower data.num_val")
    for bad in (0, -5, 2.5, True):
        refusal(lambda bad=bad: hold_out(10, bad, "data.num_val"), "data.num_val", "at least 2")


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    assert existing_path("here", "a folder") == existing_path("~/here", "a folder") == tmp_path / "here"
    refusal(lambda: existing_path(None, "a folder"), "data.root is not set", "data.root=PATH")
    refusal(lambda: existing_path("gone", "a folder"), "data.root=gone does not exist")


def test_fingerprint_sees_content_labels_and_assignment() -> None:
    images, labels = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2), torch.arange(6) % 2
    base = fingerprint((InMemory(images[:4], labels[:4]), InMemory(images[4:], labels[4:])))
    changed = images.clone()
    changed[3, 0, 1, 1] += 1
    others = {
        fingerprint((InMemory(changed[:4], labels[:4]), InMemory(images[4:], labels[4:]))),
        fingerprint((InMemory(images[:4], 1 - labels[:4]), InMemory(images[4:], labels[4:]))),
        fingerprint((InMemory(images[:3], labels[:3]), InMemory(images[3:], labels[3:]))),
        fingerprint((InMemory(images[:4]), InMemory(images[4:]))),
        fingerprint((InMemory(images[:4].view(4, 1, 1, 4), labels[:4]), InMemory(images[4:], labels[4:]))),
    }
    assert len(others) == 5 and base not in others
    assert base == fingerprint((InMemory(images[:4].clone(), labels[:4]), InMemory(images[4:], labels[4:])))


# --- digits


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = Digits().load()
    truth = load_digits()
    assert (len(data.train), len(data.val), len(data.test)) == (1258, 180, 359)
    assert data.shape == (1, 8, 8) and data.levels == 17 and data.domain is Domain.UNIT and data.num_classes == 10
    splits = (data.train, data.val, data.test)
    found = torch.cat([part.batch(torch.arange(len(part))) for part in splits])
    assert found.dtype == torch.uint8 and int(found.max()) == 16
    pairs = sorted(
        (x.numpy().tobytes(), int(k)) for part in splits for x, k in zip(everything(part), part.labels, strict=True)
    )
    assert pairs == sorted(
        (x.astype(np.uint8).tobytes(), int(k)) for x, k in zip(truth.images, truth.target, strict=True)
    )
    assert data.fingerprint == Digits().load().fingerprint and len(data.fingerprint) == 64
    assert all(len(part.labels.unique()) == 10 for part in splits)


# --- IDX


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_reads_plain_and_gzipped(tmp_path: Path, arrays: list[np.ndarray], suffix: str) -> None:
    for name, values in zip(FILES, arrays, strict=True):
        content = idx_bytes(values)
        (tmp_path / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    data = Idx(str(tmp_path), num_val=6).load()
    assert (len(data.train), len(data.val), len(data.test)) == (34, 6, 12)
    assert data.shape == (1, HEIGHT, WIDTH) and data.levels == 256 and data.num_classes == 3
    assert np.array_equal(everything(data.test)[:, 0].numpy(), arrays[2])
    assert np.array_equal(data.test.labels.numpy(), arrays[3])
    known = {x.tobytes(): int(k) for x, k in zip(arrays[0], arrays[1], strict=True)}
    found = {
        x.numpy().tobytes(): int(k)
        for part in (data.train, data.val)
        for x, k in zip(everything(part), part.labels, strict=True)
    }
    assert found == known


def test_idx_fingerprint_does_not_depend_on_packing(folder: Path) -> None:
    plain = Idx(str(folder), num_val=6).load().fingerprint
    path = folder / FILES[0]
    (folder / f"{FILES[0]}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert Idx(str(folder), num_val=6).load().fingerprint == plain
    assert Idx(str(folder), num_val=7).load().fingerprint != plain


def test_idx_root_mistakes(tmp_path: Path) -> None:
    refusal(lambda: Idx(None).load(), "data.root=DIR", "data.download=true")
    refusal(lambda: Idx(str(tmp_path / "gone")).load(), "does not exist", "data.root=DIR data.download=true")
    refusal(lambda: Idx(str(tmp_path)).load(), FILES[0], "data.download=true", "data.root=DIR")
    refusal(lambda: Idx(None, download=True).load(), "data.root=DIR")
    refusal(lambda: Idx(str(tmp_path), name="kmnist", download=True).load(), "kmnist", "mnist or fashion_mnist")


@pytest.mark.parametrize("which", range(4))
def test_idx_truncated_names_the_file(folder: Path, which: int) -> None:
    path = folder / FILES[which]
    path.write_bytes(path.read_bytes()[:-1])
    refusal(lambda: Idx(str(folder), num_val=6).load(), str(path), "truncated", "fetch it again")


def test_idx_truncated_gzip_header_and_excess(folder: Path) -> None:
    path = folder / FILES[0]
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content)[:-20])
    refusal(lambda: Idx(str(folder)).load(), str(path), "truncated")
    path.write_bytes(content[:9])
    refusal(lambda: Idx(str(folder)).load(), str(path), "truncated")
    path.write_bytes(content + b"\0")
    refusal(lambda: Idx(str(folder)).load(), str(path), "too long")
    path.write_bytes(b"")
    refusal(lambda: Idx(str(folder)).load(), str(path), "starts with nothing")


def test_idx_wrong_magic_names_the_file(folder: Path) -> None:
    path = folder / FILES[0]
    path.write_bytes(b"\x89PNG" + path.read_bytes()[4:])
    refusal(lambda: Idx(str(folder)).load(), str(path), "not an IDX file", "89 50 4e 47")
    path.write_bytes((folder / FILES[1]).read_bytes())  # labels in the place of images
    refusal(lambda: Idx(str(folder)).load(), str(path), "3 dimensions")


def test_idx_files_that_do_not_fit_each_other(folder: Path, arrays: list[np.ndarray]) -> None:
    (folder / FILES[3]).write_bytes(idx_bytes(arrays[3][:-1]))
    refusal(lambda: Idx(str(folder)).load(), "12 images", "11 labels", FILES[3])
    (folder / FILES[3]).write_bytes(idx_bytes(arrays[3]))
    (folder / FILES[2]).write_bytes(idx_bytes(arrays[2][:, :4]))
    refusal(lambda: Idx(str(folder)).load(), "5x7", "4x7", "data.root")
    (folder / FILES[2]).write_bytes(idx_bytes(arrays[2]))
    refusal(lambda: Idx(str(folder)).load(), "data.num_val=5000", "40 images")


def test_idx_download_checks_sums_and_reports_failure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror is a folder served over HTTP by the test itself."""
    import functools
    import http.server
    import threading

    served, target = tmp_path / "served", tmp_path / "target"
    served.mkdir()
    for name in FILES:
        (served / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    sums = tuple(hashlib.md5((served / f"{name}.gz").read_bytes()).hexdigest() for name in FILES)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        monkeypatch.setitem(idx.MIRRORS, "mnist", (url, sums))
        data = Idx(str(target), num_val=6, download=True).load()
        assert data.fingerprint == Idx(str(folder), num_val=6).load().fingerprint
        monkeypatch.setitem(idx.MIRRORS, "mnist", (url, ("0" * 32, *sums[1:])))
        (target / f"{FILES[0]}.gz").unlink()
        refusal(lambda: Idx(str(target), download=True).load(), "cannot download", FILES[0], "by hand")
        assert not (target / f"{FILES[0]}.gz").exists()
    finally:
        server.shutdown()
        server.server_close()
    assert Idx(str(folder), num_val=6, download=True).load().num_classes == 3  # nothing is missing: no connection
    refusal(lambda: Idx(str(tmp_path / "other"), download=True).load(), "cannot download", "by hand")


def test_known_sums_have_the_form_of_md5() -> None:
    sums = [md5 for mirror in MIRRORS.values() for md5 in mirror[1]]
    assert len(set(sums)) == 8 and all(len(md5) == 32 and int(md5, 16) >= 0 for md5 in sums)


# --- configs


CONFIGS = sorted((Path(__file__).parents[3] / "conf" / "data").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_mirrors_the_constructor(path: Path) -> None:
    import dataclasses

    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    config = yaml.safe_load(text)
    config.pop("defaults", None)  # a likelihood that fits
    module, _, name = config.pop("_target_").rpartition(".")
    source = getattr(importlib.import_module(module), name)
    if issubclass(get_type_hints(source.load)["return"], ImageData):  # of what becomes x, and latents do not
        assert config.pop("binarize") == "none" and config.pop("dequantize") == "auto"
        assert config.pop("labelled", None) is None
    fields = {field.name: field.default for field in dataclasses.fields(source)}
    assert set(config) == set(fields)
    for key, value in config.items():
        assert key in ("root", "name") or value == json.loads(json.dumps(fields[key]))  # tuples are lists in yaml
    assert source.version >= 1
    if "root" in config:
        refusal(lambda: source(**config).load(), "data.root")


def test_idx_labels_have_the_names_that_are_written(folder: Path, arrays: list[np.ndarray]) -> None:
    for place in (1, 3):
        (folder / FILES[place]).write_bytes(idx_bytes(arrays[place] * 5 + 1))
    data = Idx(str(folder), num_val=6).load()
    assert data.class_names == ("1", "6", "11") and data.num_classes == 3
    assert [data.class_names[y] for y in data.test.labels] == [str(y * 5 + 1) for y in arrays[3]]


@pytest.mark.parametrize("code", [9, 11, 12, 13, 14])
def test_idx_labels_of_any_type_and_in_columns(folder: Path, arrays: list[np.ndarray], code: int) -> None:
    def typed(values: np.ndarray) -> bytes:
        kind = {9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[code]
        return (
            bytes((0, 0, code, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.astype(kind).tobytes()
        )

    for place in (1, 3):
        (folder / FILES[place]).write_bytes(typed(np.stack([arrays[place], arrays[place] + 3], 1)))
    data = Idx(str(folder), num_val=6).load()
    assert data.class_names == ("0", "1", "2") and "the first of 2 columns" in data.guesses[0]
    assert Idx(str(folder), num_val=6, label_column=1).load().class_names == ("3", "4", "5")
    for place in (0, 2):
        (folder / FILES[place]).write_bytes(typed(arrays[place] // 2))
    if code < 13:
        data = Idx(str(folder), num_val=6).load()
        assert data.levels == 256 and torch.equal(everything(data.test)[:, 0], torch.from_numpy(arrays[2] // 2))
    else:
        refusal(lambda: Idx(str(folder), num_val=6).load(), "divide by 255", "data.range=[0,255]")


@pytest.mark.parametrize("names", ["emnist-letters-{}", "qmnist-{}", "MNIST/raw/{}"])
def test_idx_files_of_mnists_relatives_and_below_the_root(tmp_path: Path, arrays: list[np.ndarray], names: str) -> None:
    files = [name.replace("t10k", "test") for name in FILES] if "-" in names else FILES
    for file, values in zip(files, arrays, strict=True):
        path = tmp_path / names.format(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(idx_bytes(values))
    data = Idx(str(tmp_path), num_val=6).load()
    assert torch.equal(everything(data.test)[:, 0], torch.from_numpy(arrays[2]))
    if names.startswith("emnist"):
        assert data.name == "emnist-letters" and "data.transpose=true" in data.guesses[-1]
        turned = Idx(str(tmp_path), num_val=6, transpose=True).load()
        assert torch.equal(everything(turned.test), everything(data.test).transpose(2, 3)) and not turned.guesses
    if "/" in names:
        assert "MNIST/raw/" in data.guesses[0]


def test_idx_files_of_several_sets_are_asked_for(tmp_path: Path, arrays: list[np.ndarray]) -> None:
    for prefix in ("emnist-letters", "emnist-digits"):
        for file, values in zip(FILES, arrays, strict=True):
            (tmp_path / f"{prefix}-{file}").write_bytes(idx_bytes(values))
    refusal(lambda: Idx(str(tmp_path)).load(), "2 sets", "data.prefix=emnist-digits", "emnist-letters")
    assert Idx(str(tmp_path), prefix="emnist-letters", num_val=6).load().name == "emnist-letters"
    (tmp_path / f"emnist-digits-{FILES[1]}").unlink()
    line = refusal(lambda: Idx(str(tmp_path), prefix="emnist-digits").load(), f"emnist-digits-{FILES[1]}")
    assert "download" not in line, "it would put MNIST beside them"
    refusal(lambda: Idx(str(tmp_path / f"emnist-digits-{FILES[0]}")).load(), "is a file", "data.root=DIR")
