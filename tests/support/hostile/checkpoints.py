"""Training checkpoints that mean harm: name -> what makes one at a place, and the words it is refused with."""

import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Attack = tuple[Callable[[Path], object], str]


class Bomb:
    """What would run a command wherever it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


class Evaluated:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("open('canary', 'w').close()",)


class Terabyte:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (2**40,)


class Raw:
    """Opcodes in the place of a value."""

    def __init__(self, opcodes: bytes) -> None:
        self.opcodes = opcodes


def honest() -> dict[str, Any]:
    """What Lightning writes, in small."""
    layer = torch.nn.Linear(40, 30)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2, 40)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "state_dict": layer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "random": torch.get_rng_state(),
        "callbacks": {"best": torch.tensor(0.5), "path": None},
    }


def rebuilt(change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An honest checkpoint, each member changed; None: left out."""
    source, made = io.BytesIO(), io.BytesIO()
    torch.save(honest(), source)
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(made, "w", compression) as written:
        for member in read.infolist():
            if (content := change(member.filename, read.read(member))) is not None:
                written.writestr(member.filename, content)
    return made.getvalue()


def with_pickle(opcodes: bytes) -> Callable[[Path], object]:
    """An honest archive around another pickle."""
    return lambda place: place.write_bytes(rebuilt(lambda name, old: opcodes if name.endswith("data.pkl") else old))


def with_members(*extra: tuple[str, bytes]) -> Callable[[Path], object]:
    """An honest archive, and more in it."""

    def make(place: Path) -> None:
        place.write_bytes(rebuilt(lambda _, old: old))
        with zipfile.ZipFile(place, "a") as archive:
            for name, content in extra:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a name that is there twice
                    archive.writestr(name, content)

    return make


