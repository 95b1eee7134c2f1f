"""Opening a training checkpoint: a file that `torch.save` wrote, and nothing in it but tensors and plain values.

Such a file is a zip archive around a pickle. `torch.load(weights_only=True)` runs none of it, but trusts its sizes: it
unpacks what is compressed, makes a `bytearray` of any length, and compares no checksums. So both are read first. The
archive must be one as `torch.save` writes it: members stored, not compressed, and in sum no longer than the file, so
that the file bounds the memory. The pickle is walked over as a list of instructions, none of which is carried out, and
what it names must be on a short list. Tensors must lie within their own storage. Older forms (a tar, a bare pickle) and
TorchScript archives, which `torch.load` has other code for, are no such archive.

How a checkpoint with sizes that contradict each other overwrote memory before torch 2.10: GHSA-63cw-57p8-fm3p.
"""

import os
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from expost.store.safe import UnsafeError, open_file
from expost.store.tensors import DTYPES
from stage1_vae.files.archives import open_archive
from stage1_vae.machine import available_bytes

PICKLE_BYTES = 2**24
"""That long a pickle may always be. Each epoch adds some hundred bytes of history: 150,000 of them are more."""
GROWTH = 64
"""Bytes of memory that one of a pickle can become: `}` is an empty dictionary."""
MAX_DEPTH = 64
SAID_BEFORE = "WeightsUnpickler error: "
"""Before these words `torch.load` advises to load the file without its protection."""
STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
NAMES = frozenset(
    (
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        *(f"torch.{name}Storage" for name in STORAGES),
        *map(str, DTYPES.values()),
    )
)
"""What a checkpoint may name; all of it is on torch's own list too."""
HIDDEN = frozenset(("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"))
"""Instructions that name something in another way; `torch.save` writes none of them."""


def read_checkpoint(folder: Path, name: str, max_bytes: int | None = None) -> dict[str, Any]:
    """The content of a checkpoint, its tensors on the CPU.

    Args:
        folder, name: where it is.
        max_bytes: longest file that is read; None: half of the memory that is free.

    Raises:
        UnsafeError: it is missing, damaged, too long, or anything but tensors and plain values in the form that
            `torch.save` gives them.
    """
    place = folder / name
    with open_file(folder, name, available_bytes() // 2 if max_bytes is None else max_bytes) as file:
        _check_pickle(_pickle_of(file, place), place)
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # its own opinion of an archive that passed
            reason = str(error).split(SAID_BEFORE)[-1].splitlines()[0]
            raise UnsafeError(f"{place} is damaged: {reason}") from error
    if not isinstance(content, dict):
        raise UnsafeError(f"{place} holds {type(content).__name__}, not the dictionary of a checkpoint")
    _check_values(content, place)
    return content


def _pickle_of(file: BinaryIO, place: Path) -> bytes:
    """The pickle inside, once the archive is known to be one that `torch.save` wrote."""
    if file.read(4) != b"PK\x03\x04":
        raise UnsafeError(f"{place} is no checkpoint that torch.save wrote: no zip archive begins there")
    try:
        with open_archive(file) as archive:
            pickled = _pickle_member(archive.infolist(), os.fstat(file.fileno()).st_size)
            if (damaged := archive.testzip()) is not None:  # torch is built without this check
                raise ValueError(f"the checksum of its member {damaged!r} does not fit")
            return archive.read(pickled)
    except Exception as error:  # zipfile and zlib raise many kinds on a damaged archive
        raise UnsafeError(f"{place} is no checkpoint, or damaged: {error}") from error


def _pickle_member(members: list[zipfile.ZipInfo], size: int) -> zipfile.ZipInfo:
    """The one that is the pickle.

    Raises:
        ValueError: the members are not what `torch.save` makes in a file of `size` bytes.
    """
    root = members[0].filename.split("/")[0] if members else ""
    for member in members:
        name = member.filename
        if not name.startswith(f"{root}/"):
            raise ValueError(f"its member {name!r} leads out of {root}/")
        if name == f"{root}/constants.pkl" or name.startswith(f"{root}/code/"):
            raise ValueError("it is a TorchScript program")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(
                f"its member {name!r} is compressed, {member.file_size:,} bytes in {member.compress_size:,}; "
                "torch.save compresses nothing"
            )
    if sum(member.file_size for member in members) > size:
        raise ValueError(f"its members overlap, or promise more than its {size:,} bytes")
    pickles = [member for member in members if member.filename.endswith(".pkl")]
    if [member.filename for member in pickles] != [f"{root}/data.pkl"]:
        raise ValueError("it must hold data.pkl and no other pickle")
    most = max(PICKLE_BYTES, available_bytes() // (2 * GROWTH))
    if pickles[0].file_size > most:
        raise ValueError(f"its pickle has {pickles[0].file_size:,} bytes; at most {most:,} are expected")
    return pickles[0]


def _check_pickle(content: bytes, place: Path) -> None:
    """Read the instructions, carry out none."""
    try:
        for instruction, argument, _ in pickletools.genops(content):
            name = str(argument).replace(" ", ".") if instruction.name == "GLOBAL" else ""
            if instruction.name in HIDDEN or (name and name not in NAMES):
                raise UnsafeError(f"{place} is refused: it names {name or instruction.name}, which is no plain value")
    except UnsafeError:
        raise
    except Exception as error:  # pickletools knows no base class either
        raise UnsafeError(f"{place} is damaged: its pickle ends or breaks off ({error})") from error


def _check_values(content: object, place: Path) -> None:
    """Tensors within their storages, containers nested no deeper than they are written."""
    checked: set[int] = set()
    waiting: list[tuple[object, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in checked:
            continue
        checked.add(id(value))
        if depth > MAX_DEPTH:
            raise UnsafeError(f"{place} is refused: nested deeper than {MAX_DEPTH}")
        if isinstance(value, torch.Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UnsafeError(
                f"{place} is refused: a tensor {list(value.shape)} over {value.untyped_storage().nbytes():,} bytes"
            )
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        waiting += [(part, depth + 1) for part in inner]
