"""A comparison as it is shown: terminal, CSV, Markdown, page and picture."""

import csv
import io
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from stored_reports import row, run

from expost.evaluation.comparison import views
from expost.evaluation.comparison.compare import Comparison, compare
from expost.evaluation.comparison.figure import draw


@pytest.fixture
def comparison() -> Comparison:
    runs = [run(f"m{s}", "mixture", row(3.0 + 0.1 * s, 21.0, 90.0), s) for s in range(3)]
    runs.append(run("f", "flow|<b>", row(2.0, 20.0, 80.0, samples_per_second=12_345.6, notes=["a cross-entropy"])))
    return compare(runs)


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits_and_cuts_nothing(comparison: Comparison, width: int) -> None:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(views.terminal(comparison, width))
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= width and "…" not in shown
    assert re.search(r"mixture +3 +3\.100 ± 0\.100 ", shown) and re.search(r"flow.<b> +1 +2\.000 \(0\.100\)", shown)
    assert "12,346" in shown and "flow|<b>: a cross-entropy" in shown
    assert "1,000 samples against test, on 64 features" in " ".join(shown.split())


def test_csv_holds_unrounded_figures(comparison: Comparison) -> None:
    rows = {r["prior"]: r for r in csv.DictReader(io.StringIO(views.to_csv(comparison)))}
    assert float(rows["mixture"]["frechet_distance"]) == statistics.fmean([3.0, 3.1, 3.2])
    assert rows["mixture"]["num_seeds"] == "3" and rows["mixture"]["runs"] == "m0 m1 m2"
    assert float(rows["flow|<b>"]["frechet_distance_spread"]) == 0.1
    assert rows["reconstructions"]["rate_nats"] == "" and rows["flow|<b>"]["frechet_distance_leads"] == "True"


def test_markdown_is_one_table_with_the_leader_in_bold(comparison: Comparison) -> None:
    page = views.to_markdown(comparison, "comparison.png")
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1 and len(table) == 2 + 5
    assert table[2].startswith("| flow\\|\\<b> | 1 | **2.000 (0.100)** |")
    assert "![" in page and "(comparison.png)" in page


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_is_self_contained_and_escaped(comparison: Comparison, tmp_path: Path) -> None:
    draw(comparison, tmp_path / "c.png")
    text = views.to_html(comparison, tmp_path / "c.png")
    page = _Page()
    page.feed(text)
    assert "flow|&lt;b&gt;" in text and not any(tag in ("script", "iframe", "b") for tag, _ in page.tags)
    links = [value or "" for _, a in page.tags for key, value in a.items() if key in ("src", "href")]
    assert len(links) == 2 and all(value.startswith("data:") for value in links)
    assert '<td class="leads">2.000 (0.100)</td>' in text and "url(" not in text


def test_figure_has_a_band_a_likelihood_and_is_the_same_each_time(comparison: Comparison, tmp_path: Path) -> None:
    draw(comparison, tmp_path / "one.png")
    draw(comparison, tmp_path / "again.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    grey = {"likelihood": "DiscretizedLogistic"}
    two = compare([run("a", "mixture", row(3.0, 1.0, 9.0)), run("c", "m", row(4.0), vae="w", provenance=grey)])
    draw(two, tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as other:
        assert one.width > 1000 and other.height > one.height
        colours = {colour for _, colour in one.convert("RGB").getcolors(2**24) or []}
    assert {(0x2A, 0x9D, 0x6F), (0xD1, 0x60, 0x3D)} <= colours, "a learned prior and the baseline are drawn"


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    grey = {"likelihood": "$_$"}
    both = [run("a", "$_$", row(3.0), data="$^$"), run("c", "m", row(4.0), vae="w", provenance=grey, data="$^$")]
    draw(compare(both), tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as opened:
        assert opened.width > 500
