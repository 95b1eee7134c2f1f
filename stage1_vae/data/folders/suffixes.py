"""Which files of a folder are images that are read, and what to do about the others.

The formats are a list of what is allowed, whatever a file's name says: Pillow would hand PostScript to Ghostscript,
which runs it.
"""

from collections.abc import Mapping
from importlib.util import find_spec

NEWER = tuple(name for name in ("AVIF", "QOI") if find_spec(f"PIL.{name.title()}ImagePlugin"))
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", *NEWER)
BY_SUFFIX = {".tga": ("TGA",)}
"""Formats that begin with no mark of their own, so that anything might be taken for them: asked for by name alone."""
SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".webp", ".bmp", ".dib", ".gif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".qoi", ".tga"),
    )
)
STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
"""How images begin that nobody has given a suffix."""
REMEDIES = {
    suffix: remedy
    for remedy, suffixes in {
        "convert to .png": ".heic .heif .hif .jxl .ico .psd .xcf .sgi .pcx .jxr .dds",
        "draw as .png at one size": ".eps .ps .pdf .svg .ai .wmf .emf",
        "develop to .png or 8-bit .tif": ".cr2 .cr3 .nef .arw .dng .raf .orf .rw2 .raw",
        "save as one array, data=arrays": ".exr .hdr .pfm .dcm .nii .nii.gz .nrrd .mha .fits .czi .nd2 "
        ".svs .ndpi .mat .h5 .hdf5 .zarr .pt .pkl .parquet .tfrecord",
        "choose data=arrays": ".npy .npz",
        "save the frames as .png": ".mp4 .avi .mov .mkv .webm",
        "unpack": ".zip .tar .tgz .gz .7z .rar .bz2 .xz",
    }.items()
    for suffix in suffixes.split()
}
"""Suffix of what may hold images -> what to do with it."""
MOST_NAMED = 4


def suffix_of(name: str) -> str:
    """The suffix in lower case, with its point; of `.nii.gz` both; empty where there is none."""
    lower = name.lower()
    stem, point, suffix = lower.rpartition(".")
    if not stem:
        return ""
    return ".nii.gz" if stem.endswith(".nii") and suffix == "gz" else point + suffix


def describe_unread(counts: Mapping[str, int]) -> tuple[str, ...]:
    """What files of these suffixes are and what to do with them, in words; those that hold no images in one phrase."""
    by_number = sorted(counts, key=lambda suffix: (-counts[suffix], suffix))
    words = [f"{_files(suffix, counts[suffix])} ({REMEDIES[suffix]})" for suffix in by_number if suffix in REMEDIES]
    rest = [suffix for suffix in by_number if suffix not in REMEDIES]
    if rest:
        phrases = [_files(suffix, counts[suffix]) for suffix in rest[:MOST_NAMED]]
        if more := sum(counts[suffix] for suffix in rest[MOST_NAMED:]):
            phrases.append(f"{more:,} of other suffixes")
        words.append(f"{', '.join(phrases)} (no images)")
    return tuple(words)


def _files(suffix: str, num: int) -> str:
    files = "file" if num == 1 else "files"
    return f"{num:,} {suffix} {files}" if suffix else f"{num:,} {files} without a suffix"
