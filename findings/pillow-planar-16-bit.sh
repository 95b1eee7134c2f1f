#!/usr/bin/env bash
# Pillow 13.0.0: an uncompressed TIFF of 16-bit RGB in three planes is opened as RGB of 8 bits, made of wrong bytes.
#
# The image has the right size, but each plane holds the bytes of the upper half of the picture, upper and lower bytes
# side by side; the lower half of the picture is nowhere. The same samples compressed by zlib, or pixel by pixel, come
# out as their upper bytes. tifffile reads all three files alike. Files of three planes are what tifffile itself writes
# of an array (3, height, width).
#
# Why it matters: nothing is raised, and a folder of such files trains on stripes.
#
# Seen (height 4, width 2, rows of red 0x0102, 0x1112, 0x2122, 0x3132):
#   planes:            [[1, 2], [1, 2], [17, 18], [17, 18]], or with the lower byte first
#                      [[2, 1], [2, 1], [18, 17], [18, 17]]
#   planes and zlib:   [[1, 1], [17, 17], [33, 33], [49, 49]]
#   pixel by pixel:    [[1, 1], [17, 17], [33, 33], [49, 49]]
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
red = np.repeat(np.array([[0x0102], [0x1112], [0x2122], [0x3132]], np.uint16), 2, axis=1)
planes = np.stack([red, red + 0x4000, red + 0x8000])
pixels = np.ascontiguousarray(planes.transpose(1, 2, 0))
found = {}
for order in "<>":
    tifffile.imwrite("planes.tif", planes, photometric="rgb", planarconfig="separate", byteorder=order)
    tifffile.imwrite(
        "zlib.tif", planes, photometric="rgb", planarconfig="separate", byteorder=order, compression="zlib"
    )
    tifffile.imwrite("pixels.tif", pixels, photometric="rgb", byteorder=order)
    assert all(np.array_equal(tifffile.imread(f"{name}.tif"), planes) for name in ("planes", "zlib"))
    assert np.array_equal(tifffile.imread("pixels.tif"), pixels)
    print(f"  byte order {order}, red, expected {(red >> 8).tolist()}")
    for name in ("planes", "zlib", "pixels"):
        with Image.open(f"{name}.tif") as image:
            found[order, name] = image.mode, np.asarray(image)
        print(f"    {name}: seen {found[order, name][0]} {found[order, name][1][..., 0].tolist()}")
upper = (pixels >> 8).astype(np.uint8)
same = True
for order in "<>":
    raw = planes.astype(order + "u2").reshape(3, -1).view(np.uint8)[:, : red.size]
    wrong = raw.reshape(planes.shape).transpose(1, 2, 0)
    for name, values in (("planes", wrong), ("zlib", upper), ("pixels", upper)):
        mode, seen = found[order, name]
        same &= mode == "RGB" and np.array_equal(seen, values)
sys.exit(0 if same else 1)
END
