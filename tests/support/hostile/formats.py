"""Files of arrays that mean harm, or hold none: name -> what makes one, and the words it is refused with."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import torch
from hostile.checkpoints import Bomb
from hostile.data import Attack
from layouts.array_files import mark_matlab, write_hdf5
from scipy import sparse
from scipy.io import savemat

X = np.random.default_rng(0).integers(0, 256, (60, 10, 10), dtype=np.uint8)


def hdf5(make: Callable[[Any, Path], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            make(file, path)

    return write


def external_link(file: Any, path: Path) -> None:
    other = write_hdf5(path.with_name("secret.h5"), {"x": X})
    file["x"] = h5py.ExternalLink(other.name, "/x")


def through_a_link(file: Any, path: Path) -> None:
    other = write_hdf5(path.with_name("secret.h5"), {"x": X})
    file["elsewhere"] = h5py.ExternalLink(other.name, "/")
    file["x"] = h5py.SoftLink("/elsewhere/x")


def external_storage(file: Any, path: Path) -> None:
    path.with_name("secret").write_bytes(X.tobytes())
    file.create_dataset("x", X.shape, X.dtype, external=[("secret", 0, X.nbytes)])


def virtual(file: Any, path: Path) -> None:
    other = write_hdf5(path.with_name("secret.h5"), {"x": X})
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource(other.name, "x", X.shape)
    file.create_virtual_dataset("x", layout)


def ring(file: Any, path: Path) -> None:
    file.create_group("a")["b"] = file["/"]


def records(file: Any, path: Path) -> None:
    file["x"] = np.zeros(60, [("a", "u1", (10, 10)), ("b", "f4")])


def ragged(file: Any, path: Path) -> None:
    file.create_dataset("x", (60,), h5py.vlen_dtype(np.uint8))


def references(file: Any, path: Path) -> None:
    file.create_dataset("x", (60,), h5py.ref_dtype)


def cut(path: Path) -> None:
    content = write_hdf5(path, {"x": X}).read_bytes()
    path.write_bytes(content[:-3000])


HDF5: dict[str, Attack] = {
    "a link to another file": (hdf5(external_link), "another file"),
    "a link through a link": (hdf5(through_a_link), "is a link"),
    "data in another file": (hdf5(external_storage), "another file"),
    "data of a virtual set": (hdf5(virtual), "another file"),
    "groups in a ring": (hdf5(ring), "holds nothing"),
    "nothing stored": (
        hdf5(lambda file, _: file.create_dataset("x", (2**40, 8, 8), "u1", chunks=(64, 8, 8))),
        "promise",
    ),
    "nothing stored in one piece": (hdf5(lambda file, _: file.create_dataset("x", (2**30, 8, 8), "u1")), "promises"),
    "zeros": (
        hdf5(lambda file, _: file.create_dataset("x", data=np.zeros((2**21, 8, 8), "u1"), compression="gzip")),
        "promises",
    ),
    "records": (hdf5(records), "not numbers"),
    "rows of several lengths": (hdf5(ragged), "not numbers"),
    "references": (hdf5(references), "not numbers"),
    "long words": (hdf5(lambda file, _: file.__setitem__("x", ["a" * 10_000] * 20)), "words of more than"),
    "cut short": (cut, "cannot be read"),
    "its first bytes alone": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000)), "cannot be read"),
}


def matlab_73(make: Callable[[Any], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with h5py.File(path, "w", userblock_size=512) as file:
            make(file)
        mark_matlab(path)

    return write


def cell_73(file: Any) -> None:
    file.create_dataset("#refs#/a", data=X)
    file.create_dataset("x", (1, 60), h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")


def table_73(file: Any) -> None:
    dataset = file.create_dataset("x", (1, 6), "u4")
    dataset.attrs["MATLAB_class"], dataset.attrs["MATLAB_object_decode"] = np.bytes_("table"), np.int32(3)


def sparse_73(file: Any) -> None:
    file.create_dataset("x/data", data=np.ones(4))
    file["x"].attrs["MATLAB_sparse"] = np.uint64(8)


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def variable(matlab_class: int, shape: tuple[int, ...], values: bytes, claims: int | None = None) -> bytes:
    """A MATLAB 5 file of one variable x; `claims`: the length that its values are said to have."""
    flags = element(6, struct.pack("<II", matlab_class, 0))
    numbers = element(2, values) if claims is None else struct.pack("<II", 2, claims) + values
    body = flags + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, b"x") + numbers
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + element(14, body)


def mat(**arrays: Any) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            savemat(path, arrays, do_compression=True)

    return write


def compressed_terabyte(path: Path) -> None:
    content = variable(9, (2**20, 2**10, 2**10), bytes(64))
    path.write_bytes(content[:128] + element(15, zlib.compress(content[128:])))


CELL = np.empty((1, 2), object)
CELL[0, 0], CELL[0, 1] = X[0], X[1]
MATLAB: dict[str, Attack] = {
    "cell": (mat(x=CELL), r"cell array: save cat"),
    "structure": (mat(x={"images": X}), "-struct"),
    "sparse": (mat(x=sparse.csc_matrix(X[0])), r"full\(X\)"),
    "text": (mat(x="images"), "text"),
    "function": (lambda path: path.write_bytes(variable(16, (1, 1), b"")), "function handle|cannot be read"),
    "table": (lambda path: path.write_bytes(variable(17, (1, 1), b"")), "table2array|cannot be read"),
    "terabyte": (lambda path: path.write_bytes(variable(9, (2**20, 2**10, 2**10), bytes(64))), "promises"),
    "compressed terabyte": (compressed_terabyte, "promises"),
    "values that lie": (lambda path: path.write_bytes(variable(9, (20, 8), bytes(64), 2**31 - 8)), "cannot be read"),
    "zeros": (mat(x=np.zeros((2**20, 8, 16), "u1")), "promises"),
    "its first bytes alone": (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(30)), "cannot be read"),
    "cell, 7.3": (matlab_73(cell_73), "cell array: save cat"),
    "table, 7.3": (matlab_73(table_73), "table2array"),
    "sparse, 7.3": (matlab_73(sparse_73), r"full\(X\)"),
}


def expanded(path: Path) -> None:
    torch.save(torch.zeros(1, dtype=torch.uint8).expand(2**30, 8, 8), path)


def legacy(path: Path) -> None:
    torch.save({"x": Bomb()}, path, _use_new_zipfile_serialization=False)


def lying_tensor(path: Path) -> None:
    """Its pickle says that there are 2**40 numbers."""
    stream = io.BytesIO()
    torch.save(torch.zeros(100, dtype=torch.uint8), stream)
    path.write_bytes(stream.getvalue().replace(b"Kd", b"J\xff\xff\xff\x7f"[:2]))


TORCH: dict[str, Attack] = {
    "objects": (lambda path: torch.save({"x": Bomb()}, path), "Python objects"),
    "objects in the old format": (legacy, "Python objects"),
    "one number, repeated": (expanded, "promises"),
    "a lie": (lying_tensor, "cannot be read"),
    "a set": (lambda path: torch.save(torch.utils.data.TensorDataset(torch.zeros(3)), path), "Python objects"),
    "numbers alone": (lambda path: torch.save({"x": 3}, path), "no plain tensor"),
    "sparse": (lambda path: torch.save({"x": torch.eye(20).to_sparse()}, path), "no plain tensor"),
    "nothing": (lambda path: path.write_bytes(b""), "cannot be read"),
}


def pages_unlike(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(X[0], metadata=None)
        file.write(X[1, :5], metadata=None)


def large_page(path: Path) -> None:
    """A page of 65,000 by 65,000 that is not there."""
    tifffile.imwrite(path, X[0], metadata=None)
    content = bytearray(path.read_bytes())
    start = struct.unpack("<I", content[4:8])[0]
    for i in range(struct.unpack("<H", content[start : start + 2])[0]):
        place = start + 2 + 12 * i
        tag, kind = struct.unpack("<HH", content[place : place + 4])
        if tag in (256, 257, 278):
            content[place + 8 : place + 12] = struct.pack(
                "<HH" if kind == 3 else "<I", *((65000, 0) if kind == 3 else (65000,))
            )
    path.write_bytes(bytes(content))


TEXT_AND_TIFF: dict[str, Attack] = {
    "rows.amat": (lambda path: path.write_text("0 1 1\n1 0\n", encoding="utf-8"), "rows have 2 and 3"),
    "words.csv": (lambda path: path.write_text("a,b\n1,2\n", encoding="utf-8"), "cannot be read"),
    "empty.txt": (lambda path: path.write_text("\n\n", encoding="utf-8"), "no rows of numbers"),
    "endless.txt": (lambda path: path.write_bytes(b"1 " * 2**25), "longer than"),
    "bytes.dat": (lambda path: path.write_bytes(bytes(range(128, 256))), "cannot be read"),
    "unlike.tif": (pages_unlike, "not alike"),
    "large.tif": (large_page, "promises|takes"),
    "head.tif": (lambda path: path.write_bytes(b"II*\0\xff\xff\xff\x7f"), "cannot be read"),
}
