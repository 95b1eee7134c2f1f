"""The listing of an artifact: every file with its hash, and a checksum of the listing itself.

`manifest.json` is the only form of its content: written by `json.dumps(facts, indent=2)`, and intact only if writing
again what was read gives the same bytes. So a byte that JSON would not miss (a blank, an escape) is found, and one that
changes a word is found by the checksum. Manifests written before there was a checksum have exactly `OLD` keys.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"
OLD = {"stage", "key", "ingredients", "started", "finished", "files"}
NEW = {*OLD, "run", "seconds", "checksum"}
FORMS = (OLD, NEW - {"seconds"}, NEW)
READ = {".json", ".npy", ".npz", ".safetensors", ".png"}
"""Endings of the files that stages write and read."""
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
MAX_BYTES = 2**26  # of a manifest: a listing of half a million files


def sha256_of(value: Mapping[str, Any]) -> str:
    """Of the one JSON text of `value`: sorted keys, no blanks, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def checksum(facts: Mapping[str, Any]) -> str:
    return sha256_of({k: v for k, v in facts.items() if k != "checksum"})


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of `folder` and force everything in it to the disk."""
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file() and not is_litter(PurePosixPath(path.relative_to(folder)))]
    listing = {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in files
    }
    sealed = {**facts, "files": listing}
    sealed["checksum"] = checksum(sealed)
    (folder / MANIFEST).write_text(json.dumps(sealed, indent=2), encoding="utf-8")
    for path in files:
        path.chmod(folder.stat().st_mode & 0o666)  # safetensors makes private files, whatever the umask says
    for path in [*files, folder / MANIFEST, *(path for path in paths if path.is_dir()), folder]:
        flush(path)


def flush(path: Path) -> None:
    """What the file or folder holds, on the disk.

    Raises:
        OSError: it did not get there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of `folder`, or None where it is missing or not as it was written.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        path = folder / MANIFEST
        if path.is_symlink() or path.stat().st_size > MAX_BYTES:
            return None
        content = path.read_bytes()
        facts = json.loads(content)
        if set(facts) not in FORMS or content != json.dumps(facts, indent=2).encode():
            return None
        if "checksum" in facts and facts["checksum"] != checksum(facts):
            return None
        if (facts["stage"], facts["key"]) != (folder.parent.name, folder.name):
            return None
        if not all({"sha256", "bytes"} == set(entry) for entry in facts["files"].values()):
            return None
        return facts
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def seconds(facts: Mapping[str, Any]) -> float:
    """What making it took, over all attempts; where nobody counted yet, the last one."""
    return float(facts.get("seconds", facts["finished"] - facts["started"]))


def damaged_files(folder: Path) -> Iterator[str]:
    """Names of the files in `folder` that are not what its manifest says: changed, missing, or strangers in it.

    Raises:
        OSError: a file is there and cannot be read.
    """
    yield from altered_files(folder)
    yield from (f"{name} (not in the manifest)" for name in strays(folder))


def altered_files(folder: Path) -> Iterator[str]:
    """Names of the files that the manifest lists and that are not as it says; the manifest's own if it is not.

    Raises:
        OSError: a file is there and cannot be read.
    """
    facts = read(folder)
    if facts is None:
        yield MANIFEST
        return
    for name, entry in facts["files"].items():
        if not _is_intact(folder, name, entry):
            yield name


def strays(folder: Path) -> Iterator[str]:
    """Names of files that no manifest lists, where a stage might take them for its own.

    What desktops, network file systems and people leave beside them (Thumbs.db, @eaDir, a note) is nobody's.
    """
    if (facts := read(folder)) is None:
        return
    listed = set(facts["files"])
    places = {PurePosixPath(name).parent for name in listed} | {PurePosixPath(".")}
    for path in sorted(folder.rglob("*")):
        name = PurePosixPath(path.relative_to(folder).as_posix())
        may_be_read = name.suffix in READ and name.parent in places and not is_litter(name)
        if may_be_read and str(name) not in listed | {MANIFEST} and (path.is_symlink() or not path.is_dir()):
            yield str(name)


def is_litter(name: PurePosixPath) -> bool:
    """Whether desktops and network file systems leave files of this name, relative to an artifact, behind."""
    return any(part.startswith((".", "@")) for part in name.parts) or name.name.lower() in LITTER


def _is_intact(folder: Path, name: str, entry: Mapping[str, Any]) -> bool:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:  # no path in an artifact leads out of its folder
        return False
    path = folder
    try:
        for part in parts:
            path = path / part
            if path.is_symlink():
                return False
        facts = path.stat()
        return stat.S_ISREG(facts.st_mode) and facts.st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
