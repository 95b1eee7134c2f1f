"""Whether files that are read while stages run are still those whose content was fingerprinted."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stage1_vae.data.images import DataError

MODIFIED = 1


class Watched:
    """Size, time of the last change and identity of files.

    Writing through a memory map counts as a change too: the kernel writes down its time.

    Args:
        paths: the files.
        since_ns: when they were first read, nanoseconds since 1970; a change between that and now counts, too.

    Raises:
        DataError: one is not there, or has changed since.
    """

    def __init__(self, paths: Iterable[Path], since_ns: int) -> None:
        self.paths = paths if isinstance(paths, Sequence) else tuple(paths)
        self._facts = self._look()
        times = self._facts[:, MODIFIED]
        self._refuse((times > since_ns) & (times <= time.time_ns()))  # some files come from the future

    def check(self) -> None:
        """
        Raises:
            DataError: a file has changed, or is gone.
        """
        self._refuse((self._look() != self._facts).any(axis=1))

    def _refuse(self, changed: np.ndarray) -> None:
        """`changed`: which of the files have, bool [N]."""
        if changed.any():
            path = self.paths[int(changed.argmax())]
            raise DataError(
                f"{path} has changed while it was read: nothing is kept that may come from other images; "
                "see that nobody writes there, then repeat the command"
            )

    def _look(self) -> np.ndarray:
        """int64 [N, 3]."""
        facts = np.empty((len(self.paths), 3), np.int64)
        for i, path in enumerate(self.paths):
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}; put it back, then repeat the command") from error
            facts[i] = status.st_size, status.st_mtime_ns, np.uint64(status.st_ino).astype(np.int64)
        return facts
