#!/usr/bin/env bash
# datasets 5.2.0: load_dataset("imagefolder") takes "test", "dev" or "train" inside any name below the root for a split.
#
# The word may be a part of a class's or a picture's name between separators. Where no folder is a split, one class
# called crash_test makes the whole data set a test split of that class alone, without labels; cat/test_1.png drops all
# pictures whose names lack such a word; of bus, plane and train only train is left. Where the folders train and test
# exist, a picture in train/crash-test is in both splits. Nothing is said.
#
# Why it matters: pictures vanish, or test pictures are among the training pictures, and a model that has seen them
# looks good at them. data_files={"train": "...", "test": "..."} avoids it.
#
# Seen (pictures given, then split: pictures, classes):
#   crash_test/1 cat/2 dog/3                        test: crash_test/1, no classes
#   bus/1 plane/2 train/3                           train: train/3, no classes
#   cat/test_1 cat/2 dog/3                          test: cat/test_1, no classes
#   train/crash-test/1 train/cat/2 test/cat/3       train: train/cat/2 train/crash-test/1; test: test/cat/3
#                                                   train/crash-test/1
#   cat/1 dog/2                                     train: cat/1 dog/2, classes cat dog
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'datasets==5.2.0' 'pillow==13.0.0' 'numpy==2.4.6'
venv/bin/python - <<'END'
import os
import sys
from pathlib import Path

os.environ.update(HF_HOME=os.path.abspath("home"), HF_HUB_OFFLINE="1")
import datasets
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
cases = {
    "crash_test/1 cat/2 dog/3": {"test": ["crash_test/1"]},
    "bus/1 plane/2 train/3": {"train": ["train/3"]},
    "cat/test_1 cat/2 dog/3": {"test": ["cat/test_1"]},
    "train/crash-test/1 train/cat/2 test/cat/3": {
        "train": ["train/cat/2", "train/crash-test/1"],
        "test": ["test/cat/3", "train/crash-test/1"],
    },
    "cat/1 dog/2": {"train": ["cat/1", "dog/2"]},
}
changed = 0
for number, (given, expected) in enumerate(cases.items()):
    root = Path(f"pictures{number}").absolute()
    for value, name in enumerate(given.split()):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), value).save(path)
    found, classes = {}, {}
    for split, rows in datasets.load_dataset("imagefolder", data_dir=str(root)).items():
        paths = rows.cast_column("image", datasets.Image(decode=False))["image"]
        found[split] = sorted(str(Path(image["path"]).relative_to(root).with_suffix("")) for image in paths)
        classes[split] = getattr(rows.features.get("label"), "names", None)
    print(f"  given {given}\n    seen {found}, classes {classes}")
    changed |= found != expected
sys.exit(changed)
END
