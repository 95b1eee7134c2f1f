"""Batches of x for training and evaluation, reproducible epoch by epoch.

The order of epoch e is a permutation seeded by (seed, e); the noise of binarisation and dequantisation comes from a
second generator with the same seeds. Neither touches torch's global generator, so an epoch is the same whatever ran
before it, with any number of workers. A split in memory is indexed as one tensor on the device; any other goes through
worker processes, a whole batch at a time.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stage1_vae.data.images import DataError, ImageSet, InMemory
from stage1_vae.data.preprocess import Preprocess

ORDER, NOISE, WORKERS = range(3)


def seeded(device: torch.device, *key: int) -> torch.Generator:
    """A generator on `device` whose stream is unlike that of any other `key`."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


class EpochOrder(Sampler[Tensor]):
    """Row numbers of one epoch, a batch at a time: each image once, but for a dropped last batch."""

    def __init__(self, num: int, batch_size: int, shuffle: bool, seed: int, drop_last: bool) -> None:
        self.num, self.batch_size, self.shuffle, self.seed, self.drop_last = num, batch_size, shuffle, seed, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num // self.batch_size if self.drop_last else -(-self.num // self.batch_size)

    def rows(self) -> Tensor:
        """All rows of this epoch in their order, int64."""
        if not self.shuffle:
            return torch.arange(self.num)
        return torch.randperm(self.num, generator=seeded(torch.device("cpu"), self.seed, self.epoch, ORDER))

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.rows().split(self.batch_size)[: len(self)]


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
        drop_last: leave out a last batch that is not full.
        device: where the batches lie, and a split in memory with them.
        num_workers: processes that read a split that is not in memory; 0: this one.

    Raises:
        DataError: a batch size below 1, a full batch that the split cannot fill, a negative number of workers.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocess: Preprocess,
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"a batch of {batch_size} images is empty: give a batch size of at least 1")
        if drop_last and batch_size > len(images):
            raise DataError(f"{len(images)} images do not fill one batch of {batch_size}: lower the batch size")
        if num_workers < 0:
            raise DataError(f"{num_workers} workers are not possible: give 0 or more")
        self.device = torch.device(device)
        self.images = images.to(self.device) if isinstance(images, InMemory) else images
        self.preprocess, self.batch_size, self.seed, self.num_workers = preprocess, batch_size, seed, num_workers
        self.sampler = EpochOrder(len(images), batch_size, shuffle, seed, drop_last)
        self.batch_sampler = None  # Lightning looks for it beside a sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields; Lightning calls this through `sampler`."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        epoch = self.sampler.epoch if self.sampler.shuffle else 0
        noise = seeded(self.device, self.seed, epoch, NOISE)
        labels = None if self.images.labels is None else self.images.labels.to(self.device)
        for index, raw in self._raw(epoch):
            yield self.preprocess(raw, noise), None if labels is None else labels[index]

    def _raw(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of row numbers [B] and raw images [B, C, H, W], both on the device."""
        rows = self.sampler.rows().to(self.device)  # one transfer an epoch
        batches = rows.split(self.batch_size)[: len(self)]
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
            generator=seeded(torch.device("cpu"), self.seed, epoch, WORKERS),
        )
        for index, raw in zip(batches, loader, strict=True):
            if isinstance(raw, DataError):
                raise raw
            yield index, raw.to(self.device, non_blocking=True)
