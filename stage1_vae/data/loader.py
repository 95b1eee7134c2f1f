"""Batches of x for training and evaluation, reproducible epoch by epoch.

The order of epoch e is a permutation seeded by (seed, e); the noise of binarisation and dequantisation comes from a
second generator with the same seeds. Neither touches torch's global generator, so an epoch is the same whatever ran
before it, with any number of workers. A split in memory is indexed as one tensor on the device; any other goes through
worker processes, a whole batch at a time.

Of several ranks each takes a part: a share of every batch, with noise of its own, or a stretch of whole batches, with
the noise that a single process would give them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stage1_vae.data.images import DataError, ImageSet, InMemory
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.ranks import Ranks

ORDER, NOISE, WORKERS = range(3)


def generator_for(device: torch.device, *key: int) -> torch.Generator:
    """A generator on `device` whose stream is unlike that of any other `key`."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True)
class Part(Ranks):
    """What one of several ranks takes of an epoch.

    Attributes:
        whole_batches: a stretch of the batches, each whole; else of every batch a share of its images.
    """

    whole_batches: bool = False


ALL = Part()


class EpochOrder(Sampler[Tensor]):
    """Row numbers of one epoch, a batch at a time: each image once.

    Shares of a shuffled batch have one size, so that every rank takes the same steps: of a last batch that does not
    divide, the rest waits for another epoch.
    """

    def __init__(self, num: int, batch_size: int, shuffle: bool, seed: int, part: Part) -> None:
        self.num, self.batch_size, self.shuffle, self.seed, self.part = num, batch_size, shuffle, seed, part
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.own_batches.stop - self.own_batches.start

    @property
    def own_batches(self) -> slice:
        """Which of everybody's batches this rank has a part in."""
        full, rest = divmod(self.num, self.batch_size)
        least = self.part.world if self.shuffle and not self.part.whole_batches else 1
        num = full + (rest >= least)
        return self.part.share(num) if self.part.whole_batches else slice(0, num)

    def rows(self) -> Tensor:
        """All rows of this epoch in their order, int64."""
        if not self.shuffle:
            return torch.arange(self.num)
        return torch.randperm(self.num, generator=generator_for(torch.device("cpu"), self.seed, self.epoch, ORDER))

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.divide(self.rows())

    def divide(self, rows: Tensor) -> list[Tensor]:
        """`rows` of the epoch as this rank's batches."""
        batches = list(rows.split(self.batch_size)[self.own_batches])
        if self.part.whole_batches:
            return batches
        divisor = self.part.world if self.shuffle else 1
        return [batch[self.part.share(len(batch) - len(batch) % divisor)] for batch in batches]


class _WholeBatches(Dataset[Tensor | DataError]):
    """Lets a worker fetch a whole batch as one item; a user's mistake travels as a value, for torch would wrap it."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, index: Tensor) -> Tensor | DataError:
        try:
            return self.images.batch(index)
        except DataError as error:
            return error


class Batches:
    """An iterable of pairs (x float32 [B, C, H, W], labels int64 [B] or None) on `device`; Lightning takes it as it is.

    Args:
        images: one split.
        preprocess: raw images -> x.
        batch_size: images a batch; the last may be smaller.
        shuffle: a new order and new noise each epoch; without it, the same order and the same noise always.
        seed: of order and noise.
        part: what this rank takes, of several; `batch_size` is that of all together.
        device: where the batches lie, and a split in memory with them.
        num_workers: processes that read a split that is not in memory; 0: this one.

    Raises:
        DataError: a batch size below 1, a negative number of workers, more ranks than a batch has images.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocess: Preprocess,
        batch_size: int,
        shuffle: bool,
        seed: int,
        part: Part = ALL,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"a batch of {batch_size} images is empty: give a batch size of at least 1")
        if num_workers < 0:
            raise DataError(f"{num_workers} workers are not possible: give 0 or more")
        if part.world > min(batch_size, len(images)) and not part.whole_batches:
            raise DataError(
                f"{min(batch_size, len(images))} images a batch cannot be shared among {part.world} ranks: "
                "give more images or a larger batch, or lower trainer.devices"
            )
        self.device = torch.device(device)
        self.images = images.to(self.device) if isinstance(images, InMemory) else images
        self.preprocess, self.seed, self.num_workers = preprocess, seed, num_workers
        self.sampler = EpochOrder(len(images), batch_size, shuffle, seed, part)
        self.batch_size = batch_size if part.whole_batches else batch_size // part.world
        self.batch_sampler = None  # Lightning looks for it beside a sampler

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def rows(self) -> range:
        """Of whole batches in the order of the split: the rows that they cover."""
        own_batches, size = self.sampler.own_batches, self.sampler.batch_size
        return range(min(own_batches.start * size, self.sampler.num), min(own_batches.stop * size, self.sampler.num))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        epoch = self.sampler.epoch if self.sampler.shuffle else 0
        part = self.sampler.part
        own = (part.rank,) if part.rank and not part.whole_batches else ()
        noise = generator_for(self.device, self.seed, epoch, NOISE, *own)
        self._skip_noise(noise)
        labels = None if self.images.labels is None else self.images.labels.to(self.device)
        for index, raw in self._raw(epoch):
            yield self.preprocess(raw, noise), None if labels is None else labels[index]

    def _skip_noise(self, noise: torch.Generator) -> None:
        """Leave `noise` where the batches that other ranks take first would leave it."""
        if not (self.preprocess.is_random and self.sampler.own_batches.start and len(self)):
            return
        shape = self.images.batch(torch.zeros(1, dtype=torch.int64)).shape[1:]
        for _ in range(self.sampler.own_batches.start):
            torch.rand((self.sampler.batch_size, *shape), generator=noise, device=self.device)

    def _raw(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of row numbers [B] and raw images [B, C, H, W], both on the device."""
        batches = self.sampler.divide(self.sampler.rows().to(self.device))  # one transfer an epoch
        if isinstance(self.images, InMemory):
            for index in batches:
                yield index, self.images.batch(index)
            return
        loader = DataLoader(
            _WholeBatches(self.images),
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            # given, so that torch does not draw the workers' seeds from the global generator
            generator=generator_for(torch.device("cpu"), self.seed, epoch, WORKERS),
        )
        for index, raw in zip(batches, loader, strict=True):
            if isinstance(raw, DataError):
                raise raw
            yield index, raw.to(self.device, non_blocking=True)
