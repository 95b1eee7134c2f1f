"""Latents in files of many rows: every format, type of numbers and name; shards; splits; axes."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.data import LatentData
from stage1_vae.data.latents.source import Latents
from stage1_vae.latents import LatentDataset, LatentSpec, Support

RNG = np.random.default_rng(0)
LOC = RNG.normal(size=(40, 3)).astype(np.float32)
STD = RNG.uniform(0.1, 2, (40, 3)).astype(np.float32)
LABEL = np.arange(40) % 4
MAPS = RNG.normal(size=(40, 4, 6, 6)).astype(np.float32)
CODES = RNG.integers(0, 50, (40, 2, 3))
CODES[0] = 49


def write(path: Path, **arrays: np.ndarray) -> str:
    """A file of arrays, of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif path.suffix == ".npy":
        np.save(path, next(iter(arrays.values())))
    else:
        save_file({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, path)
    return str(path)


def load(root: str | Path, **keys: Any) -> LatentData:
    return Latents(str(root), **keys).load()


def rows_of(latents: LatentDataset, name: str) -> np.ndarray:
    return np.asarray(latents.params[name][np.arange(len(latents))])


def everything(data: LatentData, name: str = "loc") -> np.ndarray:
    """All rows of a parameter, sorted."""
    rows = np.concatenate([rows_of(part, name) for part in data.splits.values()])
    return rows[np.lexsort(rows.reshape(len(rows), -1).T)]


def sort_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.reshape(len(rows), -1).T)]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_type_of_numbers(tmp_path: Path, suffix: str, dtype: type) -> None:
    root = write(tmp_path / f"set{suffix}", loc=LOC.astype(dtype), std=STD.astype(dtype), label=LABEL)
    data = load(root)
    assert data.spec == LatentSpec((3,), num_classes=4) and data.train.family == "diagonal_normal"
    assert [len(part) for part in data.splits.values()] == [28, 4, 8] and data.missing == ()
    np.testing.assert_array_equal(everything(data), sort_rows(LOC.astype(dtype).astype(np.float32)))
    order = {tuple(row): i for i, row in enumerate(LOC.astype(dtype).astype(np.float32))}
    for part in data.splits.values():
        rows = np.array([order[tuple(row)] for row in rows_of(part, "loc")])
        assert (part.labels.numpy() == LABEL[rows]).all() and (np.diff(rows) > 0).all()
        np.testing.assert_allclose(np.exp(rows_of(part, "log_std")), STD[rows], rtol=1e-3)
    assert data.style.dtype == np.dtype(dtype).name and (data.style.name, data.style.label_name) == ("loc", "label")


