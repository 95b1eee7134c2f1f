#!/usr/bin/env bash
# imageio 2.38.1: imageio.v3.imwrite of an image (3, height, width) to .png or .webp writes an animation of 3 frames.
#
# The channels become frames and the file is a valid animated picture, so nothing is raised. Other readers open its
# first frame, a grey picture of the red channel (RGB of three equal channels from .webp); imageio.v3.imread gives
# (3, height, width) back from the .png, so that a round trip looks right. To .tif the same array is written as one
# picture in colour.
#
# Why it matters: channels first is the order of samples in torch. Pictures written so look grey, and features, scores
# and training by another reader see only red.
#
# Seen (array (3, 8, 8) with red 10, green 120, blue 240; what Pillow opens, then the shape from imageio.v3.imread):
#   png  L, 3 frames, 10              (3, 8, 8)
#   webp RGB, 3 frames, 10 10 10      (8, 8, 3)
#   tif  RGB, 1 frame, 10 120 240     (3, 8, 8)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'imageio==2.38.1' 'pillow==13.0.0' 'tifffile==2026.3.3' 'numpy==2.4.6'
venv/bin/python - <<'END'
import sys

import imageio
import imageio.v3 as iio
import numpy as np
import PIL
from PIL import Image

print("imageio", imageio.__version__, "pillow", PIL.__version__)
picture = np.stack([np.full((8, 8), value, np.uint8) for value in (10, 120, 240)])
found = {}
for suffix, options in (("png", {}), ("webp", {"lossless": True}), ("tif", {})):
    iio.imwrite(f"picture.{suffix}", picture, **options)
    with Image.open(f"picture.{suffix}") as image:
        pixel = np.asarray(image)[0, 0].ravel().tolist()
        found[suffix] = (image.mode, getattr(image, "n_frames", 1), pixel, iio.imread(f"picture.{suffix}").shape)
    print(f"  {suffix}: expected RGB, 1 frame, [10, 120, 240], seen {found[suffix]}")
expected = {
    "png": ("L", 3, [10], (3, 8, 8)),
    "webp": ("RGB", 3, [10, 10, 10], (8, 8, 3)),
    "tif": ("RGB", 1, [10, 120, 240], (3, 8, 8)),
}
sys.exit(0 if found == expected else 1)
END
