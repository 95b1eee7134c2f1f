"""Files of arrays as other programs write them, for tests of what reads them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

MATLAB_TYPES = {"uint8": "uint8", "uint16": "uint16", "float32": "single", "float64": "double", "bool": "logical"}
HEAD = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"


def write_hdf5(path: Path, arrays: dict[str, Any], **more: Any) -> Path:
    """An HDF5 file; `more`: as h5py takes it, for every data set."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **more)
    return path


def write_matlab_73(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A MATLAB file of version 7.3: HDF5 behind a block of MATLAB's, every array with its axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=np.ascontiguousarray(array.T))
            dataset.attrs["MATLAB_class"] = np.bytes_(MATLAB_TYPES[str(array.dtype)])
    return mark_matlab(path)


def mark_matlab(path: Path) -> Path:
    with path.open("r+b") as file:
        file.write(HEAD)
    return path


def write_parquet(
    path: Path,
    pictures: Sequence[bytes | None],
    labels: list[Any] | None = None,
    names: list[str] | None = None,
    **more: Any,
) -> Path:
    """A Parquet table as data sets of the hub are kept; `more`: as pyarrow takes it."""
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": each, "path": f"{i}.png"} for i, each in enumerate(pictures)])
    }
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels)
        features["label"] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path, **more)
    return path


def encode(images: np.ndarray) -> list[bytes]:
    """Every image [H, W] or [H, W, 3] as PNG."""
    found = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        found.append(stream.getvalue())
    return found
