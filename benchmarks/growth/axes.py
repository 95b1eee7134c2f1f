"""What grows: along each axis, data of every size, and the commands that are run on them one after the other.

    python -m benchmarks.growth.axes AXIS SIZE FOLDER

writes the data of a size into an empty folder. numpy is imported where data are made, and nowhere else: what measures
other processes must hold little memory itself.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BLOCK = 100_000
COMMON = ("logger=csv", "trainer.progress=false")
LATENT_DIM, NUM_CLUSTERS, NUM_CODES = 16, 10, 256
MOST_SQUARED = 1024
"""Dimensions, where the largest number would take an hour."""
FEW_STEPS = 100
"""Of fits by gradient, about; epochs are whole, and small sets have smaller batches."""


@dataclass(frozen=True)
class Axis:
    """Attributes:
    name: what is counted.
    fixed: the rest, in words.
    sizes: from small to large.
    write: data of a size into a new folder.
    commands: curve -> words for data of a size, or why there are none; run in this order, in one store.
    """

    name: str
    fixed: str
    sizes: tuple[int, ...]
    write: Callable[[Path, int], None]
    commands: dict[str, Callable[[int], list[str] | str]]


def write_images(folder: Path, num: int) -> None:
    """Discs of one of ten sizes, somewhere in 28x28 pixels, with their size as label."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (num, 28, 28))
    labels = rng.integers(10, size=num)
    axis = np.arange(28)
    for start in range(0, num, BLOCK):
        rows = slice(start, start + BLOCK)
        centres = rng.uniform(8, 20, size=(len(labels[rows]), 2))
        squares = (axis - centres[:, :1]) ** 2, (axis - centres[:, 1:]) ** 2
        distance = np.sqrt(squares[0][:, :, None] + squares[1][:, None, :])
        images[rows] = 255 * np.clip(2 + 0.6 * labels[rows, None, None] - distance, 0, 1)
    images.flush()
    np.save(folder / "labels.npy", labels)


def write_latents(folder: Path, num: int, dims: int = LATENT_DIM) -> None:
    """Posteriors around the centres of clusters, with widths between 0.05 and 0.5."""
    import numpy as np

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(NUM_CLUSTERS, dims)).astype(np.float32)
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (num, dims))
        for name in ("loc", "std")
    }
    for start in range(0, num, BLOCK):
        rows = slice(start, min(start + BLOCK, num))
        size = rows.stop - start
        noise = rng.standard_normal((size, dims), dtype=np.float32)
        arrays["loc"][rows] = centres[rng.integers(NUM_CLUSTERS, size=size)] + 0.3 * noise
        arrays["std"][rows] = rng.uniform(0.05, 0.5, size=(size, dims))
    for array in arrays.values():
        array.flush()


def write_codes(folder: Path, tokens: int) -> None:
    """1,000 square maps in which a code tends to be the one to its left."""
    import numpy as np

    rng = np.random.default_rng(0)
    side = round(tokens**0.5)
    codes = rng.integers(NUM_CODES, size=(1000, side, side))
    for column in range(1, side):
        kept = rng.random((1000, side)) < 0.7
        codes[:, :, column][kept] = codes[:, :, column - 1][kept]
    np.save(folder / "codes.npy", codes)


def latents(*words: str) -> Callable[[int], list[str]]:
    return lambda size: ["data=latents", *words]


def images(*words: str) -> Callable[[int], list[str]]:
    """Two thousand for the test, whatever the size, and one in ten of the others for validation."""
    usual = ["data=arrays", "data.x=images", "data.label=labels", *MIXTURE]
    usual += ["trainer.max_steps=null", "trainer.max_epochs=1", "trainer.val_every=1"]
    return lambda size: [*usual, f"data.test_fraction={2000 / size:g}", *words]


def transformer(stage: str) -> Callable[[int], list[str]]:
    """Few steps of few sequences: one of 4,096 tokens takes seconds."""
    usual = ["data=latents", "prior=transformer", "prior.fit.batch_size=8", "prior.fit.val_draws=64"]
    usual += ["evaluation.num_samples=32", "evaluation.num_bound_images=64", f"stage={stage}"]
    return lambda tokens: [*usual, f"prior.fit.max_tokens={20 * 8 * tokens}"]


def components(stage: str) -> Callable[[int], list[str]]:
    usual = ["data=latents", *ITERATIONS, f"stage={stage}"]
    return lambda size: [*usual, f"prior.num_components={size}"]


def full_covariances(dims: int) -> list[str] | str:
    """A mixture whose cost grows as the square of the dimensions."""
    if dims > MOST_SQUARED:
        return "left out, as full covariances grow with the square; prior.covariance=diagonal does not"
    return ["data=latents", "stage=prior", *MIXTURE]


def by_gradient(dims: int) -> Callable[[int], list[str]]:
    """About `FEW_STEPS` of batches of about 512; of `prior.fit.max_steps` the least is an epoch."""
    return latents("stage=prior", "prior=autoregressive", f"prior.fit.max_tokens={FEW_STEPS * 512 * dims}")


ITERATIONS = ("prior=mixture", "prior.max_iter=20", "prior.tol=0")
"""Of EM: as many at every size."""
MIXTURE = (*ITERATIONS, "prior.num_components=10")
AXES = (
    Axis(
        "images",
        "28x28, the reference net, one epoch; a mixture of 10 on 16 dimensions, 20 iterations; an evaluation on "
        "2,000 test images",
        (10_000, 100_000, 300_000, 1_000_000),
        write_images,
        {stage: images(f"stage={stage}") for stage in ("vae", "encode", "prior", "evaluate")},
    ),
    Axis(
        "latents",
        f"16 dimensions, posteriors with widths; a mixture of 10, 20 iterations, some {FEW_STEPS} of the masked net",
        (10_000, 100_000, 1_000_000, 10_000_000),
        write_latents,
        {
            "read": latents("stage=encode"),
            "mixture": latents("stage=prior", *MIXTURE),
            "autoregressive": by_gradient(LATENT_DIM),
            "evaluate": latents("stage=evaluate", *MIXTURE),
        },
    ),
    Axis(
        "dimensions",
        f"2,000 posteriors with widths; a mixture of 10, 20 iterations, some {FEW_STEPS} of the masked net",
        (2, 16, 128, 1024, 4096),
        lambda folder, dims: write_latents(folder, 2_000, dims),
        {
            "read": latents("stage=encode"),
            "gaussian": latents("stage=prior", "prior=gaussian"),
            "mixture": full_covariances,
            "autoregressive": lambda dims: by_gradient(dims)(dims),
            "evaluate gaussian": latents("stage=evaluate", "prior=gaussian"),
        },
    ),
    Axis(
        "codes",
        "1,000 maps, codebook of 256; 20 steps of 8 maps of the transformer, 32 samples, density of 64 maps",
        (16, 64, 256, 1024, 4096),
        write_codes,
        {
            "read": transformer("encode"),
            "transformer": transformer("prior"),
            "evaluate": transformer("evaluate"),
        },
    ),
    Axis(
        "components",
        "60,000 posteriors of 16 dimensions; a mixture for 20 iterations",
        (10, 30, 100, 300, 1000),
        lambda folder, _: write_latents(folder, 60_000),
        {stage: components(stage) for stage in ("encode", "prior", "evaluate")},
    ),
)


if __name__ == "__main__":
    asked, number, place = sys.argv[1:]
    next(axis for axis in AXES if axis.name == asked).write(Path(place), int(number))
