"""docs/questions.md: each question of `conf/experiment/questions`, its command, its picture, its figures, its answer.

    python -m benchmarks.questions [--root runs/bench/questions] [--only NAME ...] [--out docs/questions.md]

Runs every question as a user does, or finds its runs in the store under `--root`, and copies picture and answer as they
come out; with `--only` the other sections of the page stay as they are. Nothing on it is written by hand but which
questions there are, and in which order.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline
from expost.questions.answering import PURPOSES

ORDER = (
    "quilt",
    "size",
    "ladder",
    "absorbed",
    "training",
    "gradients",
    "perfect",
    "collapse",
    "scale",
    "codes",
)
HEAD = """# Questions that people ask about VAEs

Each has one command, and this page is what the commands answered: written by `python -m benchmarks.questions`, not by
hand. They take minutes on two cores, on digits that come with the installation; `data=mnist data.root=DIR` asks the
same of MNIST, but for `collapse`, which needs these digits at several sizes. ± is the standard error of a mean over
seeds, or what a column says; a difference that a paired t-test over seeds does not find at 5 % is called noise. Frechet
distances are between decoded draws and test images, in features of a small classifier of the set's own labels.
"""


def answered(root: Path, name: str) -> tuple[dict[str, Any], Path]:
    """The answer to a question, and its picture."""
    taken = pipeline(f"experiment=questions/{name}", f"paths.root={root}")
    folder = (root / "latest").resolve()
    print(f"{name}: {taken.seconds:.0f} s, {machine()}", file=sys.stderr, flush=True)
    return json.loads((folder / "answer.json").read_text(encoding="utf-8")), folder / "answer.png"


def section(number: int, name: str, answer: dict[str, Any], picture: str) -> str:
    """One question of the page."""
    columns = answer["columns"]
    titles = (title.replace("|", "\\|") for title in columns.values())
    head = f"| | {' | '.join(titles)} |\n|---|{'---:|' * len(columns)}"
    rows = [f"| {row['']} | {' | '.join(row[key] for key in columns)} |" for row in answer["rows"]]
    seeds = len({run["seed"] for run in answer["runs"]})
    images = ", ".join(f"{num:,} for {PURPOSES[split]}" for split, num in answer["images"].items())
    return "\n\n".join(
        [
            f"## {number}. {answer['question']}",
            f"    python pipeline.py experiment=questions/{name}",
            f"![{answer['question']}]({picture})",
            "\n\n".join(answer["sentences"]),
            "\n".join([head, *rows]),
            f"{len(answer['runs'])} runs, {seeds} seeds; a set of images with {images}.",
        ]
    )


def page(root: Path, names: Sequence[str], out: Path) -> str:
    """The page, of which the questions `names` are asked; the others stay as `out` has them, where it has."""
    folder = out.parent / "questions"
    folder.mkdir(exist_ok=True)
    written = out.read_text(encoding="utf-8") if out.exists() else ""
    sections = {number: f"## {text}".strip() for number, text in sections_of(written).items() if number <= len(ORDER)}
    for number, name in enumerate(ORDER, 1):
        if name in names:
            answer, picture = answered(root, name)
            shutil.copyfile(picture, folder / f"{name}.png")
            sections[number] = section(number, name, answer, f"questions/{name}.png")
    in_order = [sections[number] for number in sorted(sections)]
    return "\n\n".join([HEAD.strip(), *in_order, f"- {machine()} at the end of the last that was asked."]) + "\n"


def sections_of(written: str) -> dict[int, str]:
    """The questions of a page by their numbers, without what stands at its end."""
    _, *sections = re.sub(r"\n- [^\n]*\n\Z", "\n", written).split("\n## ")
    return {int(text.split(".")[0]): text for text in sections}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench/questions"), help="where the runs are kept")
    parser.add_argument("--only", nargs="+", choices=ORDER, default=ORDER)
    parser.add_argument("--out", type=Path, default=Path("docs/questions.md"))
    options = parser.parse_args()
    options.out.write_text(page(options.root.absolute(), options.only, options.out), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
