"""One TIFF file of many pages, of any depth and number of channels, as one array."""

from pathlib import Path

import numpy as np

from stage1_vae.data.readers.named import NamedArrays, check_promised, check_room, import_reader

ALONE = {"_multifile": False, "is_ome": False, "is_mmstack": False, "is_ndtiff": False}
"""What would have tifffile look into other files."""


class Tiff(NamedArrays):
    """The pages of a stack, which must be alike.

    Raises:
        DataError: tifffile is not installed.
    """

    is_bare = True

    def __init__(self, path: Path) -> None:
        self._path, self.names = path, ["x"]
        self._tifffile = import_reader("tifffile", f"{path}, a TIFF stack,")

    def read(self, name: str) -> np.ndarray:
        with self._tifffile.TiffFile(self._path, **ALONE) as file:
            pages = [page for page in file.pages if not page.is_reduced]
            kinds = {(page.shape, page.dtype) for page in pages}
            if len(kinds) > 1:
                shapes = sorted({str(shape) for shape, _ in kinds})[:2]
                raise ValueError(f"its pages are not alike ({' and '.join(shapes) or 'several types'})")
            stack = file.series[0] if len(pages) == 1 and (file.is_shaped or file.is_imagej) else None
            one = pages[0].nbytes if stack is None else stack.nbytes
            packed = sum(sum(page.databytecounts) for page in pages)
            check_promised("its stack", one * (len(pages) if stack is None else 1), packed if stack is None else one)
            check_room("its stack", one * len(pages))
            if stack is not None:
                return np.asarray(stack.asarray())
            return np.stack([page.asarray() for page in pages])
