"""Whether `stage=check` costs about the same whatever the latent: seconds of it beside those of `vae=gaussian`.

    python -m benchmarks.check [--out docs/measured/check.md]

Fifty images of noise of each shape, which make up to 3,119 codes an image. Seconds are those of the processors, start
of the interpreter included, so that other work on the machine does not count; rounds of a shape follow each other, and
ratios are medians. Exits with 1 where a latent takes more than twice what `vae=gaussian` takes.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.child import machine, pipeline

TARGET = 2.0
NUM_IMAGES = 50
SHAPES = {"28x28": (28, 28), "32x32 RGB": (3, 32, 32), "178x218": (178, 218), "178x218 RGB": (3, 178, 218)}
REFERENCE = ("vae=gaussian", "prior=gaussian")
LATENTS = {
    "vq": ("vae=vq",),
    "vq, pixelcnn": ("vae=vq", "prior=pixelcnn"),
    "vq2": ("vae=vq2",),
    "fsq": ("vae=fsq",),
    "gumbel": ("vae=gumbel",),
    "residual_vq": ("vae=residual_vq",),
    "bernoulli": ("vae=bernoulli",),
    "autoregressive": ("vae=gaussian", "prior=autoregressive"),
    "transformer": ("vae=gaussian", "prior=transformer"),
}
TOO_LONG = {("residual_vq", "178x218"), ("residual_vq", "178x218 RGB")}
"""9,900 codes an image, which prior.max_tokens refuses."""


def checked(data: Path, root: Path, words: tuple[str, ...]) -> float:
    return pipeline(
        "stage=check", "logger=csv", "data=arrays", f"data.root={data}", f"paths.root={root}", *words
    ).cpu_seconds


def measured(folder: Path, shape: str, repeats: int) -> dict[str, tuple[float, float]]:
    """Latent -> median seconds, and median ratio to the reference of the same round."""
    data = folder / "images.npy"
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *SHAPES[shape]), dtype=np.uint8)
    np.save(data, pixels)
    latents = {name: words for name, words in LATENTS.items() if (name, shape) not in TOO_LONG}
    rounds: list[dict[str, float]] = []
    for _ in range(repeats):
        own = checked(data, folder / "runs", REFERENCE)
        rounds.append({"gaussian": own} | {k: checked(data, folder / "runs", words) for k, words in latents.items()})
    return {
        name: (
            statistics.median(each[name] for each in rounds),
            statistics.median(each[name] / each["gaussian"] for each in rounds),
        )
        for name in rounds[0]
    }


def table(found: dict[str, dict[str, tuple[float, float]]]) -> str:
    """Markdown: a row a latent, a column a shape."""
    lines = [f"| latent | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    for name in ("gaussian", *LATENTS):
        cells = []
        for each in found.values():
            seconds, ratio = each.get(name, (0.0, 0.0))
            cells.append(f"{seconds:.1f} s ({ratio:.2f})" if seconds else "refused")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1, help="rounds a shape")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, help="write a section for docs/RESULTS.md there")
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="check-of-expost-") as folder:
        for shape in given.shapes:
            found[shape] = measured(Path(folder), shape, given.repeats)
            print(f"{shape}: " + ", ".join(f"{name} {s:.1f} s ({r:.2f})" for name, (s, r) in found[shape].items()))
    worst = max(ratio for each in found.values() for _, ratio in each.values())
    section = (
        "## What a check costs\n\n"
        f"`stage=check` on {NUM_IMAGES} images of each shape: seconds of the processors, start of the interpreter "
        "included, and in brackets their ratio to those of `vae=gaussian prior=gaussian` on the same images.\n\n"
        f"    python -m benchmarks.check\n\n{table(found)}\n\n"
        f"- rounds: {given.repeats}; {machine()}. The target is {TARGET:g}; the largest ratio is {worst:.2f}.\n"
        "- refused: 9,900 codes an image, more than `prior.max_tokens`.\n"
    )
    print(section)
    if given.out is not None:
        given.out.write_text(section, encoding="utf-8")
    return 0 if worst <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
