"""What `torch.save` wrote: tensors, tuples of images and labels, dicts; nothing in it is executed."""

import os
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.readers.named import BarredError, NamedArrays, check_promised
from stage1_vae.files.archives import check_unpacked, open_archive

PLACES = ("x", "label")
"""What the items of a tuple are called, as far as they are known."""
MAX_DEPTH = 3


class TorchFile(NamedArrays):
    """The tensors of a file: of a dict by their keys, of a tuple the first as x and the second as label.

    Raises:
        ValueError: it holds objects of other kinds, or more than it should.
    """

    def __init__(self, path: Path) -> None:
        if is_zipfile(path):
            with path.open("rb") as file, open_archive(file) as archive:
                for member in archive.infolist():
                    check_unpacked(member.filename, member.file_size, member.compress_size)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # many kinds on a damaged file
            if "weights_only" in str(error) or "Unsupported" in str(error):
                raise ValueError(
                    "it holds Python objects, which are not loaded: save tensors by torch.save((images, labels), FILE)"
                ) from error
            raise
        self._size = os.path.getsize(path)
        self._items: dict[str, Any] = {}
        self._collect("", content, 0)
        self.names = list(self._items)
        if isinstance(content, (tuple, list)) and len(content) > 1:
            self.guesses = (f"of {len(content)} items the first are images, the second labels (data.x, data.label)",)

    def _collect(self, prefix: str, content: Any, depth: int) -> None:
        if isinstance(content, dict) and depth < MAX_DEPTH:
            for key, item in content.items():
                self._collect(f"{prefix}/{key}".lstrip("/"), item, depth + 1)
        elif isinstance(content, (tuple, list)) and depth < MAX_DEPTH and any(isinstance(i, Tensor) for i in content):
            for i, item in enumerate(content):
                self._collect(f"{prefix}/{PLACES[i] if i < len(PLACES) else i}".lstrip("/"), item, depth + 1)
        else:
            self._items[prefix or PLACES[0]] = content

    def read(self, name: str) -> np.ndarray:
        item = self._items[name]
        if isinstance(item, (list, tuple)) and all(isinstance(i, (int, str)) for i in item):
            return np.array(item)
        if not isinstance(item, Tensor) or item.layout != torch.strided or item.is_quantized:
            raise BarredError(f"{name} is {type(item).__name__} and no plain tensor: save it as one")
        check_promised(name, item.numel() * item.element_size(), self._size)  # an expanded tensor repeats its numbers
        item = item.detach().resolve_conj().resolve_neg()
        return (item.float() if item.dtype == torch.bfloat16 else item).numpy()
