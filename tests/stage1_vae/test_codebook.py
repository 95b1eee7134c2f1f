"""The codebook: against the paper's recursion worked out by hand, its start, its revival, its gradients, its ranks."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stage1_vae.codes import codebook
from stage1_vae.codes.codebook import Codebook, rotate
from stage1_vae.codes.usage import CodeUsage


def blobs() -> Tensor:
    """Vectors [1280, 5] in 64 tight groups."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(64, 5, generator=generator)
    return centres.repeat(20, 1) + 0.01 * torch.randn(1280, 5, generator=generator)


def started(vectors: Tensor, counts: Tensor, **options: Any) -> Codebook:
    book = Codebook(*vectors.shape, **options)
    book.vectors.copy_(vectors)
    book.counts.copy_(counts)
    book.sums.copy_(vectors * counts[:, None])
    return book.train()


class Largest(TorchDispatchMode):
    """The most numbers that any tensor of an operation holds."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


def test_neighbours_of_many_vectors_are_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    h, book = blobs(), started(blobs()[:64], torch.ones(64))
    expected = torch.cdist(h.double(), book.vectors.double()).argmin(1)
    assert torch.equal(book.nearest(h), expected)
    monkeypatch.setattr(codebook, "MOST_DISTANCES", 10_000)
    with Largest() as largest:
        assert torch.equal(book.nearest(h), expected)
    assert largest.numbers <= 10_000
    assert book.nearest(h[:0]).shape == (0,)


def test_averages_follow_the_recursion_of_the_paper() -> None:
    """Equations 6 to 8 of van den Oord et al. (2017), in plain loops."""
    decay, vectors, counts = 0.9, torch.tensor([[0.0, 0.0], [4.0, 4.0]]), torch.tensor([3.0, 5.0])
    book = started(vectors, counts, decay=decay, revive_below=0.0)
    mass, total, now = counts.tolist(), (vectors * counts[:, None]).tolist(), vectors.tolist()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        h = 4 * torch.rand(7, 2, generator=generator)
        expected = []
        for x in h.tolist():
            expected.append(min((0, 1), key=lambda k: sum((a - b) ** 2 for a, b in zip(x, now[k], strict=True))))
        codes, _ = book(h)
        assert codes.tolist() == expected
        for k in (0, 1):
            members = [x for x, code in zip(h.tolist(), expected, strict=True) if code == k]
            mass[k] = decay * mass[k] + (1 - decay) * len(members)
            total[k] = [decay * total[k][d] + (1 - decay) * sum(x[d] for x in members) for d in (0, 1)]
            now[k] = [total[k][d] / mass[k] for d in (0, 1)]
        torch.testing.assert_close(book.vectors, torch.tensor(now))
        torch.testing.assert_close(book.counts, torch.tensor(mass))


def test_starts_on_the_first_batch_by_k_means() -> None:
    torch.manual_seed(0)
    h = blobs()
    book = Codebook(64, 5).train()
    book(h)
    drawn = h[torch.randperm(len(h))[:64]]
    assert distortion(book, h) < 0.6 * torch.cdist(h, drawn).amin(1).square().mean()
    before = book.vectors.clone()
    book(h)
    assert (book.vectors - before).abs().max() < 1, "it started again"


def test_codes_that_k_means_leaves_empty_start_elsewhere() -> None:
    """Half of the batch is one vector over and over, and so are half of the codes at first."""
    torch.manual_seed(0)
    h = torch.cat([torch.zeros(400, 5), 5 * torch.randn(400, 5)])
    book = Codebook(64, 5)
    book._start(h)
    assert len(book.nearest(h).unique()) >= 56


def distortion(book: Codebook, h: Tensor) -> Tensor:
    return (h - book.vectors[book.nearest(h)]).square().sum(1).mean()


def test_it_neither_starts_nor_moves_outside_of_training() -> None:
    book = Codebook(8, 5).eval()
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book(blobs())
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())


def test_nearest_is_nearest_under_autocast_too() -> None:
    torch.manual_seed(0)
    book, h = Codebook(256, 8), torch.randn(500, 8)
    expected = torch.cdist(h.double(), book.vectors.double()).argmin(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book.nearest(h), expected)


def test_a_dead_code_is_revived_with_its_averages() -> None:
    torch.manual_seed(0)
    vectors = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1000.0, 1000.0]])
    book = started(vectors, torch.tensor([100.0, 100.0, 1.0]), decay=0.9, revive_below=0.05)
    h = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)]) + 0.1 * torch.randn(100, 2)
    book(h)
    torch.testing.assert_close(book.vectors, book.sums / book.counts[:, None])
    assert (torch.cdist(book.vectors[2:], h) < 1e-4).any(), "a revived code stands on a vector of the batch"
    assert book.counts[2] > 20, "or it would die again at once"
    place = book.vectors[2].clone()
    book(h)
    assert (book.vectors[2] - place).norm() < 1, "its old averages carried it back"
    assert book.read() == {"codes_revived": 1.0} and book.read() == {"codes_revived": 0.0}


def test_none_is_revived_where_none_ever_is_dead() -> None:
    book = started(torch.tensor([[0.0], [1000.0]]), torch.tensor([100.0, 1.0]), revive_below=0.0)
    for _ in range(2500):  # its counts and sums decay to nothing
        book(torch.zeros(10, 1))
    assert book.counts[1] < 1e-30
    assert book.vectors[1].item() == pytest.approx(1000, abs=0.1) and book.read()["codes_revived"] == 0
    book(torch.full((10, 1), 900.0))
    assert book.vectors[1].item() == pytest.approx(900), "once something is assigned to it, it moves again"


@pytest.mark.parametrize("rotation", [False, True])
def test_the_decoder_sees_the_code_vector(rotation: bool) -> None:
    torch.manual_seed(0)
    book = Codebook(16, 6, rotation=rotation).eval()
    h = torch.randn(40, 6, requires_grad=True)
    codes, chosen = book(h)
    torch.testing.assert_close(chosen, book.vectors[codes], rtol=1e-4, atol=1e-5)
    towards = torch.randn(40, 6)
    (gradient,) = torch.autograd.grad(chosen, h, towards)
    if not rotation:
        assert torch.equal(gradient, towards)
        return
    scale = book.vectors[codes].norm(dim=1) / h.norm(dim=1)
    torch.testing.assert_close(gradient.norm(dim=1), scale * towards.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_the_rotation_turns_the_gradient_as_it_turns_the_vector() -> None:
    """What points along the code vector comes back along h, and angles between gradient and vector are kept."""
    torch.manual_seed(1)
    h, chosen, towards = torch.randn(30, 6, requires_grad=True), torch.randn(30, 6), torch.randn(30, 6)
    (along,) = torch.autograd.grad(rotate(h, chosen), h, chosen)
    torch.testing.assert_close(cosine(along, h), torch.ones(30), rtol=1e-4, atol=1e-4)
    (any_other,) = torch.autograd.grad(rotate(h, chosen), h, towards)
    torch.testing.assert_close(cosine(any_other, h), cosine(towards, chosen), rtol=1e-4, atol=1e-4)
    opposite = rotate(h, -2 * h.detach())
    torch.testing.assert_close(opposite, -2 * h.detach())


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b.detach(), dim=1)


def test_codes_are_those_of_vector_quantize_pytorch() -> None:
    """Codes, vectors and averages over several steps from one start, where both do the same."""
    oracle_class = pytest.importorskip("vector_quantize_pytorch").VectorQuantize
    torch.manual_seed(0)
    oracle = oracle_class(dim=6, codebook_size=12, decay=0.8, threshold_ema_dead_code=0, eps=0).train()
    vectors = oracle.codebook.clone()
    inner = oracle._codebook
    book = started(vectors, torch.ones(12), decay=0.8, revive_below=0.0)
    inner.cluster_size.fill_(1.0)
    inner.embed_avg.copy_(vectors[None])
    for _ in range(4):
        h = torch.randn(1, 200, 6)
        quantised, index, _ = oracle(h)
        codes, chosen = book(h[0])
        assert torch.equal(codes, index[0])
        torch.testing.assert_close(chosen, quantised[0])
        torch.testing.assert_close(book.vectors, oracle.codebook, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"num_codes": 0}, {"dim": 0}, {"decay": 1.0}, {"revive_below": -0.1}])
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"vae\.bottleneck"):
        Codebook(**{"num_codes": 4, "dim": 2, **options})


STEPS = 30


def train_in_rank(rank: int, world: int, port: int, folder: Path, compiled: bool) -> None:
    """One rank's part of training a codebook that needs revival, and what it ends with, into `folder`."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(rank)
    book = Codebook(32, 3, decay=0.8).train()
    usage = CodeUsage(32).train()
    start = 0.0
    for step in range(STEPS):
        codes, _ = book(all_vectors(step)[rank::world])
        usage.add(codes)
        start = start or book.counts.sum().item()
        if compiled and step == 0:  # the first batch, on which it starts, goes the eager way
            book.compile(dynamic=False)
    state = {name: value.numpy() for name, value in book.state_dict().items()}
    np.savez(folder / f"{rank}.npz", **state, revived=book.revived.numpy(), start=start, **usage.read())  # type: ignore[arg-type]
    dist.destroy_process_group()


def all_vectors(step: int) -> Tensor:
    """A batch [120, 3] of a density that jumps away in between, so that codes die."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(120, 3, generator=generator) + 20 * (step >= 10)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_ranks_end_with_equal_codebooks(compiled: bool, tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    mp.spawn(train_in_rank, (2, port, tmp_path, compiled), nprocs=2)
    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in (0, 1))
    for name in first:
        assert np.array_equal(first[name], second[name]), name
    assert first["revived"] > 0
    assert first["start"] == pytest.approx(120), "a batch is what all ranks have of it"
    assert first["counts"].sum() == pytest.approx(120, rel=0.5), "both shares of every batch were counted"
    last = all_vectors(STEPS - 1)
    distance = torch.cdist(last, torch.from_numpy(first["vectors"])).amin(1)
    assert distance.mean() < 1.5, "the codes followed"
