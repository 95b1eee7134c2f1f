#!/usr/bin/env bash
# Pillow 13.0.0: one grey picture of 12 bits has a white of 4095, 65520, 65535 or 255, by its container.
#
# TIFF gives the samples as they are (I;16), JPEG 2000 shifts them up by four bits (I;16), PGM stretches them to 16 bits
# (I, which is int32), and AVIF cuts them to 8 bits (L). All four files are lossless and hold the same 0 to 4095, which
# imagecodecs and tifffile give back.
#
# Why it matters: cameras, microscopes and radiology deliver 12 bits. Dividing by 65535 makes a TIFF of them nearly
# black, dividing by the largest value seen hides that AVIF lost 15 of 16 levels, and JPEG 2000 has no pure white.
#
# Seen (mode, largest value, number of different values, of 4096):
#   TIFF      I;16    4095  4096
#   JPEG2000  I;16   65520  4096
#   PPM       I      65535  4096
#   AVIF      L        255   256
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'numpy==2.4.6' 'pillow==13.0.0' 'tifffile==2026.3.3' 'imagecodecs==2026.3.6'
venv/bin/python - <<'END'
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import PIL
import tifffile
from PIL import Image

print("pillow", PIL.__version__, "tifffile", tifffile.__version__, "imagecodecs", imagecodecs.__version__)
grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)
tifffile.imwrite("grey.tif", grey, bitspersample=12)
Path("grey.jp2").write_bytes(imagecodecs.jpeg2k_encode(grey, level=0, bitspersample=12))
Path("grey.pgm").write_bytes(b"P5 64 64 4095\n" + grey.astype(">u2").tobytes())
Path("grey.avif").write_bytes(imagecodecs.avif_encode(grey, level=100, bitspersample=12))
assert np.array_equal(tifffile.imread("grey.tif"), grey)
assert np.array_equal(imagecodecs.jpeg2k_decode(Path("grey.jp2").read_bytes()), grey)
assert np.array_equal(imagecodecs.avif_decode(Path("grey.avif").read_bytes()), grey)
found = {}
for name in ("grey.tif", "grey.jp2", "grey.pgm", "grey.avif"):
    with Image.open(name) as image:
        values = np.asarray(image)
        found[image.format] = (image.mode, int(values.max()), len(np.unique(values)))
print("  expected: one white for all, and 4096 different values")
print("  seen:    ", found)
expected = {
    "TIFF": ("I;16", 4095, 4096),
    "JPEG2000": ("I;16", 65520, 4096),
    "PPM": ("I", 65535, 4096),
    "AVIF": ("L", 255, 256),
}
sys.exit(0 if found == expected else 1)
END
