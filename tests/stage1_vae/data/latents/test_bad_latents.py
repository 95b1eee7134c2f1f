"""Whatever is wrong with files of latents is one line that names the file, the array, the row and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.source import Latents
from stage1_vae.latents import LatentSpec
from stage1_vae.latents.files import LatentWriter
from stage1_vae.latents.spec import NUM_DRAWS

RNG = np.random.default_rng(0)
LOC = RNG.normal(size=(40, 3)).astype(np.float32)
STD = RNG.uniform(0.1, 2, (40, 3)).astype(np.float32)
CODES = RNG.integers(0, 50, (40, 6))
MAPS = RNG.normal(size=(40, 4, 6, 6)).astype(np.float32)


def changed(array: np.ndarray, value: float, row: int = 17) -> np.ndarray:
    array = np.array(array, np.float64 if array.dtype.kind == "f" or value % 1 else array.dtype)
    array[row, 1] = value
    return array


def refusal(root: Path | str, *words: str, **keys: Any) -> None:
    with pytest.raises(DataError) as raised:
        Latents(None if root == "" else str(root), **keys).load()
    message = str(raised.value)
    assert "\n" not in message and all(word in message for word in words), message


CASES: list[tuple[dict[str, np.ndarray], dict[str, Any], list[str]]] = [
    ({"loc": changed(LOC, np.nan)}, {}, ["a.npz (loc): row 17 holds nan", "leave such rows out"]),
    ({"loc": changed(LOC, -np.inf)}, {}, ["a.npz (loc): row 17 holds -inf"]),
    ({"loc": changed(LOC, 1e39)}, {}, ["row 17 holds 1e+39", "more than float32", "scale the latents"]),
    (
        {"loc": LOC, "std": changed(STD, -0.5)},
        {},
        ["a.npz (std): row 17 holds -0.5", "a standard deviation is positive"],
    ),
    (
        {"loc": LOC, "std": changed(STD, 0)},
        {},
        ["a.npz (std): row 17 holds 0", "raise it above zero", "keep loc alone"],
    ),
    ({"loc": LOC, "var": changed(STD, 0)}, {}, ["a.npz (var): row 17 holds 0", "a variance is positive"]),
    ({"loc": LOC, "std": changed(STD, np.nan)}, {}, ["a.npz (std): row 17 holds nan"]),
    (
        {"loc": LOC, "logvar": changed(STD, 300)},
        {},
        ["row 17 holds 300", "std or var if it is no logarithm (data.std=NAME)"],
    ),
    ({"loc": LOC, "std": STD[:39]}, {}, ["(std) has shape (39, 3)", "loc (40, 3)", "one number of it for each"]),
    (
        {"loc": LOC, "std": STD, "var": STD},
        {},
        ["several of which say standard deviations", "data.std=std or data.var=var"],
    ),
    (
        {"z": LOC, "codes": CODES},
        {},
        ["holds z, codes, several of which are latents", "data.loc=z", "data.codes=codes"],
    ),
    ({"mu": LOC, "mean": LOC}, {}, ["holds mu, mean", "choose by data.loc=mu or data.loc=mean"]),
    ({"first": LOC, "second": LOC}, {}, ["holds first, second", "call the latents loc", "data.loc=NAME"]),
    ({"loc": LOC}, {"loc": "mu"}, ["data.loc=mu", "holds loc", "name one of them"]),
    ({"loc": LOC}, {"loc": 3}, ["data.loc=3: give the name of an array", "holds loc"]),
    ({"loc": LOC}, {"std": "scale"}, ["data.std=scale", "holds loc"]),
    (
        {"loc": LOC, "codes": CODES},
        {"loc": "loc", "codes": "codes"},
        ["data.loc and data.codes", "leave out the other"],
    ),
    (
        {"codes": CODES, "std": STD},
        {"codes": "codes", "std": "std"},
        ["data.std=std goes with data.loc", "leave it out"],
    ),
    ({"codes": changed(CODES, 0.5)}, {}, ["(codes): row 17 holds 0.5", "a code is whole", "(data.loc=NAME)"]),
    ({"codes": np.full_like(CODES, 3)}, {}, ["all codes are 3", "nothing that a prior could learn", "data.codes=NAME"]),
    ({"codes": changed(CODES, -1)}, {}, ["(codes): row 17 holds -1", "count from 0"]),
    (
        {"codes": changed(CODES, 64)},
        {"num_codes": 64},
        ["(codes): row 17 holds 64", "codebook has 64", "special tokens"],
    ),
    ({"codes": changed(CODES, 2**40)}, {}, ["row 17 holds 1099511627776", "0 to 65535"]),
    ({"codes": CODES}, {"num_codes": 1}, ["data.num_codes=1", "2 to 65,536"]),
    ({"codes": CODES}, {"num_codes": [64, 64]}, ["data.num_codes=[64, 64]", "1 maps"]),
    ({"codes": CODES}, {"grids": [[2, 2]]}, ["data.grids: 2x2 are not the 6 codes"]),
    ({"codes": CODES}, {"grids": [2, 3]}, ["data.grids=[2, 3]", "such as data.grids=[[4,4],[8,8]]"]),
    ({"codes": CODES.reshape(40, 1, 2, 3)}, {}, ["codes of shape (1, 2, 3) a row", "data.grids=[[2,3]]"]),
    ({"codes": CODES}, {"axes": "NCHW"}, ["data.axes=NCHW is for maps", "leave it out"]),
    ({"loc": LOC}, {"grids": [[1, 3]]}, ["data.grids is for codes", "leave it out"]),
    ({"loc": LOC}, {"num_codes": 8}, ["data.num_codes=8 is for codes"]),
    ({"bits": changed(CODES % 2, 2)}, {}, ["(bits): row 17 holds 2", "a bit is 0 or 1", "(data.probs=NAME)"]),
    ({"probs": changed(LOC * 0, 1.5)}, {}, ["(probs): row 17 holds 1.5", "in [0, 1]", "(data.logits=NAME)"]),
    ({"loc": LOC, "label": np.arange(39)}, {}, ["(label) has shape (39,)", "40 latents", "data.label=false"]),
    ({"loc": LOC, "label": np.arange(40) / 7}, {}, ["whole numbers or words", "data.label=false"]),
    ({"loc": LOC, "y": np.zeros((40, 3), int)}, {}, ["3 columns of labels", "data.label_column=0 to 2"]),
    ({"loc": LOC}, {"label_column": 1}, ["data.label_column=1", "no labels"]),
    ({"loc_train": LOC, "loc_test": LOC[:, :2]}, {}, ["loc_train", "loc_test", "save all alike"]),
    ({"loc_val": LOC, "loc_test": LOC}, {}, ["latents of val and test", "none to train on"]),
    (
        {"loc_train": LOC, "std_train": STD, "loc_test": LOC},
        {},
        ["(test) has no std", "it holds loc", "save all splits alike"],
    ),
    (
        {"train_x": LOC, "train_y": LOC[:, 0] // 9, "val_x": LOC, "val_y": np.full(40, 7)},
        {},
        ["class 7 has no training"],
    ),
    ({"loc": LOC[:1]}, {}, ["1 latents", "at least 2"]),
    ({"loc": LOC[:9]}, {}, ["9 latents are too few", "at least 10"]),
    ({"loc": LOC[:0]}, {}, ["shape (0, 3)", "no latents"]),
    ({"loc": LOC}, {"val_fraction": 0}, ["data.val_fraction is 0"]),
    ({"loc": LOC}, {"val_fraction": 0.5, "test_fraction": 0.5}, ["lower data.val_fraction"]),
    ({"loc": LOC, "g": np.arange(40) % 4}, {"groups": "g"}, ["4 images or groups of latents are too few"]),
    ({"loc": LOC}, {"groups": "patient"}, ["data.groups=patient", "holds loc"]),
    ({"loc": LOC}, {"groups": "none.npy"}, ["none.npy does not exist", "name an .npy file"]),
    ({"loc": LOC}, {"layout": "mar"}, ["data.layout=mar", "moments_npz"]),
    ({"loc": LOC}, {"layout": "latent_shards"}, ["mirrored copies", "leave the layout out"]),
    ({"loc": LOC}, {"layout": "code_crops"}, ["a.npz is one file", "name their folder"]),
    ({"loc": LOC}, {"memory_limit_gib": -1}, ["data.memory_limit_gib is -1"]),
    ({"loc": LOC[:, 0]}, {"loc": "loc"}, ["shape (40,)", "x[:, None]"]),
    ({"loc": LOC[:, :, None]}, {}, ["shape (40, 3, 1)", "data.axes=NWC for 3 vectors of 1"]),
    ({"loc": MAPS[:, :, :4, :4]}, {}, ["shape (40, 4, 4, 4)", "data.axes=NCHW or data.axes=NHWC"]),
    ({"loc": MAPS[:, None]}, {}, ["shape (40, 1, 4, 6, 6)", "reshape them to (N, 144)"]),
    ({"loc": MAPS}, {"axes": "CNHW"}, ["data.axes=CNHW", "N first"]),
    ({"loc": LOC}, {"axes": "NCHW"}, ["data.axes=NCHW names 4 axes"]),
    ({"moments": MAPS[:, :3]}, {}, ["shape (40, 3, 6, 6)", "3 is odd", "data.loc where they are means alone"]),
    ({"moments": changed(MAPS, np.inf)}, {}, ["(moments): row 17 holds inf", "leave such rows out"]),
    ({"latents": MAPS, "latents_flip": MAPS[1:]}, {}, ["latents_flip", "(39, 4, 6, 6)", "save all alike"]),
    ({"loc": LOC.astype(str)}, {}, ["row 0 holds <U", "give whole or real numbers"]),
]


@pytest.mark.parametrize(("arrays", "keys", "words"), CASES, ids=[" ".join(words)[:60] for _, _, words in CASES])
def test_arrays_that_are_no_latents(
    tmp_path: Path, arrays: dict[str, np.ndarray], keys: dict[str, Any], words: list[str]
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    refusal(tmp_path / "a.npz", *words, **keys)


def test_shards_that_differ(tmp_path: Path) -> None:
    for name, odd, words in (
        (
            "shape",
            {"z": LOC[:, :2], "y": np.arange(40)},
            ["1.npz (z) holds float32 (40, 2)", "0.npz (z) float32 (40, 3)"],
        ),
        ("type", {"z": LOC.astype(np.float16), "y": np.arange(40)}, ["1.npz (z) holds float16", "save all alike"]),
        ("keys", {"z": LOC}, ["1.npz has no y, and other shards do", "save all shards alike"]),
        ("more", {"z": LOC, "y": np.arange(41)}, ["1.npz (y) has shape (41,) for 40 latents"]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "0.npz", z=LOC, y=np.arange(40))
        np.savez(folder / "1.npz", **odd)
        refusal(folder, *words)
    np.save(tmp_path / "keys" / "2.npy", LOC)
    refusal(tmp_path / "keys", "holds .npy and .npz files", "name one of them")


def test_a_bad_number_in_a_later_shard_has_the_row_of_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "z_0.npy", LOC)
    np.save(tmp_path / "z_1.npy", changed(LOC, np.nan).astype(np.float32))
    refusal(tmp_path, "z_1.npy: row 17 holds nan")


def lying(header: Callable[[dict[str, Any]], Any]) -> bytes:
    """A safetensors file of [4, 3] float32, whose header is what `header` makes of the true one."""
    true = {"loc": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}}
    text = json.dumps(header(true)).encode()
    return len(text).to_bytes(8, "little") + text + bytes(48)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["truncated or damaged"]),
        (b"\xff" * 40, ["a header of 18,446,744,073,709,551,615 bytes in a file of 40"]),
        ((5).to_bytes(8, "little") + b"[1]  ", ["names no tensors"]),
        ((4).to_bytes(8, "little") + b"nope", ["header is damaged"]),
        (lying(lambda h: h)[:-1], ["its header promises"]),
        (lying(lambda h: h) + b"0", ["its header promises"]),
        (lying(lambda h: {"loc": {**h["loc"], "shape": [4, 300]}}), ["needs 4,800 bytes and has 48"]),
        (lying(lambda h: {"loc": {**h["loc"], "shape": [2**40, 2**40]}}), ["bytes and has 48"]),
        (lying(lambda h: {"loc": {**h["loc"], "shape": [-4, 3]}}), ["no valid shape"]),
        (lying(lambda h: {"loc": {**h["loc"], "data_offsets": [48, 96]}}), ["overlap or leave gaps"]),
        (lying(lambda h: {**h, "z": h["loc"]}), ["overlap or leave gaps"]),
        (lying(lambda h: {"loc": {**h["loc"], "dtype": "F8_E4M3"}}), ["F8_E4M3", "is not read"]),
        (lying(lambda h: {"loc": [1]}), ["is no tensor"]),
        (lying(lambda h: h).replace(b'{"loc"', b'{"a": {}, "a"', 1), ["damaged"]),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    refusal(tmp_path / "a.safetensors", "a.safetensors cannot be read as a .safetensors file", "save it again", *words)


def test_names_that_stand_twice_in_a_header(tmp_path: Path) -> None:
    entry = '{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}'
    text = f'{{"loc": {entry}, "loc": {entry}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    refusal(tmp_path / "a.safetensors", "'loc' is there twice")


def test_files_that_are_none_of_their_kind(tmp_path: Path) -> None:
    refusal("", "data.root is not set", "data.root=PATH")
    refusal(tmp_path / "none.npz", "does not exist")
    refusal(tmp_path, "holds nothing and no .npy, .npz or .safetensors file")
    (tmp_path / "notes.txt").write_text("no latents", encoding="utf-8")
    refusal(tmp_path, "holds notes.txt and no .npy")
    refusal(tmp_path / "notes.txt", "no .npy, .npz or .safetensors file")
    for suffix in (".npy", ".npz"):
        (tmp_path / f"a{suffix}").write_bytes(b"no array of any kind")
        refusal(tmp_path / f"a{suffix}", f"cannot be read as a {suffix} file", "save it again")
        (tmp_path / f"a{suffix}").write_bytes(b"")
        refusal(tmp_path / f"a{suffix}", f"cannot be read as a {suffix} file", "save it again")
    np.save(tmp_path / "a.npy", LOC)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    refusal(tmp_path / "a.npy", "header promises 480 bytes, and 472 are there")


def test_python_objects_are_not_loaded(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}] * 40, dtype=object)
    np.savez(tmp_path / "a.npz", loc=LOC, info=objects)
    assert len(Latents(str(tmp_path / "a.npz")).load().train) == 28
    np.savez(tmp_path / "b.npz", loc=objects)
    refusal(tmp_path / "b.npz", "b.npz (loc) holds Python objects, which are not loaded", loc="loc")
    np.save(tmp_path / "c.npy", objects)
    refusal(tmp_path / "c.npy", "c.npy holds Python objects", "save latents as float32")


def test_compressed_arrays_larger_than_their_limit(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", loc=RNG.normal(size=(2000, 64)))
    assert len(Latents(str(tmp_path / "a.npz")).load().train) == 1400
    refusal(tmp_path / "a.npz", "is compressed", "data.memory_limit_gib=1e-05", "numpy.savez", memory_limit_gib=1e-5)


def test_statistics_of_something_else(tmp_path: Path) -> None:
    save_file({"latents": torch.from_numpy(MAPS)}, tmp_path / "a.safetensors")
    for content, words in (
        ({"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}, ["3 channels and the latents have 4"]),
        ({"mean": torch.zeros(1, 4, 1, 1)}, ["no mean and std", "move it away"]),
        ([1, 2], ["no mean and std"]),
    ):
        torch.save(content, tmp_path / "latents_stats.pt")
        refusal(tmp_path, "latents_stats.pt", *words)
    (tmp_path / "latents_stats.pt").write_bytes(b"none")
    refusal(tmp_path, "latents_stats.pt", "no mean and std", "save it again")


def test_a_file_that_changes_after_it_was_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", LOC)
    data = Latents(str(tmp_path / "a.npy")).load()
    data.check_unchanged()
    np.save(tmp_path / "a.npy", LOC[:20])
    with pytest.raises(DataError, match=r"a\.npy has changed"):
        data.check_unchanged()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_flipped_bytes_are_read_or_refused_in_one_line(tmp_path: Path, suffix: str) -> None:
    path, rng = tmp_path / f"a{suffix}", np.random.default_rng(1)
    if suffix == ".npy":
        np.save(path, LOC)
    elif suffix == ".npz":
        np.savez(path, loc=LOC, std=STD)
    else:
        save_file({"loc": torch.from_numpy(LOC), "std": torch.from_numpy(STD)}, path)
    whole, num_refused = path.read_bytes(), 0
    for _ in range(80):
        content = bytearray(whole)
        content[rng.integers(200)] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content))] if rng.random() < 0.3 else content)
        try:
            Latents(str(path)).load()
        except DataError as error:
            num_refused += 1
            assert "\n" not in str(error) and path.name in str(error)
    assert num_refused > 20


def test_draws_of_one_posterior_are_no_shards(tmp_path: Path) -> None:
    """Sixteen of them end to end would be sixteen times as many images; one is a file of latents like any other."""
    draws = {f"draw_{i}": torch.from_numpy(LOC + i) for i in range(NUM_DRAWS)}
    with LatentWriter.create(tmp_path, LatentSpec((3,)), "draws", len(LOC), labelled=False) as writer:
        writer.write(0, draws, None)
        writer.finish({})
    refusal(tmp_path, "holds 16 draws of each posterior", f"data.root={tmp_path / 'draw_0.npy'}")
    for name in draws.keys() - {"draw_0"}:
        (tmp_path / f"{name}.npy").unlink()
    one = Latents(str(tmp_path)).load()
    assert sum(len(split) for split in one.splits.values()) == len(LOC)
