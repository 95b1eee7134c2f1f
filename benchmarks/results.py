"""docs/RESULTS.md from stored runs: our figures beside the published ones, with what they were measured on.

    python -m benchmarks.results [--runs runs] [--measured docs/measured] [--out docs/RESULTS.md]

Reads `report.json` files, and sections that benchmarks wrote (their `--out`) into the folder of `--measured`; it trains
nothing. The same input gives the same page, byte for byte. Of a recipe that has no run among them, what the page says
already stays; without that it says so. `benchmarks/published.py` holds the published figures and the words.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.published import RECIPES, WITHOUT_RECIPE, Claim, Recipe
from expost.base.errors import UserError
from expost.compare import group_of, load, report_folders
from expost.evaluation.comparison.compare import compare
from expost.evaluation.comparison.lines import Line
from expost.evaluation.comparison.sources import Source, beside
from expost.evaluation.comparison.views import columns_of, markdown_table, text
from expost.evaluation.report import FIGURES
from expost.parts.identity import THEN_JOINT

COMMAND = "python -m benchmarks.results --runs runs"
NOT_RUN = "**Not run.**"
DOCS = Path(__file__).resolve().parent.parent / "docs"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the paths.root of the runs")
    parser.add_argument("--measured", type=Path, default=DOCS / "measured", help="sections of benchmarks, *.md")
    parser.add_argument("--out", type=Path, default=DOCS / "RESULTS.md")
    options = parser.parse_args(words)
    try:
        sources = [load(options.runs, folder) for folder in report_folders(options.runs)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    measured = [file.read_text(encoding="utf-8") for file in sorted(options.measured.glob("*.md"))]
    before = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    options.out.write_text(page(sources, measured, before), encoding="utf-8")
    run = [recipe for recipe in RECIPES if of_recipe(sources, recipe)]
    print(f"{options.out}: {len(run)} of {len(RECIPES)} recipes have runs in {options.runs}")
    return 0


def page(sources: Sequence[Source], measured: Sequence[str] = (), before: str = "") -> str:
    """The whole of RESULTS.md; `measured`: sections that benchmarks wrote; `before`: the page as it is."""
    parts = [
        "# Published figures, and ours",
        f"Written by `{COMMAND}` from stored runs, and from the tables of benchmarks in `docs/measured`; do not edit. "
        'Lower is better in every figure of the first table. "Short by" is ours minus published. ± is the standard '
        "deviation over seeds; a number in brackets is that over resampled images of one run. Ours stands only beside "
        "a figure of as many importance samples as it has itself.",
        summary(sources, before),
        *(kept(sources, recipe, before) or section(sources, recipe) for recipe in RECIPES),
        *(words.strip() for words in measured),
        "## Published figures that no recipe aims at yet",
        "\n".join(f"- {what} ({who})" for what, who in WITHOUT_RECIPE),
    ]
    return "\n\n".join(parts) + "\n"


def kept(sources: Sequence[Source], recipe: Recipe, before: str) -> str:
    """What the page said `before` of a recipe that has no run now; empty: nothing, or there is one."""
    _, found, rest = before.partition(f"\n## {recipe.experiment}\n")
    if of_recipe(sources, recipe) or not found:
        return ""
    words, _, _ = rest.partition("\n## ")
    return "" if NOT_RUN in words else f"## {recipe.experiment}\n{words.rstrip()}"


def summary(sources: Sequence[Source], before: str) -> str:
    out = ["| recipe | what | published | ours | short by | ours is over |", "|---|---|---:|---:|---|---|"]
    for recipe in RECIPES:
        link = f"| [{recipe.experiment}]("
        if kept(sources, recipe, before) and (rows := [row for row in before.splitlines() if row.startswith(link)]):
            out += rows
            continue
        for claim in recipe.claims:
            line = ours(sources, recipe, claim)
            cells = [f"[{recipe.experiment}](#{recipe.experiment})", claim.what, f"{claim.published:.2f}"]
            measured = over(sources, line, claim)
            out.append(f"| {' | '.join([*cells, shown(line, claim), verdict(line, claim), measured])} |")
    return "\n".join(out)


def section(sources: Sequence[Source], recipe: Recipe) -> str:
    commands = dict.fromkeys(f"{command(recipe)} {claim.words}" for claim in recipe.claims)
    parts = [
        f"## {recipe.experiment}",
        f"{recipe.title} ({recipe.source}).",
        "\n".join(f"    {words}" for words in commands),
        f"Where it differs, and why it may fall short: {recipe.why}",
    ]
    found = of_recipe(sources, recipe)
    if not found:
        return "\n\n".join([*parts, NOT_RUN])
    parts += [f"**{sentence(sources, recipe, claim)}**" for claim in recipe.claims]
    comparison = compare(found)
    for lines in comparison.blocks.values():
        parts.append(markdown_table(comparison, lines, columns_of(comparison, lines)))
    left_out = len([s for s in sources if group_of(s) == recipe.experiment]) - len(found)
    facts = [
        comparison.conditions,
        *comparison.notes,
        *(f"{name}: {provenance(found, name)}." for name in ("date", "commit", "hardware", "torch")),
        f"seeds: {seeds(found)}.",
        *([f"runs left out, because they were measured on other terms: {left_out}."] if left_out else []),
    ]
    return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in facts)])


def command(recipe: Recipe) -> str:
    return f"python pipeline.py experiment={recipe.experiment} data.root=DIR"


def of_recipe(sources: Sequence[Source], recipe: Recipe) -> list[Source]:
    """Runs of the recipe that may stand beside the newest of those that meet its claims, or of all where none does."""
    every = [source for source in sources if group_of(source) == recipe.experiment]
    found = [source for source in every if any(meets(source, claim) for claim in recipe.claims)] or every
    found.sort(key=lambda source: source.age)
    return beside(found[-1], found) if found else []


def meets(source: Source, claim: Claim) -> bool:
    """Whether the run was measured as the claim asks."""
    needed = claim.importance_samples
    return needed is None or source.report.importance_samples == needed


def of_claim(sources: Sequence[Source], recipe: Recipe, claim: Claim) -> list[Source]:
    """Runs of the recipe that may stand beside the claim, and beside each other."""
    return [source for source in of_recipe(sources, recipe) if meets(source, claim)]


def ours(sources: Sequence[Source], recipe: Recipe, claim: Claim) -> Line | None:
    """Our line beside a claim: of the recipe as it is where it was run so, else of a changed one."""
    found = of_claim(sources, recipe, claim)
    if not found:
        return None
    lines = [line for line in compare(found).lines if line.row == claim.row and claim.figure in line.values]
    lines = [line for line in lines if not line.is_learned or line.label == claim.label]
    lines = [line for line in lines if (THEN_JOINT in line.vae_label) is claim.is_joint]
    return min(lines, key=lambda line: (line.vae_label != recipe.experiment, line.vae_label), default=None)


def shown(line: Line | None, claim: Claim) -> str:
    return "not run" if line is None else text(line.values[claim.figure], claim.figure)


def over(sources: Sequence[Source], line: Line | None, claim: Claim) -> str:
    """What our figure is a mean over, or was measured with; - where there is none."""
    if line is None:
        return "-"
    report = next(source.report for source in sources if source.name in line.runs)
    images = report.num_bound_images if claim.importance_samples else report.num_samples
    what = "test images" if claim.importance_samples else "samples"
    return f"{images:,} {what}" if images is not None else f"an unknown number of {what}"


def verdict(line: Line | None, claim: Claim) -> str:
    """How far ours is from the published figure, where both are of one scale."""
    if line is None:
        return "-"
    if not claim.same_scale:
        return "other features: no common scale"
    short = line.values[claim.figure].mean - claim.published
    return f"{short:.2f}" if short > 0 else f"reached, by {-short:.2f}"


def sentence(sources: Sequence[Source], recipe: Recipe, claim: Claim) -> str:
    line = ours(sources, recipe, claim)
    if line is None:
        bound = f" with {claim.importance_samples:,} importance samples" if claim.importance_samples else ""
        return f"{claim.what}: published {claim.published:.2f}; not run{bound}."
    value = line.values[claim.figure]
    unit = "nats" if claim.figure.endswith("_nats") else FIGURES[claim.figure].label
    what = f"{claim.what}: published {claim.published:.2f}, ours {shown(line, claim)}"
    changed = line.vae_label.removeprefix(recipe.experiment)
    what += changed if changed.startswith(THEN_JOINT) else f" with {changed.strip()}" if changed else ""
    if not claim.same_scale:
        return f"{what} in our own features, which is another scale."
    short = value.mean - claim.published
    if short <= 0:
        return f"{what}: reached, by {-short:.2f} {unit}."
    noise = "" if value.noise is None else f" (standard error {value.noise:.2f})"
    return f"{what}: {short:.2f} {unit} short{noise}."


def provenance(sources: Sequence[Source], name: str) -> str:
    values = dict.fromkeys(str(getattr(source.provenance, name) or "unknown") for source in sources)
    return "; ".join(values)


def seeds(sources: Sequence[Source]) -> str:
    """Each distinct set of seeds of the runs."""
    every = []
    for source in sources:
        given = source.provenance.seeds
        if given is None:
            every.append("unknown")
        elif len(set(given.values())) == 1:
            every.append(str(next(iter(given.values()))))
        else:
            every.append(", ".join(f"{stage} {seed}" for stage, seed in given.items()))
    return "; ".join(dict.fromkeys(every))


if __name__ == "__main__":
    sys.exit(main())
