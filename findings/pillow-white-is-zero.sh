#!/usr/bin/env bash
# Pillow 13.0.0: a grey TIFF whose 0 is white is turned the right way with 8 bits, and is a negative with 16.
#
# Both files say the same (PhotometricInterpretation 0, WhiteIsZero). The 8-bit file is opened as L with its values
# subtracted from 255; the 16-bit file is opened as I;16 with its values as they are stored, and nothing in the image
# object tells but the tag. tifffile gives the stored values of both.
#
# Why it matters: scans, radiographs and microscopes write this form. The 16-bit half of a collection, or all of it
# after a conversion, is learnt as negatives; two readers of one folder disagree.
#
# Seen, of stored values from 0 (white) to the largest (black):
#   8 bits:  Pillow L [255, 170, 85, 0], tifffile [0, 85, 170, 255]
#   16 bits: Pillow I;16 [0, 21845, 43690, 65535], tifffile [0, 21845, 43690, 65535]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'numpy==2.4.6' 'pillow==13.0.0' 'tifffile==2026.3.3'
venv/bin/python - <<'END'
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

print("pillow", PIL.__version__, "tifffile", tifffile.__version__)
found = {}
for dtype in (np.uint8, np.uint16):
    largest = np.iinfo(dtype).max
    stored = np.linspace(0, largest, 4).astype(dtype)[None]
    tifffile.imwrite("grey.tif", stored, photometric="miniswhite")
    with Image.open("grey.tif") as image:
        assert image.tag_v2[262] == 0
        seen = np.asarray(image)[0].tolist()
        mode = image.mode
    other = tifffile.imread("grey.tif").ravel().tolist()
    print(f"  {dtype.__name__}: expected {(largest - stored[0]).tolist()}, seen {mode} {seen}, tifffile {other}")
    found[dtype] = (mode, seen, other)
expected = {
    np.uint8: ("L", [255, 170, 85, 0], [0, 85, 170, 255]),
    np.uint16: ("I;16", [0, 21845, 43690, 65535], [0, 21845, 43690, 65535]),
}
sys.exit(0 if found == expected else 1)
END
