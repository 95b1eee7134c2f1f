"""What a source of images hands to the pipeline: three fixed splits of raw images and the facts about them.

Raw images are uint8 level numbers or float32 values, [B, C, H, W]; `Preprocess` makes `x` of them. Labels travel with
the images. The fingerprint names the content: the same images, labels and splits give the same one on any machine.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from stage1_vae.errors import ExpostError
from stage1_vae.rows import spread_rows


class DataError(ExpostError, ValueError):
    """A mistake in the data or its configuration: one line that says what is wrong and what to do."""


class Domain(StrEnum):
    """Where a pixel lives."""

    UNIT = "unit"
    REAL = "real"


class ImageSet(ABC):
    """One split.

    Attributes:
        labels: int64 [N], or None.
        places: where each image was read from, as `str` says it; empty where a source has no file an image.
    """

    labels: Tensor | None
    places: Sequence[object] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, index: Tensor) -> Tensor:
        """Raw images [B, C, H, W], uint8 level numbers or float32, for the rows `index` [B]."""


class InMemory(ImageSet):
    """A split held as one tensor, indexed where it lies.

    Args:
        images: [N, C, H, W], uint8 or float32.
        labels: int64 [N], or None.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; expected uint8 or float32 [N, C, H, W]")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} images")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Tensor:
        return self.images.index_select(0, index.to(self.images.device))  # several times faster than indexing on a CPU

    def to(self, device: torch.device | str) -> "InMemory":
        """The same split on `device`; nothing is copied if it lies there already."""
        return InMemory(self.images.to(device), None if self.labels is None else self.labels.to(device))


class Subset(ImageSet):
    """Some rows of a split that is not in memory."""

    def __init__(self, images: ImageSet, index: Tensor) -> None:
        self.images, self.index = images, index
        self.labels = None if images.labels is None else images.labels[index]

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, index: Tensor) -> Tensor:
        return self.images.batch(self.index[index.cpu()])


def spread_classes(total: int, num: int, labels: Tensor | None, of_each: int) -> Tensor:
    """`num` of `total` rows, evenly spread, and more of a class that has fewer than `of_each` among them, as far as
    there are any; int64, in their order."""
    index = spread_rows(total, num)
    if labels is None or of_each == 0:
        return index
    labels, is_taken = labels.cpu(), torch.zeros(total, dtype=torch.bool)
    is_taken[index] = True
    for y in labels.unique():
        of_class = labels == y
        lacking = max(0, of_each - int((of_class & is_taken).sum()))
        is_taken[(of_class & ~is_taken).nonzero().squeeze(1)[:lacking]] = True
    return is_taken.nonzero().squeeze(1)


def subset(images: ImageSet, num: int, of_each: int = 0) -> ImageSet:
    """At most `num` images, evenly spread over the split, for files often come sorted by class; and as many more as
    `of_each` of every class take."""
    if num >= len(images):
        return images
    index = spread_classes(len(images), num, images.labels, of_each)
    if not isinstance(images, InMemory):
        return Subset(images, index)
    labels = None if images.labels is None else images.labels[index.to(images.labels.device)]
    return InMemory(images.batch(index), labels)


class KnownDensity(Protocol):
    """The density that images were drawn from, where it is known: an oracle for everything that estimates it."""

    def log_prob(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> log p(x), exact, float64 [B] nats."""
        ...


class Split(Protocol):
    """One split, whatever it is of.

    Attributes:
        labels: int64 [N], or None.
    """

    labels: Tensor | None

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Data:
    """What a source made of files, whatever they hold.

    Attributes:
        name: for reports.
        train, val, test: the fixed splits.
        fingerprint: sha256 of content, labels and split assignment.
        class_names: one a class; empty without labels.
        value_range: the smallest and the largest raw value of what was looked at; None where nobody looked.
        guesses: what a source made of files that can be read in several ways, each with the key that changes it.
        left_out: what it did not take, with its number and the key or the step that changes it.
        check_unchanged: raises a DataError where what stays on disk is no longer that of the fingerprint.
    """

    name: str
    train: Split
    val: Split
    test: Split
    _: KW_ONLY
    fingerprint: str
    class_names: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None
    guesses: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    check_unchanged: Callable[[], None] = lambda: None

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes-1; 0: no labels."""
        return len(self.class_names)


@dataclass(frozen=True)
class Units:
    """Units in which the columns of vectors were measured.

    Attributes:
        centre, scale: float64 [D]; a number v of the file is x = (v - centre) / scale.
    """

    centre: Tensor
    scale: Tensor

    def standardise(self, rows: Tensor) -> Tensor:
        """x [N, 1, 1, D] of numbers of the file."""
        return ((rows.double() - self.centre) / self.scale).float()

    def restore(self, x: Tensor) -> Tensor:
        """Numbers of the file, float32 of the shape of x [..., D]."""
        return (x.double() * self.scale + self.centre).float()

    @property
    def log_volume(self) -> float:
        """What is added to -log p(x), in nats, for numbers of the file."""
        return self.scale.log().sum().item()


@dataclass(frozen=True)
class ImageData(Data):
    """A data set of images, and what a model must know of them.

    Attributes:
        shape: (C, H, W) of one image.
        levels: how many values a raw uint8 pixel takes (256 for 8-bit images); None for float data.
        domain: where a pixel lives.
        density: what the images were drawn from; None where nobody knows.
        are_pictures: whether there is something to look at; else they are vectors in one line, (1, 1, D).
        units: of vectors that were standardised; None: they are as in the file.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    _: KW_ONLY
    shape: tuple[int, int, int]
    levels: int | None = None
    domain: Domain = Domain.UNIT
    density: KnownDensity | None = None
    are_pictures: bool = True
    units: Units | None = None


class Source(ABC):
    """Makes a data set; its fields are keys of `data:`."""

    version: ClassVar[int] = 1

    @abstractmethod
    def load(self) -> Data:
        """
        Raises:
            DataError: what it reads is not there, or is not what it should be.
        """


def fingerprint(parts: Iterable[InMemory | Tensor | str | bytes | None]) -> str:
    """sha256 over `parts` in their order; types, shapes and lengths count too, so that parts cannot run together."""
    digest = hashlib.sha256()
    for part in parts:
        for piece in (part.images, part.labels) if isinstance(part, InMemory) else (part,):
            if isinstance(piece, Tensor):
                digest.update(f"{piece.dtype}{tuple(piece.shape)}".encode())
                digest.update(piece.cpu().contiguous().numpy().tobytes())
            elif piece is None:
                digest.update(b"none")
            else:
                content = piece.encode(errors="surrogateescape") if isinstance(piece, str) else piece
                digest.update(f"{type(piece).__name__}{len(content)}:".encode() + content)
    return digest.hexdigest()
