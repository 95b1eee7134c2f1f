"""Preprocessing and batches."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import refusal
from PIL import Image

from stage1_vae.data.arrays import Arrays
from stage1_vae.data.digits import Digits
from stage1_vae.data.folders.files import Files
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import Domain, InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess, SameNoise

PLAIN = Preprocess(levels=256)
DYNAMIC = Preprocess(levels=256, binarize="dynamic")
NUM = 103


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def numbered() -> InMemory:
    """Image i has all pixels i; its label is i too."""
    return InMemory(torch.arange(NUM, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 5), torch.arange(NUM))


@pytest.fixture
def noisy() -> InMemory:
    return InMemory(torch.randint(0, 256, (NUM, 1, 4, 5), dtype=torch.uint8, generator=generator()))


def epoch(batches: Batches, number: int = 0) -> torch.Tensor:
    batches.sampler.set_epoch(number)
    return torch.cat([x for x, _ in batches])


# --- preprocessing


def test_levels_become_intensities() -> None:
    raw = torch.tensor([0, 8, 16], dtype=torch.uint8).view(1, 1, 1, 3)
    preprocess = Preprocess(levels=17)
    assert preprocess(raw).flatten().tolist() == [0.0, 0.5, 1.0]
    assert preprocess(raw).dtype == torch.float32 and preprocess.num_levels == 17 and not preprocess.is_random
    assert torch.equal(preprocess.clean(raw), preprocess(raw))


def test_floats_pass_unchanged() -> None:
    raw = torch.randn(4, 1, 3, 3, generator=generator())
    preprocess = Preprocess(levels=None, domain=Domain.REAL)
    assert torch.equal(preprocess(raw), raw) and preprocess.num_levels is None


def test_threshold() -> None:
    raw = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    preprocess = Preprocess(levels=256, binarize="threshold")
    assert preprocess(raw).flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert preprocess.num_levels == 2 and not preprocess.is_random
    assert torch.allclose(preprocess.clean(raw).flatten(), torch.tensor([0, 127, 128, 255]) / 255)


def test_dynamic_binarisation_has_the_right_frequencies() -> None:
    levels = torch.tensor([0, 1, 64, 128, 254, 255], dtype=torch.uint8)
    num = 200_000
    x = DYNAMIC(levels.view(1, 1, 1, 6).expand(num, 1, 1, 6), generator())
    assert set(x.unique().tolist()) == {0.0, 1.0} and DYNAMIC.num_levels == 2
    p = levels / 255
    frequency = x.mean((0, 1, 2))
    assert frequency[0] == 0 and frequency[-1] == 1  # black is never white
    assert ((frequency - p).abs() <= 4.5 * (p * (1 - p) / num).sqrt()).all()


def test_dequantisation_fills_each_level_evenly() -> None:
    preprocess = Preprocess(levels=256, dequantize=True)
    levels = torch.tensor([0, 100, 255], dtype=torch.uint8)
    num = 100_000
    x = preprocess(levels.view(1, 1, 1, 3).expand(num, 1, 1, 3), generator())
    inside = (x * 256 - levels).flatten(0, 2)  # u
    assert inside.min() >= 0 and inside.max() <= 1 and x.max() < 1
    assert ((inside.mean(0) - 0.5).abs() < 5 / math.sqrt(12 * num)).all()
    assert ((inside.var(0) - 1 / 12).abs() < 0.002).all()
    assert preprocess.num_levels is None and preprocess.is_random


def test_combinations_that_mean_nothing() -> None:
    refusal(lambda: Preprocess(256, binarize="dinamic"), "data.binarize=dinamic", "did you mean dynamic?", "threshold")
    refusal(lambda: Preprocess(None, Domain.REAL, binarize="dynamic"), "data.binarize=none", "data.domain=unit")
    refusal(lambda: Preprocess(256, binarize="threshold", dequantize=True), "data.dequantize=false")
    refusal(lambda: Preprocess(None, dequantize=True), "data.dequantize=false")
    refusal(lambda: Preprocess(256, dequantize="auto"), "data.dequantize=auto")  # type: ignore[arg-type]


def test_noise_needs_a_generator() -> None:
    raw = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    for preprocess in (DYNAMIC, Preprocess(256, dequantize=True)):
        with pytest.raises(ValueError, match="needs a generator"):
            preprocess(raw)


# --- batches


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_image_once_an_epoch_with_its_label(numbered: InMemory, shuffle: bool) -> None:
    batches = Batches(numbered, PLAIN, 20, shuffle, seed=3)
    pairs = list(batches)
    assert len(pairs) == len(batches) == 6
    assert [len(x) for x, _ in pairs] == [20] * 5 + [3]
    labels = torch.cat([k for _, k in pairs])
    assert sorted(labels.tolist()) == list(range(NUM))
    assert torch.equal(torch.cat([x for x, _ in pairs])[:, 0, 0, 0] * 255, labels.float())
    assert (labels.tolist() == list(range(NUM))) is not shuffle


def test_no_labels_no_labels(noisy: InMemory) -> None:
    assert all(labels is None for _, labels in Batches(noisy, PLAIN, 20, True, seed=0))


def test_epochs_are_reproducible_and_differ(noisy: InMemory) -> None:
    batches = Batches(noisy, DYNAMIC, 20, True, seed=3)
    first, second, third = (epoch(batches, number) for number in range(3))
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert torch.equal(epoch(batches, 1), second)  # back again
    assert torch.equal(epoch(Batches(noisy, DYNAMIC, 20, True, seed=3), 2), third)  # without the epochs before
    assert not torch.equal(epoch(Batches(noisy, DYNAMIC, 20, True, seed=4), 0), first)


def test_order_is_new_each_epoch(numbered: InMemory) -> None:
    batches = Batches(numbered, PLAIN, 20, True, seed=3)
    orders = [tuple(epoch(batches, number)[:, 0, 0, 0].tolist()) for number in range(4)]
    assert len(set(orders)) == 4


def test_noise_is_new_each_epoch() -> None:
    """One grey image: the order cannot matter, only the noise can."""
    grey = InMemory(torch.full((1, 1, 16, 16), 128, dtype=torch.uint8))
    batches = Batches(grey, DYNAMIC, 1, True, seed=0)
    assert not torch.equal(epoch(batches, 0), epoch(batches, 1))


def test_validation_has_the_same_order_and_noise_always(noisy: InMemory) -> None:
    batches = Batches(noisy, DYNAMIC, 20, False, seed=3)
    first = epoch(batches, 0)
    assert torch.equal(epoch(batches, 1), first) and torch.equal(epoch(batches, 7), first)
    assert not torch.equal(epoch(Batches(noisy, DYNAMIC, 20, False, seed=4)), first)


def test_the_global_generator_is_neither_used_nor_heeded(noisy: InMemory, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noisy.images.numpy())
    lazy = Arrays(str(tmp_path / "x.npy"), memory_limit_gib=0).load().train
    for images, workers in ((noisy, 0), (lazy, 0)):
        batches = Batches(images, DYNAMIC, 20, True, seed=3, num_workers=workers)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first = epoch(batches)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        assert torch.equal(epoch(batches), first)


def test_lazy_sets_yield_what_memory_yields_with_any_number_of_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    whole = ImageFolder(str(tmp_path)).load().train
    lazy = ImageFolder(str(tmp_path), memory_limit_gib=0).load().train
    expected = list(Batches(whole, DYNAMIC, 8, True, seed=5))
    for workers in (0, 2):
        found = list(Batches(lazy, DYNAMIC, 8, True, seed=5, num_workers=workers))
        assert len(found) == len(expected) == 4
        for (x, labels), (x_found, labels_found) in zip(expected, found, strict=True):
            assert torch.equal(x, x_found) and torch.equal(labels, labels_found)


def test_a_damaged_file_met_by_a_worker_is_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    data = ImageFolder(str(tmp_path), memory_limit_gib=0).load()
    assert isinstance(data.train, Files)
    path = data.train.paths[3]
    path.write_bytes(path.read_bytes()[:-500])
    refusal(lambda: list(Batches(data.train, PLAIN, 4, True, seed=0, num_workers=1)), str(path), "repair or remove")


def test_bad_numbers(noisy: InMemory) -> None:
    refusal(lambda: Batches(noisy, PLAIN, 0, True, seed=0), "at least 1")
    refusal(lambda: Batches(noisy, PLAIN, 4, True, seed=0, num_workers=-1), "0 or more")


def test_sets_on_the_right_device_are_not_copied(noisy: InMemory) -> None:
    batches = Batches(noisy, PLAIN, 4, True, seed=0, device="cpu")
    assert isinstance(batches.images, InMemory)
    assert batches.images.images.data_ptr() == noisy.images.data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(noisy: InMemory) -> None:
    batches = Batches(noisy, DYNAMIC, 20, True, seed=0, device="cuda")
    assert epoch(batches).is_cuda and torch.equal(epoch(batches), epoch(batches))
    plain = epoch(Batches(noisy, PLAIN, 20, True, seed=0, device="cuda"))
    assert torch.allclose(plain.cpu(), epoch(Batches(noisy, PLAIN, 20, True, seed=0)))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of Lightning, about torch
def test_lightning_moves_the_epoch_on() -> None:
    import pytorch_lightning as pl

    class Recorder(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[torch.Tensor] = []
            self.validated: list[torch.Tensor] = []

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
            self.seen.append(batch[0])
            return self.weight * batch[0].mean()

        def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
            self.validated.append(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = Digits().load()
    preprocess = Preprocess(data.levels, data.domain, binarize="dynamic")
    train, val = Batches(data.train, preprocess, 700, True, seed=1), Batches(data.val, preprocess, 180, False, seed=1)
    module = Recorder()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, train, val)
    assert len(module.seen) == 4
    assert torch.equal(torch.cat(module.seen[:2]), epoch(train, 0))
    assert torch.equal(torch.cat(module.seen[2:]), epoch(train, 1))
    assert torch.equal(module.validated[0], module.validated[1])


@pytest.mark.slow
def test_throughput() -> None:
    """At least 100,000 MNIST-sized images a second of this process's own time."""
    images = InMemory(torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for preprocess in (PLAIN, DYNAMIC, Preprocess(256, dequantize=True)):
            start = time.process_time()
            for _ in Batches(images, preprocess, 128, True, seed=0):
                pass
            assert len(images) / (time.process_time() - start) > 100_000
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("how", [{"binarize": "dynamic"}, {"dequantize": True}])
def test_same_noise_for_all_images_is_that_of_the_family(how: dict[str, object]) -> None:
    same = SameNoise(levels=256, seed=3, **how)  # type: ignore[arg-type]
    raw = torch.full((2, 1, 60, 60), 77, dtype=torch.uint8)
    x, usual = same(raw), Preprocess(levels=256, **how)(raw, generator())  # type: ignore[arg-type]
    assert torch.equal(x[0], x[1]) and torch.equal(x[:1], same(raw[:1])) and x.dtype == usual.dtype
    assert x.mean().item() == pytest.approx(usual.mean().item(), abs=0.03)
    assert x.std().item() == pytest.approx(usual.std().item(), rel=0.05)


def test_same_noise_leaves_what_draws_nothing_as_it_is() -> None:
    raw = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(SameNoise(levels=256)(raw), PLAIN(raw))
