"""Latents written block by block: the same bytes as at once, by one process or two, and never half a data set."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_values import means

from stage1_vae.bottlenecks.delta import Delta
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.latents.dataset import HEADER
from stage1_vae.latents.files import LatentWriter
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.mlp import MLP
from stage1_vae.vae import VAE, encode

SPEC, NUM = LatentSpec((2, 3), num_classes=10), 100


def columns() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random((NUM, 2, 3), np.float32) for name in ("loc", "log_std")}, np.arange(NUM) % 10


def write(folder: Path, rows: range, step: int = 7) -> None:
    params, labels = columns()
    with LatentWriter(folder, SPEC, "diagonal_normal", NUM, labelled=True) as writer:
        for start in range(rows.start, rows.stop, step):
            block = slice(start, min(start + step, rows.stop))
            writer.write(
                start, {name: values[block] for name, values in params.items()}, torch.from_numpy(labels)[block]
            )


def test_two_processes_write_what_one_array_is(tmp_path: Path) -> None:
    params, labels = columns()
    with LatentWriter.create(tmp_path, SPEC, "diagonal_normal", NUM, labelled=True) as first:
        sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=write, args=(tmp_path, rows)) for rows in (range(37), range(37, NUM))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        assert not (tmp_path / HEADER).exists(), "half a data set must not look like one"
        first.finish({"vae": "abc"})
    assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.name != HEADER}
    whole = tmp_path / "whole"
    whole.mkdir()
    for name, values in {**params, "labels": labels}.items():
        np.save(whole / f"{name}.npy", values)
        assert (whole / f"{name}.npy").read_bytes() == (tmp_path / f"{name}.npy").read_bytes()
    loaded = LatentDataset.load(tmp_path)
    assert (
        loaded.provenance == {"vae": "abc"}
        and json.loads((tmp_path / HEADER).read_text(encoding="utf-8"))["num"] == NUM
    )


def test_a_disk_without_room_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        LatentWriter.create(tmp_path, LatentSpec((2**20,)), "delta", 2**40, labelled=False)


def test_rows_and_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    params, labels = columns()
    with LatentWriter.create(tmp_path, SPEC, "diagonal_normal", NUM, labelled=True) as writer:
        with pytest.raises(ValueError, match="from row 1 on does not fit"):
            writer.write(1, params, torch.from_numpy(labels))
        with pytest.raises(ValueError, match="labels are expected"):
            writer.write(0, params, None)
    with pytest.raises(ValueError, match=r"holds float32 \(100, 2, 3\)"):
        LatentWriter(tmp_path, SPEC, "diagonal_normal", NUM + 1, labelled=True)


def test_an_encoding_fills_its_rows_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = VAE((1, 4, 4), MLP((8,)), lambda features_shape: Delta(features_shape, latent_dim=3), BernoulliLikelihood())
    x = torch.rand(10, 1, 4, 4)
    with LatentWriter.create(tmp_path, vae.spec, "delta", 10, labelled=False) as writer:
        encode(vae, [(x[6:], None)], writer, range(6, 10))
        encode(vae, [(x[:4], None), (x[4:6], None)], writer, range(6))
        with pytest.raises(ValueError, match="5 images for 6 rows"):
            encode(vae, [(x[:5], None)], writer, range(6))
        with pytest.raises(ValueError, match="more than 6 images"):
            encode(vae, [(x[:5], None), (x[5:], None)], writer, range(6))
        writer.finish({})
    with torch.no_grad():
        expected = vae.encode(x).posterior.mean
    torch.testing.assert_close(means(LatentDataset.load(tmp_path)), expected)