def claiming(old: bytes, new: bytes) -> Callable[[Path], object]:
    """An honest archive whose pickle says something else; the bytes to change must be there."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        assert old in content
        return content.replace(old, new, 1)

    return lambda place: place.write_bytes(rebuilt(change))


def bomb(compression: int) -> Callable[[Path], object]:
    """64 MiB of zeros in one member: small on the disk."""
    return lambda place: place.write_bytes(
        rebuilt(lambda name, old: bytes(2**26) if name.endswith("data/0") else old, compression)
    )


def overlapping(place: Path) -> None:
    """Every entry of the listing points at the largest member."""
    content = bytearray(rebuilt(lambda name, old: old))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        largest = max(members, key=lambda member: member.file_size)
    start = struct.unpack("<I", content[-6:-2])[0]
    for _ in members:
        length = sum(struct.unpack("<HHH", content[start + 28 : start + 34]))
        sizes = struct.pack("<III", largest.CRC, largest.file_size, largest.file_size)
        content[start + 16 : start + 28] = sizes
        content[start + 42 : start + 46] = struct.pack("<I", largest.header_offset)
        start += 46 + length
    place.write_bytes(content)


def in_a_tar(place: Path) -> None:
    """The form of torch before 0.1.10, which `torch.load` still knows."""
    with tarfile.open(place, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Bomb())
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def as_script(place: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and people still send it
        torch.jit.script(Net()).save(place)


def sparse_terabyte(place: Path) -> None:
    torch.save(honest(), place)
    os.truncate(place, 2**40)


def cut(share: float) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        torch.save(honest(), place)
        os.truncate(place, int(place.stat().st_size * share))

    return make


def saved(value: object, **keywords: Any) -> Callable[[Path], object]:
    return lambda place: torch.save(value, place, **keywords)


def _nested(depth: int) -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * depth + b"a" * (depth - 1) + b"s."


def _doubling(times: int) -> bytes:
    """A list of two lists of two lists ...: each is written once and meant twice."""
    body = b"\x80\x02}X\x01\x00\x00\x00a(]q\x00"
    for i in range(times):
        body += b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1])
    return body + b"ts."


ATTACKS: dict[str, Attack] = {
    "command": (saved(Bomb()), "system"),
    "command within": (saved(honest() | {"callbacks": {"x": [Bomb()]}}), "system"),
    "command as key": (with_pickle(b"\x80\x02}cos\nsystem\nX\x0c\x00\x00\x00touch canary\x85RK\x01s."), "os.system"),
    "expression": (saved(honest() | {"hyper_parameters": Evaluated()}), "eval"),
    "builtins": (with_pickle(b"\x80\x02cbuiltins\nexec\nX\x01\x00\x00\x00x\x85R."), "builtins.exec"),
    "attribute": (with_pickle(b"\x80\x02cbuiltins\ngetattr\n."), "builtins.getattr"),
    "import": (with_pickle(b"\x80\x02cimportlib\nimport_module\nX\x02\x00\x00\x00os\x85R."), "importlib"),
    "loader": (with_pickle(b"\x80\x02ctorch\nload\nX\x06\x00\x00\x00canary\x85R."), "torch.load"),
    "submodule": (with_pickle(b"\x80\x02ctorch.serialization\nos.system\n."), "os.system"),
    "hub": (with_pickle(b"\x80\x02ctorch.hub\nload_state_dict_from_url\n."), "torch.hub"),
    "own class": (with_pickle(b"\x80\x02cstage1_vae.train\nBestWeights\n)R."), "BestWeights"),
    "name from the stack": (with_pickle(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), "STACK_GLOBAL"),
    "instance": (with_pickle(b"\x80\x02(X\x0c\x00\x00\x00touch canaryios\nsystem\n."), "INST"),
    "extension": (with_pickle(b"\x80\x02\x82\x01."), "EXT1"),
    "terabyte of bytes": (saved(honest() | {"x": Terabyte()}), "bytearray"),
    "terabyte of a storage": (claiming(b"M\xb0\x04", b"J\x00\x00\x00\x40"), "damaged"),
    "terabyte of a shape": (claiming(b"K\x1eK(\x86", b"J\x00\x00\x00\x40K(\x86"), "damaged"),
    "negative shape": (claiming(b"K\x1eK(\x86", b"J\x00\x00\x00\x80K(\x86"), "damaged"),
    "expanded": (saved({"x": torch.zeros(1).expand(2**38)}), "over 4 bytes"),
    "sparse tensor": (saved({"x": torch.eye(3).to_sparse()}), "sparse"),
    "deep": (with_pickle(_nested(10_000)), "nested deeper"),
    "doubling": (with_pickle(_doubling(100)), "nested deeper"),
    "endless pickle": (with_pickle(bytes(2**24 + 1)), "pickle has|damaged"),
    "empty pickle": (with_pickle(b""), "damaged"),
    "no stop": (with_pickle(b"\x80\x02}"), "damaged"),
    "persistent": (with_pickle(b"\x80\x02X\x06\x00\x00\x00canaryQ."), "damaged"),
    "a list": (saved([1, 2]), "list"),
    "a model": (saved(torch.nn.Linear(2, 2)), "Linear"),
    "unknown instruction": (with_pickle(b"\x80\x04N\x94."), "damaged"),
    "bare pickle": (lambda place: place.write_bytes(pickle.dumps(Bomb())), "no zip archive"),
    "old form": (saved(honest(), _use_new_zipfile_serialization=False), "no zip archive"),
    "old form with a command": (saved(Bomb(), _use_new_zipfile_serialization=False), "no zip archive"),
    "tar": (in_a_tar, "no zip archive"),
    "script": (as_script, "TorchScript"),
    "prefix": (lambda place: place.write_bytes(b"#!/bin/sh\ntouch canary\n" + rebuilt(lambda _, old: old)), "no zip"),
    "zip bomb": (bomb(zipfile.ZIP_DEFLATED), "compressed"),
    "zip bomb, lzma": (bomb(zipfile.ZIP_LZMA), "compressed"),
    "zip bomb, bzip2": (bomb(zipfile.ZIP_BZIP2), "compressed"),
    "overlapping": (overlapping, "overlap|damaged"),
    "second pickle": (with_members(("archive/evil.pkl", pickle.dumps(Bomb()))), "no other pickle"),
    "two of a name": (with_members(("archive/twin", b"x"), ("archive/twin", b"y")), "there 2 times"),
    "name within above": (with_members(("archive/../../canary", b"x")), "leads out"),
    "name above": (with_members(("../../canary", b"x")), "leads out"),
    "absolute name": (with_members(("/tmp/canary", b"x")), "leads out"),
    "no pickle": (lambda place: place.write_bytes(
        rebuilt(lambda name, old: None if name.endswith("data.pkl") else old)), "must hold data.pkl"),
    "missing numbers": (lambda place: place.write_bytes(
        rebuilt(lambda name, old: None if name.endswith("data/0") else old)), "damaged"),
    "empty archive": (lambda place: zipfile.ZipFile(place, "w").close(), "no zip archive"),
    "empty": (lambda place: place.write_bytes(b""), "no zip archive"),
    "sparse terabyte": (sparse_terabyte, "are expected|damaged"),
    "truncated": (cut(0.5), "damaged"),
    "cut at its end": (cut(0.999), "damaged"),
    "link": (lambda place: place.symlink_to("/etc/passwd"), "symbolic link"),
    "pipe": (os.mkfifo, "no plain file"),
    "folder": (os.mkdir, "no plain file"),
    "missing": (lambda place: None, "No such file"),
}  # fmt: skip


def equal(one: Any, other: Any) -> bool:
    """Whether two contents are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        same = type(other) in (dict, OrderedDict) and list(one) == list(other)
        return same and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return one == other and type(one) is type(other)
