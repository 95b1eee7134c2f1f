"""Draws of latents in a file like the one that the latents came from, so that whoever made them can decode them.

Names, order of axes and type of numbers are those of the files; .npz and .npy have no bfloat16, and get float32, which
holds all of it. Blocks are written as they come: what is drawn never lies in memory as a whole.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.data import LatentStyle
from stage1_vae.data.latents.stored import SUFFIXES
from stage1_vae.files.safetensors import BFLOAT16, NAMES, narrow, write_header

EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)
"""A fixed date: equal draws, equal bytes."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object: ...


def write_draws(
    path: Path, blocks: Iterable[Tensor], num: int, style: LatentStyle, labels: np.ndarray | Tensor | None = None
) -> None:
    """Write `num` latents into a new file, .npz, .npy or .safetensors by the suffix of `path`.

    Args:
        path: the file, which is replaced.
        blocks: latents [n, *event], `num` in all: real numbers, whole codes, or bits as 0 and 1.
        num: how many there are.
        style: of the files that latents came from.
        labels: one a latent, written beside; .npy has no room for them.

    Raises:
        DataError: another suffix; a draw that the files' type of numbers cannot hold.
        ValueError: other than `num` latents come.
        OSError: the file cannot be written.
    """
    suffix, shape = path.suffix.lower(), (num, *style.shape)
    name = style.name or "latents"
    numbers = None if labels is None or suffix == ".npy" else np.ascontiguousarray(np.asarray(labels), np.int64)
    if numbers is not None and numbers.shape != (num,):
        raise ValueError(f"labels of shape {numbers.shape} for {num} latents")
    label_name = style.label_name or "label"
    is_bfloat16 = style.dtype == "bfloat16"
    if suffix == ".safetensors":
        dtype = np.dtype(np.float32 if is_bfloat16 else style.dtype).newbyteorder("<")
        tensors = {name: (BFLOAT16 if is_bfloat16 else NAMES[dtype], shape)}
        if numbers is not None:
            tensors[label_name] = ("I64", (num,))
        with path.open("wb") as file:
            write_header(file, tensors)
            _write_blocks(file, blocks, num, style, dtype, is_bfloat16)
            file.write(b"" if numbers is None else numbers.astype("<i8").tobytes())
        return
    dtype = np.dtype(np.float32 if is_bfloat16 else style.dtype)
    if suffix == ".npy":
        with path.open("wb") as file:
            _write_header(file, dtype, shape)
            _write_blocks(file, blocks, num, style, dtype)
    elif suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            with archive.open(_member(name), "w", force_zip64=True) as member:
                _write_header(cast(BinaryIO, member), dtype, shape)
                _write_blocks(member, blocks, num, style, dtype)
            if numbers is not None:
                with archive.open(_member(label_name), "w", force_zip64=True) as member:
                    _write_header(cast(BinaryIO, member), numbers.dtype, numbers.shape)
                    member.write(numbers.tobytes())
    else:
        raise DataError(f"{path} is no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file: give one for latents")


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", date_time=EPOCH_OF_ZIP)


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)


def _write_blocks(
    sink: Sink, blocks: Iterable[Tensor], num: int, style: LatentStyle, dtype: np.dtype, is_bfloat16: bool = False
) -> None:
    written = 0
    for block in blocks:
        rows = as_in_files(block, style)
        if is_bfloat16:
            sink.write(narrow(rows).tobytes())
        else:
            sink.write(_cast(rows, dtype).tobytes())
        written += len(rows)
    if written != num:
        raise ValueError(f"{written} latents were drawn, and {num} were to be written")


def as_in_files(latents: Tensor, style: LatentStyle) -> np.ndarray:
    """Latents [n, *event] in the order of axes and the shape of the files, [n, *style.shape]."""
    values = latents.detach().cpu()
    rows = (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    if style.axes:
        missing = [axis for axis in range(rows.ndim - 1) if axis not in style.axes]  # of length 1
        rows = rows.transpose(0, *(1 + axis for axis in (*style.axes, *missing)))
    return rows.reshape(len(rows), *style.shape)


def _cast(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """
    Raises:
        DataError: a number that `dtype` cannot hold.
    """
    if dtype.kind in "iu":
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    elif dtype.kind == "f" and dtype.itemsize < rows.dtype.itemsize:
        low, high = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    else:
        return rows.astype(dtype, copy=False)
    if len(rows) and (rows.max() > high or rows.min() < low):
        odd = rows.max() if rows.max() > high else rows.min()
        raise DataError(
            f"a draw of {odd:g} does not fit {dtype}, the type of the files: save those in a wider one, which "
            "samples are then written in"
        )
    return rows.astype(dtype)
