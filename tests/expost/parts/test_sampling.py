"""Samples as files: the same bytes for the same seed, any number in bounded memory, replaced in one step."""

import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, Result, run_here, run_outside
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from expost.parts.decoding import block_size, image_blocks
from expost.stages import delivery
from stage1_vae.data.digits import Digits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds a VAE and a prior."""
    folder = tmp_path_factory.mktemp("trained")
    assert run_here(folder, *SMALL, "stage=prior").code == 0
    return folder


def draw(folder: Path, *words: str) -> Result:
    result = run_here(folder, *SMALL, "stage=sample", "upstream=require", *words)
    assert (result.code, result.err) == (0, ""), result
    return result


def images(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["x"]  # no prior here draws labels
        x = file["x"]
    assert x.dtype == np.uint8 and x.ndim == 4
    return x


def test_same_seed_same_bytes_also_from_another_process_and_another_seed_other_images(trained: Path) -> None:
    draw(trained, "sample.num=40", "sample.out=one.npz")
    for stage in ("vae", "latents", "prior"):
        shutil.copytree(trained / "runs/store" / stage, trained / "again/store" / stage)
    again = run_outside(trained, *SMALL, "stage=sample", "paths.root=again", "sample.num=40", "sample.out=two.npz")
    assert (again.code, again.err) == (0, "")
    assert (trained / "one.npz").read_bytes() == (trained / "two.npz").read_bytes()
    draw(trained, "sample.num=40", "sample.out=three.npz", "seeds.sample=1")
    assert not np.array_equal(images(trained / "one.npz"), images(trained / "three.npz"))
    assert images(trained / "one.npz").shape == (40, 1, 8, 8)


def test_few_are_the_first_of_many(trained: Path) -> None:
    draw(trained, "sample.num=1203", "sample.out=many.npz")
    draw(trained, "sample.num=17", "sample.out=few.npz")
    many = images(trained / "many.npz")
    assert many.shape == (1203, 1, 8, 8)
    assert np.array_equal(many[:17], images(trained / "few.npz"))
    assert not np.array_equal(many[:500], many[500:1000])  # each block has its own seed


def test_noise_is_drawn_on_top_of_the_mean(trained: Path) -> None:
    draw(trained, "sample.num=200", "sample.out=mean.npz")
    draw(trained, "sample.num=200", "sample.out=noisy.npz", "sample.noise=true")
    mean, noisy = images(trained / "mean.npz"), images(trained / "noisy.npz")
    levels = np.unique(noisy)
    assert set(levels) <= {round(255 * k / 16) for k in range(17)}  # draws are levels of the data, means are not
    assert not set(np.unique(mean)) <= set(levels)
    assert noisy.std(0).mean() > 2 * mean.std(0).mean()


def test_base_prior_is_another_one_and_needs_no_fit(trained: Path, tmp_path: Path) -> None:
    draw(trained, "sample.num=200", "sample.out=learned.npz")
    draw(trained, "sample.num=200", "sample.out=base.npz", "sample.prior=base")
    assert not np.array_equal(images(trained / "learned.npz"), images(trained / "base.npz"))
    result = run_here(tmp_path, *SMALL, "stage=sample", "sample.prior=base", "sample.num=2")
    assert result.stages("done in") == ["vae", "samples"]


def test_png_folder_holds_the_same_pixels(trained: Path) -> None:
    draw(trained, "sample.num=12", "sample.out=pictures")
    draw(trained, "sample.num=12", "sample.out=pixels.npz")
    files = sorted((trained / "pictures").iterdir())
    assert [path.name for path in files] == [f"{i:06d}.png" for i in range(12)]
    for path, pixels in zip(files, images(trained / "pixels.npz"), strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), pixels[0])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_number_of_channels(channels: int) -> None:
    pixels = np.arange(channels * 30, dtype=np.uint8).reshape(channels, 5, 6)
    shown = np.asarray(delivery.to_picture(pixels))
    expected = pixels.transpose(1, 2, 0) if channels > 2 else pixels[0]
    assert np.array_equal(shown, expected)


def test_without_a_name_they_lie_in_the_run(trained: Path) -> None:
    result = draw(trained, "sample.num=5", "name=unnamed")
    (path,) = (trained / "runs").glob("*-unnamed/samples.npz")
    assert len(images(path)) == 5 and str(path.relative_to(trained)) in result.out


def test_an_existing_file_is_replaced_in_one_step(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = trained / "kept.npz"
    target.write_bytes(b"precious")
    over = ("sample.out=kept.npz", "sample.overwrite=true")
    with monkeypatch.context() as patched:

        def full(source: Path, copy: Path) -> None:
            Path(copy).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")

        patched.setattr(delivery.shutil, "copyfile", full)
        failed = run_here(trained, *SMALL, "stage=sample", "sample.num=6", *over)
        assert failed.code == 2 and "No space left" in failed.err
        assert target.read_bytes() == b"precious"
        assert not list(trained.glob(".kept*"))
    before = target.stat().st_ino
    draw(trained, "sample.num=6", *over)
    assert len(images(target)) == 6 and target.stat().st_ino != before
    assert not list(trained.glob(".kept*")) and not list(trained.glob(".expost*"))


class Grey(nn.Module):
    """A decoder of grey images and a prior that counts what is asked of it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.device = torch.device("cpu")

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        self.asked.append(n)
        return torch.rand(n, 4)

    def decode(self, z: Tensor) -> Independent:
        loc = z.mean(1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        return Independent(Normal(loc, 0.1), 3)


def test_any_number_comes_in_blocks_of_one_size() -> None:
    grey: Any = Grey()
    data = Digits().load()
    sizes = [len(block) for block in image_blocks(grey, grey.sample, 20_001, False, 0, data)]
    assert sum(sizes) == 20_001 and set(grey.asked) == {block_size(data.shape)}
    assert block_size((3, 1024, 1024)) == 1


def test_memory_does_not_grow_with_the_number(trained: Path) -> None:
    draw(trained, "sample.num=100", "sample.out=warm.npz")
    tracemalloc.start()
    try:
        draw(trained, "sample.num=60000", "sample.out=large.npz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert os.path.getsize(trained / "large.npz") > 100_000
    assert peak < 60_000 * 64  # NumPy and zip buffers together stay below one copy of the samples
