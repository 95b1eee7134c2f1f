"""Every mistake in the data that a user names gets one line with the remedy, exit code 2, and leaves nothing behind."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_refused, run_here
from hostile.data import idx
from PIL import Image

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 5, 7), np.uint8), np.arange(60, dtype=np.uint8) % 3
    folder.mkdir()
    for name, values in zip(IDX_FILES, (images, labels, images[:20], labels[:20]), strict=True):
        (folder / name).write_bytes(idx(values.shape, values.tobytes()))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data that is wrong in one way each."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images = rng.random((40, 6, 9), np.float32)
    broken = images.copy()
    broken[3, 2, 2] = np.nan
    arrays = {"good": images, "nan": broken, "rank2": images[0], "rank5": images[None, None], "real": images * 6 - 3}
    arrays |= {"outside": images * 3, "integers": (images * 99).astype(np.int32), "few": images[:4]}
    for name, values in arrays.items():
        np.save(root / f"{name}.npy", values)
    np.save(root / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.savez(root / "objects.npz", x=np.array([{}, 1], dtype=object))
    np.savez(root / "noname.npz", pictures=images)
    np.savez(root / "whole.npz", x=images)
    (root / "corrupt.npz").write_bytes((root / "whole.npz").read_bytes()[:2000])
    (root / "empty.npy").write_bytes(b"")
    (root / "junk.npy").write_bytes(b"no array at all")
    (root / "empty").mkdir()
    (root / "mixed").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8)).save(root / f"mixed/{i:02d}.png")
    Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(root / "mixed/colour.png")
    first = idx_folder(root / "idx") / IDX_FILES[0]
    content = first.read_bytes()
    for name in ("truncated", "magic", "gzip_truncated"):
        idx_folder(root / name)
    (root / "truncated" / IDX_FILES[0]).write_bytes(content[:-9])
    (root / "magic" / IDX_FILES[0]).write_bytes(b"\x00\x00\x07\x03" + content[4:])
    (root / "gzip_truncated" / IDX_FILES[0]).unlink()
    (root / "gzip_truncated" / f"{IDX_FILES[0]}.gz").write_bytes(gzip.compress(content)[:-40])
    return root


DATA = {
    "data=mnist": ["data.root is not set", "data.download=true"],
    "data=mnist data.root={data}/absent": ["data.root={data}/absent does not exist"],
    "data=mnist data.root={data}/empty": ["{data}/empty", IDX_FILES[0]],
    "data=mnist data.root={data}/truncated data.num_val=10": [IDX_FILES[0], "truncated"],
    "data=mnist data.root={data}/gzip_truncated data.num_val=10": [IDX_FILES[0], "truncated"],
    "data=mnist data.root={data}/magic data.num_val=10": [IDX_FILES[0], "not an IDX file"],
    "data=mnist data.root={data}/idx": ["data.num_val=5000", "60"],
    "data=mnist data.root={data}/idx data.num_val=-10": ["data.num_val", "-10"],
    "data=mnist data.root={data}/idx data.num_val=20 prior.num_components=41": ["41", "40", "prior.num_components"],
    "data=arrays": ["data.root is not set"],
    "data=arrays data.root={data}/absent.npy": ["absent.npy", "does not exist"],
    "data=arrays data.root={data}/nan.npy": ["nan.npy", "NaN", "image 3"],
    "data=arrays data.root={data}/rank2.npy": ["rank2.npy", "(6, 9)", "(N, H, W)"],
    "data=arrays data.root={data}/rank5.npy": ["rank5.npy", "(N, H, W)"],
    "data=arrays data.root={data}/objects.npy": ["objects.npy", "Python objects"],
    "data=arrays data.root={data}/objects.npz": ["objects.npz", "Python objects"],
    "data=arrays data.root={data}/outside.npy": ["outside.npy", "outside [0, 1]", "data.domain=real"],
    "data=arrays data.root={data}/integers.npy": ["integers.npy", "int32", "uint8"],
    "data=arrays data.root={data}/few.npy": ["4 images", "at least 10"],
    "data=arrays data.root={data}/good.npy prior.num_components=60": ["60", "28", "prior.num_components"],
    "data=arrays data.root={data}/noname.npz": ["noname.npz", "called x"],
    "data=arrays data.root={data}/corrupt.npz": ["corrupt.npz", "cannot be read"],
    "data=arrays data.root={data}/empty.npy": ["empty.npy", "cannot be read"],
    "data=arrays data.root={data}/junk.npy": ["junk.npy", "cannot be read"],
    "data=arrays data.root={data}/good.npy data.val_fraction=-1": ["data.val_fraction"],
    "data=arrays data.root={data}/real.npy data.domain=real likelihood=bernoulli": ["likelihood=gaussian"],
    "data=arrays data.root={data}/real.npy data.domain=real likelihood=discretized_logistic": ["likelihood=gaussian"],
    "data=image_folder data.root={data}/absent": ["absent", "does not exist"],
    "data=image_folder data.root={data}/empty": ["{data}/empty", "empty"],
    "data=image_folder data.root={data}/mixed": ["differing modes", "colour.png", "data.mode=rgb"],
    "data=image_folder data.root={data}/mixed data.mode=rgb data.size=-3": ["data.size=-3"],
}


@pytest.mark.parametrize("words", DATA)
def test_mistake_in_the_data(words: str, data: Path, tmp_path: Path) -> None:
    parts = [part.format(data=data) for part in DATA[words]]
    assert_refused(run_here(tmp_path, *words.format(data=data).split(" ")), tmp_path, *parts)
