"""Images or latents that somebody has, beside those of a model: all of a file or folder, in their order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stage1_vae.data.images import DataError, ImageSet
from stage1_vae.latents import LatentDataset


@dataclass(frozen=True)
class Given:
    """What was read, without splits and without labels.

    Attributes:
        name: of the file or folder.
        place: row -> the file that it is from, named from the folder that was read, and its number in there, from 0.
        fingerprint: sha256 of the content.
        value_range: the smallest and the largest raw number.
        guesses, left_out: see `stage1_vae.data.images.Data`.
        check_unchanged: raises a DataError where what stays on disk is no longer that of the fingerprint.
    """

    name: str
    place: Callable[[int], tuple[str, int]]
    fingerprint: str
    value_range: tuple[float, float]
    guesses: tuple[str, ...]
    left_out: tuple[str, ...]
    check_unchanged: Callable[[], None]


@dataclass(frozen=True)
class GivenImages(Given):
    """Attributes:
    images: raw, in the shape, levels and domain of those that they are compared with.
    """

    images: ImageSet


@dataclass(frozen=True)
class GivenLatents(Given):
    """Attributes:
    latents: of the spec and family of those that they are compared with.
    """

    latents: LatentDataset


def existing_root(root: str, what: str) -> Path:
    """`score.root` as an absolute path to a file or folder that exists.

    Args:
        root: as the user gave it.
        what: what it may be, in words.

    Raises:
        DataError: nothing is there, or it is neither.
    """
    path = Path(root).expanduser().absolute()
    if not path.exists():
        raise DataError(f"score.root={root} does not exist: give {what}")
    if not (path.is_dir() or path.is_file()):
        raise DataError(f"score.root={root} is neither a file nor a folder: give {what}")
    return path


def of_score(error: DataError) -> DataError:
    """The same about what is read for `score.root`, though a reader of `data.root` found it."""
    return DataError(str(error).replace("data.root", "score.root"))