def test_bfloat16_is_widened_to_the_bit(tmp_path: Path) -> None:
    maps = torch.from_numpy(MAPS).bfloat16()
    save_file({"latents": maps}, tmp_path / "a.safetensors")
    data = load(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(everything(data), sort_rows(maps.float().numpy()))
    assert data.style.dtype == "bfloat16" and data.style.suffix == ".safetensors" and data.spec.shape == (4, 6, 6)
    assert "axes read as NCHW, 4 channels (data.axes=NHWC otherwise)" in data.guesses


SPREADS: Mapping[str, np.ndarray] = {
    "std": STD,
    "sigma": STD,
    "var": STD**2,
    "scvi_latent_qzv": STD**2,
    "logvar": 2 * np.log(STD),
    "log_var": 2 * np.log(STD),
    "log_std": np.log(STD),
}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("loc", ["loc", "mu", "z_mean", "scvi_latent_qzm", "latents", "Z"])
def test_names_that_people_give(tmp_path: Path, spread: str, loc: str) -> None:
    data = load(write(tmp_path / "a.npz", **{loc: LOC, spread: SPREADS[spread]}))
    np.testing.assert_array_equal(everything(data), sort_rows(LOC))
    np.testing.assert_allclose(everything(data, "log_std"), sort_rows(np.log(STD)), rtol=1e-5, atol=1e-6)
    assert data.style.name == loc.lower()


def test_a_draw_beside_its_mean_is_left_out(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.npz", mu=LOC, logvar=2 * np.log(STD), z=LOC + 1, x=RNG.normal(size=(40, 784))))
    np.testing.assert_array_equal(everything(data), sort_rows(LOC))
    assert data.left_out == ("arrays z, x (data.loc, data.codes, data.label, ... name an array)",)


def test_an_array_that_is_none_of_its_name(tmp_path: Path) -> None:
    root = write(tmp_path / "a.npz", z=LOC, codes=CODES, scale=LOC)
    assert load(root, codes=False, std=False).train.family == "delta"
    assert load(root, loc=False).train.family == "codes"


def test_statistics_beside_latents_are_no_standard_deviations(tmp_path: Path) -> None:
    data = load(
        write(tmp_path / "a.npz", latents=MAPS, mean=MAPS.mean((0, 2, 3)), std=MAPS.std((0, 2, 3))[None, :, None])
    )
    assert data.train.family == "delta" and any("std of shape (1, 4, 1)" in words for words in data.left_out)


def test_an_array_without_a_name(tmp_path: Path) -> None:
    data = load(write(tmp_path / "mine.npy", x=LOC))
    assert data.train.family == "delta" and data.name == "mine" and data.style.suffix == ".npy"
    assert data.guesses == ("the array read as real numbers (data.loc; data.moments or data.codes otherwise)",)
    assert data.missing == (
        "standard deviations (point masses: no rate, no mutual information, no marginal KL)",
        "labels",
    )
    fortran = np.asfortranarray(LOC)
    np.testing.assert_array_equal(everything(load(write(tmp_path / "f.npy", x=fortran))), sort_rows(LOC))
    assert load(write(tmp_path / "big.npy", x=LOC.astype(">f4"))).fingerprint == data.fingerprint


def test_moments_are_mean_and_log_variance_on_channels(tmp_path: Path) -> None:
    log_var = np.clip(RNG.normal(size=MAPS.shape), -1, 1).astype(np.float32)
    log_var[0, 0, 0, :2] = -60, 400
    moments = np.concatenate([MAPS, log_var], 1)
    for name, array, axes in (("moments", moments, None), ("other", moments.transpose(0, 2, 3, 1), "NHWC")):
        data = load(write(tmp_path / "a.npz", **{name: array}), moments=None if name == "moments" else name, axes=axes)
        assert data.spec.shape == (4, 6, 6) and data.train.family == "diagonal_normal"
        np.testing.assert_array_equal(everything(data), sort_rows(MAPS))
        np.testing.assert_array_equal(everything(data, "log_std"), sort_rows(0.5 * log_var.clip(-30, 20)))
        assert data.style.name == "latents" and data.style.shape == ((4, 6, 6) if axes is None else (6, 6, 4))


@pytest.mark.parametrize("axes", ["NCHW", "NHWC", "NWHC", "NHCW"])
def test_axes_of_maps(tmp_path: Path, axes: str) -> None:
    maps = RNG.normal(size=(12, 2, 3, 5)).astype(np.float32)
    lying = maps.transpose(["NCHW".index(axis) for axis in axes])
    data = load(write(tmp_path / "a.npz", z=lying), axes=axes)
    np.testing.assert_array_equal(everything(data), sort_rows(maps))
    assert data.style.shape == lying.shape[1:]


def test_sequences_of_vectors_are_maps_of_height_one(tmp_path: Path) -> None:
    tokens = RNG.normal(size=(12, 5, 2)).astype(np.float32)
    data = load(write(tmp_path / "a.npz", z=tokens), axes="NWC")
    np.testing.assert_array_equal(everything(data), sort_rows(tokens.transpose(0, 2, 1)[:, :, None]))


def test_codes(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.npz", codes=CODES))
    assert data.spec == LatentSpec((6,), Support.CODES, ((2, 3),), (50,)) and data.train.family == "codes"
    np.testing.assert_array_equal(everything(data, "codes"), sort_rows(CODES.reshape(40, 6)))
    assert data.guesses == (
        "maps of 2x3 codes (data.grids otherwise)",
        "codebook of 50, the largest code and one (data.num_codes otherwise)",
    )
    assert rows_of(data.train, "codes").dtype == np.uint8 and data.style.shape == (2, 3)
    sequence = load(write(tmp_path / "b.npy", x=CODES.reshape(40, 6)), num_codes=512)
    assert sequence.spec.grids == ((1, 6),) and sequence.spec.num_codes == (512,)
    levels = load(write(tmp_path / "c.npz", tokens=CODES.reshape(40, 6)), grids=[[1, 2], [2, 2]], num_codes=[64, 50])
    assert levels.spec.grids == ((1, 2), (2, 2)) and levels.spec.num_codes == (64, 50)
    assert data.fingerprint == load(write(tmp_path / "d.npz", ids=CODES.astype(np.float64))).fingerprint


def test_bits(tmp_path: Path) -> None:
    bits = RNG.integers(0, 2, (40, 8)).astype(bool)
    for name, array in (("bits", bits.astype(np.int64)), ("codes_of", bits), ("probs", bits.astype(np.float32))):
        data = load(write(tmp_path / "a.npz", **{name: array}))
        assert data.spec == LatentSpec((8,), Support.BITS) and data.train.family == "bits"
        torch.manual_seed(0)
        np.testing.assert_array_equal(data.train.draw(torch.arange(28)).numpy() > 0, rows_of(data.train, "logits") > 0)
        np.testing.assert_array_equal(everything(data, "logits") > 0, sort_rows(np.where(bits, 1, -1)) > 0)
    logits = load(write(tmp_path / "b.npz", logits=LOC))
    np.testing.assert_array_equal(everything(logits, "logits"), sort_rows(LOC))
    assert logits.style.name == "bits"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path, suffix: str) -> None:
    whole = load(write(tmp_path / f"whole{suffix}", latents=LOC))
    cuts = [0, 3, 3, 10, 12, 13, 20, 21, 25, 30, 38, 40]
    for i, (start, stop) in enumerate(pairwise(cuts)):
        write(tmp_path / "shards" / f"latents_{i}{suffix}", latents=LOC[start:stop])
    (tmp_path / "shards" / "readme.txt").write_text("made on Monday", encoding="utf-8")
    data = load(tmp_path / "shards")
    for split, part in data.splits.items():
        np.testing.assert_array_equal(rows_of(part, "loc"), rows_of(whole.splits[split], "loc"))
        np.testing.assert_array_equal(part.params["loc"][2:4], whole.splits[split].params["loc"][2:4])
        backwards = np.arange(len(part))[::-1]
        np.testing.assert_array_equal(part.params["loc"][backwards], rows_of(part, "loc")[::-1])
    assert data.fingerprint == whole.fingerprint


def test_splits_by_keys_files_and_folders(tmp_path: Path) -> None:
    cuts = {"train": slice(0, 20), "val": slice(20, 28), "test": slice(28, 40)}
    keys = {f"{split}_loc": LOC[rows] for split, rows in cuts.items()}
    labels = {f"{split}_y": LABEL[rows] for split, rows in cuts.items()}
    roots: list[str | Path] = [write(tmp_path / "keys.npz", **keys, **labels)]
    roots.append(
        write(tmp_path / "slash.safetensors", **{key.replace("_", "/"): array for key, array in keys.items()}, **labels)
    )
    for split, rows in cuts.items():
        write(tmp_path / "files" / f"{split}.npz", loc=LOC[rows], label=LABEL[rows])
        for i in range(2):
            half = np.array_split(np.arange(40)[rows], 2)[i]
            write(tmp_path / "folders" / split / f"{i}.safetensors", loc=LOC[half], label=LABEL[half])
        write(tmp_path / "arrays" / f"{split}_loc.npy", x=LOC[rows])
        write(tmp_path / "arrays" / f"{split}_labels.npy", x=LABEL[rows])
    first = load(roots[0])
    roots += [tmp_path / "files", tmp_path / "folders", tmp_path / "arrays"]
    for root in roots:
        data = load(root)
        for split, rows in cuts.items():
            np.testing.assert_array_equal(rows_of(data.splits[split], "loc"), LOC[rows])
            assert (data.splits[split].labels.numpy() == LABEL[rows]).all()
        assert data.fingerprint == first.fingerprint and not data.guesses, root


def test_what_has_no_validation_is_cut_from_training(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.npz", loc_train=LOC[:30], loc_test=LOC[30:]), val_fraction=0.2)
    assert [len(part) for part in data.splits.values()] == [24, 6, 10]
    assert data.guesses == ("val cut from train (data.val_fraction)",)
    np.testing.assert_array_equal(everything(data), sort_rows(LOC))


@pytest.mark.parametrize("groups", ["patient", "patient.npy"])
def test_groups_stay_together(tmp_path: Path, groups: str) -> None:
    patient = RNG.integers(100, 115, 40)
    np.save(tmp_path / "patient.npy", patient)
    data = load(write(tmp_path / "a.npz", loc=LOC, patient=patient), groups=groups, val_fraction=0.3)
    of_row = {tuple(row): int(patient[i]) for i, row in enumerate(LOC)}
    inside = [{of_row[tuple(row)] for row in rows_of(part, "loc")} for part in data.splits.values()]
    assert sum(map(len, inside)) == len(set(patient.tolist())) and len(set.union(*inside)) == len(set(patient.tolist()))
    np.testing.assert_array_equal(everything(data), sort_rows(LOC))


def test_mirrored_copies_are_draws_of_one_image(tmp_path: Path) -> None:
    for i, rows in enumerate((slice(0, 25), slice(25, 40))):
        shard: dict[str, np.ndarray] = {
            "latents": MAPS[rows],
            "latents_flip": MAPS[rows, :, :, ::-1],
            "labels": LABEL[rows],
        }
        write(tmp_path / f"latents_rank00_shard{i:03d}.safetensors", **shard)
    mean, std = MAPS.mean((0, 2, 3)), MAPS.std((0, 2, 3))
    stats = {"mean": torch.from_numpy(mean)[None, :, None, None], "std": torch.from_numpy(std)[None, :, None, None]}
    torch.save(stats, tmp_path / "latents_stats.pt")
    data = load(tmp_path)
    image = {MAPS[i].tobytes(): i for i in range(40)} | {MAPS[i, :, :, ::-1].tobytes(): i for i in range(40)}
    for part in data.splits.values():
        images = [image[row.tobytes()] for row in rows_of(part, "loc")]
        assert sorted(images) == sorted(2 * list(set(images)))
        assert (part.labels.numpy() == LABEL[images]).all()
    assert sum(map(len, data.splits.values())) == 80 and data.style.label_name == "labels"
    assert "latents and its mirrored copies are two draws of one image" in data.guesses
    assert "latents_stats.pt agrees with the latents, which are taken as they are" in data.guesses
    assert load(tmp_path, layout="latent_shards").fingerprint == data.fingerprint
    torch.save({"mean": stats["mean"] + 5, "std": stats["std"]}, tmp_path / "latents_stats.pt")
    assert any("are they scaled already?" in words for words in load(tmp_path).guesses)


def test_dimensions_that_never_vary_are_named(tmp_path: Path) -> None:
    loc = LOC.copy()
    loc[:, 1] = 0.5
    data = load(write(tmp_path / "a.npz", loc=loc))
    assert data.constant.tolist() == [False, True, False]
    assert "1 of 3 dimensions never vary over the training latents" in data.guesses
    assert not load(write(tmp_path / "b.npz", loc=loc, std=STD)).constant.any()


def test_dimensions_that_repeat_others_are_named_with_the_key_that_keeps_them(tmp_path: Path) -> None:
    root = write(tmp_path / "a.npz", loc=np.concatenate([LOC, LOC[:, :1]], 1))
    data, kept = load(root), load(root, dependent="keep")
    assert data.dependent == (3,) and kept.dependent == ()
    said = [words for words in data.guesses if "data.dependent=keep" in words]
    assert said and said[0].startswith("1 of 4 dimensions is a sum or repeat of others over the training latents")
    assert not any("data.dependent" in words for words in kept.guesses) and kept.fingerprint == data.fingerprint
    with pytest.raises(DataError, match=r"data\.dependent=drop is unknown: choose compute or keep"):
        load(root, dependent="drop")


def test_the_fingerprint_is_of_content_labels_and_splits(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, np.ndarray], dict[str, Any]]] = [
        ({"loc": LOC}, {}),
        ({"loc": LOC + 1}, {}),
        ({"loc": LOC, "std": STD}, {}),
        ({"loc": LOC, "std": STD * 2}, {}),
        ({"loc": LOC, "label": LABEL}, {}),
        ({"loc": LOC, "label": LABEL[::-1]}, {}),
        ({"loc": LOC, "label": LABEL + 1}, {}),
        ({"loc": LOC}, {"val_fraction": 0.2}),
        ({"loc": LOC, "who": LABEL + 10 * (np.arange(40) % 3)}, {"groups": "who"}),
    ]
    prints = [
        load(write(tmp_path / f"{i}.npz", **arrays), **keys).fingerprint for i, (arrays, keys) in enumerate(cases)
    ]
    assert len(set(prints)) == len(prints)
    assert load(write(tmp_path / "other.safetensors", mu=LOC.astype(np.float64))).fingerprint == prints[0]
    compressed = tmp_path / "compressed.npz"
    np.savez_compressed(compressed, loc=LOC)
    assert load(compressed).fingerprint == prints[0]


def test_it_is_saved_as_it_is_read(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.npz", loc=LOC, std=STD, label=LABEL))
    (tmp_path / "train").mkdir()
    data.train.save(tmp_path / "train")
    again = LatentDataset.load(tmp_path / "train")
    for name in ("loc", "log_std"):
        np.testing.assert_array_equal(again.params[name], rows_of(data.train, name))
    assert torch.equal(again.labels, data.train.labels) and again.spec == data.spec
