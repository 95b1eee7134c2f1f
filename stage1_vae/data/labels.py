"""Labels as they come, and the names that users give them.

Inside, classes are numbered 0..K-1; a user knows them by name: the folder's, the word in the file, the number that is
written there (1 to 26, or 3 and 8). Numbers are in their own order, words in the alphabet's. A name that is a number is
a name: `sample.label=2` means the class called 2, whichever row it has.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from stage1_vae.data.images import DataError

MOST_NAMED = 5
MANY = 100
"""From so many images on, labels of which most are different are numbers of images and no classes."""


@dataclass(frozen=True)
class Labels:
    """One label an image.

    Attributes:
        numbers: int64 [N], from 0.
        names: one a class; none where there are no labels.
    """

    numbers: np.ndarray
    names: tuple[str, ...]

    @property
    def are_identities(self) -> bool:
        """Whether most images have a label of their own, as file numbers have and classes have not."""
        return len(self.numbers) >= MANY and 2 * len(self.names) > len(self.numbers)

    @property
    def facts(self) -> tuple[str, ...]:
        """What a fingerprint must know beside the numbers: names, where they are others."""
        return () if self.names == tuple(map(str, range(len(self.names)))) else (repr(self.names),)


def sort_names(names: Collection[str]) -> tuple[str, ...]:
    """Names of classes in the order of their numbers, if all are whole numbers, else in that of the alphabet."""
    if all(_whole_number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _whole_number(name: str) -> int | None:
    try:
        return int(name) if name.strip() == name and "_" not in name else None
    except ValueError:
        return None


def class_values(names: Sequence[str]) -> np.ndarray:
    """What the user's labels call each class, int64 [K]: its name where all are whole numbers, else its number."""
    values = [_whole_number(name) for name in names]
    known = [value for value in values if value is not None]
    is_own = len(set(known)) == len(names) and all(abs(value) < 2**63 for value in known)
    return np.array(known if is_own else range(len(names)), np.int64)


def class_number(label: int | str, names: Sequence[str]) -> int:
    """The number of the class that a user calls `label`.

    Args:
        label: a name, or, where no name is a whole number, a number from 0.
        names: one a class.

    Raises:
        DataError: there is no such class.
    """
    words = str(label)
    if words in names:
        return names.index(words)
    number = _whole_number(words)
    values = [_whole_number(name) for name in names]
    if number is not None and values.count(number) == 1:  # 01 is 1
        return values.index(number)
    if number is not None and not any(value is not None for value in values) and 0 <= number < len(names):
        return number
    if values == list(range(len(names))):
        raise DataError(f"label {words} is out of range; the classes are 0 to {len(names) - 1}")
    nearest = get_close_matches(words, names, n=1) if number is None else []
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise DataError(f"there is no class {words}; {hint}the classes are {list_names(names)}")


def list_names(names: Sequence[str]) -> str:
    """The first few names."""
    first_names = ", ".join(" ".join(name.split())[:40] for name in names[:MOST_NAMED])
    return first_names + (", ..." if len(names) > MOST_NAMED else "")


def read_labels(
    what: str, labels: np.ndarray, num_images: int, column: int | None, guesses: list[str], may_be_left_out: bool = True
) -> Labels:
    """Labels as a file holds them: whole numbers of any type, words, one-hot rows, or a column of several.

    Args:
        what: the file and the array, to name them.
        labels: [N], [N, 1], or [N, columns].
        num_images: N.
        column: of `data.label_column`.
        guesses: to which what is made of labels that can be read in several ways is added.
        may_be_left_out: whether the source has a key for that, which a remedy may name.

    Raises:
        DataError: there are more or fewer than images; they are no classes; several columns, and none was chosen.
    """
    none = ", or set data.label=false for none" if may_be_left_out else ""
    if labels.ndim not in (1, 2) or len(labels) != num_images or 0 in labels.shape[1:]:
        raise DataError(f"{what}: {num_images} images but label has shape {labels.shape}: give one label an image")
    if labels.ndim == 2:
        if column is None and is_one_hot(labels):
            guesses.append(f"labels in one-hot rows of {labels.shape[1]} classes")
            labels = labels.argmax(1)
        else:
            num = labels.shape[1]
            chosen = 0 if column is None and num == 1 else column
            if type(chosen) is not int or not 0 <= chosen < num:
                request = "" if column is None else f"data.label_column={column}: "
                raise DataError(
                    f"{request}{what} has {num} columns of labels: choose one with data.label_column=0 to {num - 1}"
                    f"{none}"
                )
            labels = labels[:, chosen]
    elif column:
        raise DataError(f"data.label_column={column}: {what} has one column of labels; leave the key out")
    return _number_classes(what, labels, none)


def is_one_hot(labels: np.ndarray) -> bool:
    """Whether rows of several columns name one class each."""
    return (
        labels.shape[1] > 1
        and labels.dtype.kind in "biuf"
        and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())
    )


def _number_classes(what: str, labels: np.ndarray, none: str) -> Labels:
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (np.abs(labels) < 2.0**53)
        whole[whole] = labels[whole] == np.round(labels[whole])
        if not whole.all():
            odd = labels[~whole][0]
            raise DataError(f"{what}: label holds {odd:g}, and classes are whole numbers or words: give such{none}")
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biuUS":
        raise DataError(f"{what}: label is {labels.dtype}, and classes are whole numbers or words: give such{none}")
    values, numbers = np.unique(labels, return_inverse=True)
    if labels.dtype.kind == "b":
        values = values.astype(np.int64)
    if labels.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    words = [str(value) for value in values.tolist()]
    names = sort_names(words)
    places = {name: place for place, name in enumerate(names)}
    place = np.array([places[word] for word in words], dtype=np.int64)
    return Labels(place[numbers.reshape(-1)], names)
