"""The report: strict JSON, honest gaps, a table for 80 columns, a page that needs nothing beside it."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from expost.evaluation import views
from expost.evaluation.figures import save_pixels, tile
from expost.evaluation.page import render_html
from expost.evaluation.report import FIGURES, Report, Row, closed_share
from expost.evaluation.row_names import FLOORS
from expost.evaluation.sections import Estimate, Provenance
from expost.evaluation.verdict import conclude, verdict_lines

DISTANCES = Row(
    kernel_distance=0.01, precision=0.9, recall=0.8, density=1.0, coverage=0.95, num_samples=10_000, spread={}
)


SPREAD = {
    "frechet_distance": 0.04,
    "kernel_distance": 0.0012,
    "precision": 0.004,
    "rate_nats": 0.03,
    "gap_closed": 0.01,
}


def _report(learned: str = "mixture", frechet: float = 2.0, **bounds: Any) -> Report:
    nats = replace(DISTANCES, distortion_nats=78.0, notes=("a cross-entropy",), spread=SPREAD)
    fitted: dict[str, Any] = {
        "rate_nats": 20.0,
        "elbo_nats": 98.0,
        "latent_nll_nats": 18.0,
        "frechet_distance": frechet,
    }
    fitted |= {"bits_per_dim": 0.5, "fit_seconds": 3.2, "num_parameters": 15_299} | bounds
    baseline: dict[str, Any] = {
        "rate_nats": 23.9,
        "elbo_nats": 101.9,
        "latent_nll_nats": 22.7,
        "frechet_distance": 10.0,
    }
    rows = {
        "standard_normal": replace(nats, **baseline, num_parameters=0),
        learned: replace(nats, **fitted),
        "aggregate_draws": replace(DISTANCES, frechet_distance=1.2, memorisation=0.584, spread={"memorisation": 0.003}),
        "reconstructions": replace(DISTANCES, frechet_distance=1.0),
        "train_against_test": replace(DISTANCES, frechet_distance=0.1),
    }
    report = Report(
        "mnist", "64 features of a test", rows=rows, reference="the test split", provenance=Provenance(vae="abc")
    )
    return conclude(report)


def test_every_row_has_every_key_and_what_does_not_apply_is_null() -> None:
    stored = json.loads(_report().text())
    assert stored["baseline"] == "standard_normal" and stored["data"] == "mnist"
    assert list(stored["rows"]) == ["standard_normal", "mixture", *FLOORS]
    for row in stored["rows"].values():
        assert set(row) == {*FIGURES, "notes", "spread"}
    assert stored["rows"]["reconstructions"]["rate_nats"] is None
    assert stored["rows"]["mixture"]["iwae_nats"] is None
    assert stored["rows"]["mixture"]["num_parameters"] == 15_299
    assert stored["rows"]["standard_normal"]["num_parameters"] == 0


def test_gap_closed_only_for_learned_priors() -> None:
    rows = _report().rows
    assert rows["mixture"].gap_closed == pytest.approx(8 / 9)
    assert {rows[name].gap_closed for name in ("standard_normal", *FLOORS)} == {None}


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_hold_become_null_with_a_note(broken: float) -> None:
    stored = json.loads(_report(rate_nats=broken, elbo_nats=broken).text(), parse_constant=pytest.fail)
    row = stored["rows"]["mixture"]
    assert row["rate_nats"] is None and row["elbo_nats"] is None
    assert sum("came out as" in note for note in row["notes"]) == 2
    more = Report("d", "f", seconds={"bounds": broken, "surgery": 1.0})
    assert json.loads(more.text())["seconds"] == {"bounds": None, "surgery": 1.0}


def test_no_spread_without_its_figure() -> None:
    spread = {"rate_nats": 0.1, "elbo_nats": math.nan, "iwae_nats": 0.2}
    row = Row(rate_nats=1.0, elbo_nats=2.0, spread=spread)
    assert conclude(Report("d", "f", rows={"standard_normal": row})).rows["standard_normal"].spread == {
        "rate_nats": 0.1
    }


def test_gap_closed() -> None:
    assert closed_share(10.0, 2.0, 1.0) == pytest.approx(8 / 9)
    assert closed_share(10.0, 11.0, 5.0) == pytest.approx(-0.2)
    assert closed_share(1.0, 0.5, 1.0) is None
    assert closed_share(1.0, 0.5, 2.0) is None


def test_unknown_figures_are_refused() -> None:
    with pytest.raises(TypeError, match="rate_bits"):
        Row(**{"rate_bits": 1.0})  # type: ignore[arg-type]


def test_verdict_says_what_was_bought_or_lost() -> None:
    better = _report().verdict
    assert "lowers the rate by 3.90 nats" in better and "closes 88.9% of the gap" in better and "mixture" in better
    worse = _report(frechet=11.0, rate_nats=25.0).verdict
    assert "raises the rate by 1.10 nats" in worse and "widens" in worse and "by 11.1%" in worse
    autoencoder = _report()
    rows = {name: replace(row, rate_nats=None) for name, row in autoencoder.rows.items()}
    words = " ".join(verdict_lines(replace(autoencoder, rows=rows)))
    assert "lowers the cost -log p(z) of a held-out latent by 4.70" in words
    assert "Only the baseline" in conclude(Report("d", "f", rows={"standard_normal": Row()})).verdict
    bare = conclude(Report("d", "f", rows={"standard_normal": Row(), "x": Row()}))
    assert "no figure that compares" in bare.verdict


@pytest.mark.parametrize("learned", ["mixture", "autoregressive"])
def test_table_fits_80_columns_with_nothing_cut(learned: str) -> None:
    console = Console(width=80, record=True, color_system=None)
    with console.capture() as capture:
        console.print(views.terminal_table(_report(learned)))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert re.search(r"Frechet distance ↓ +10\.000 ± 0\.040 +2\.000 ± 0\.040 +1\.200 +1\.000 +0\.100", text)
    assert re.search(r"gap closed ↑ +- +88\.9% ± 1\.0% +- +- +-", text)
    assert "memorisation" in text and "0.003" not in text  # no room for the spreads of the floors
    assert "IWAE" not in text  # null in every row
    flat = " ".join(text.split())
    assert learned in flat
    assert "10,000 samples against the test split, on 64 features of a test" in flat
    assert f"N(0, I), {learned}: a cross-entropy" in flat  # told once for both rows


def test_a_wide_terminal_shows_every_spread() -> None:
    console = Console(width=120, record=True, color_system=None)
    with console.capture() as capture:
        console.print(views.terminal_table(_report(), width=120))
    assert "58.4% ± 0.3%" in capture.get() and "0.0100 ± 0.0012" in capture.get()


def test_bold_only_beyond_the_noise() -> None:
    wins = views.winners(_report())
    assert wins["rate_nats"] == "mixture" and wins["frechet_distance"] == "mixture"
    assert "precision" not in wins and "distortion_nats" not in wins  # equal
    assert not {"num_samples", "memorisation", "num_parameters", "gap_closed"} & set(wins)
    beyond, within = 10 - 2.001 * 0.04 * math.sqrt(2), 10 - 1.999 * 0.04 * math.sqrt(2)
    assert views.winners(_report(frechet=beyond))["frechet_distance"] == "mixture"
    assert "frechet_distance" not in views.winners(_report(frechet=within))
    assert views.winners(_report(frechet=10.5))["frechet_distance"] == "standard_normal"

    def bold(report: Report) -> list[bool]:
        (table,) = (part for part in views.terminal_table(report).renderables if isinstance(part, Table))
        columns = table.columns
        row = next(i for i, cell in enumerate(columns[0].cells) if str(cell).startswith("Frechet"))
        return ["bold" in str(getattr(list(column.cells)[row], "style", "")) for column in columns[1:]]

    assert bold(_report()) == [False, True, False, False, False]
    assert bold(_report(frechet=within)) == [False] * 5


@pytest.mark.parametrize(
    ("value", "noise", "text"),
    [
        (12.345, 0.05, "12.345 ± 0.050"),
        (12.345, 3.2, "12.3 ± 3.2"),
        (12.345, 0.0004, "12.3450 ± 0.0004"),
        (12.345, None, "12.345"),
    ],
)
def test_a_figure_is_told_to_the_first_digit_of_its_spread(value: float, noise: float | None, text: str) -> None:
    spread = {} if noise is None else {"frechet_distance": noise}
    row = Row(spread=spread, frechet_distance=value)
    (line,) = views.lines(conclude(Report("d", "f", rows={"standard_normal": row})))
    assert line == ("Frechet distance ↓", [text], None)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def page(tmp_path: Path) -> str:
    save_pixels(tile(torch.rand(40, 1, 28, 28), 40), tmp_path / "wide.png")
    report = _report("a<script>alert(1)</script>")
    return render_html(report, {"Samples <b>": tmp_path / "wide.png"}, "data: {root: '<x>'}\n")


def test_page_is_self_contained_and_escaped(page: str) -> None:
    tags = _Page(page).tags
    names = [tag for tag, _ in tags]
    assert names.count("script") == 1 and "b" not in names and "x" not in names
    assert "alert(1)" not in page.split("<script>")[1]  # the one that the page is made with
    assert "&lt;script&gt;" in page and "&lt;x&gt;" in page
    for _, attributes in tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith("data:")
    assert "url(" not in page and "@import" not in page
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in tags)
    pictures = [a for tag, a in tags if tag == "img"]
    assert len(pictures) == 1 and (pictures[0]["src"] or "").startswith("data:image/png;base64,iVBOR")
    assert "closes 88.9% of the gap" in page and "abc" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_page_loads_its_picture_and_does_not_overflow_a_phone(page: str, tmp_path: Path) -> None:
    # A frame of a phone's width, as a headless window is never narrower than 500 pixels; too high for a scroll bar.
    probe = """<!doctype html><iframe id=f style="width:390px;height:20000px;border:0" src="report.html"></iframe>
    <script>
    onload = () => { const d = f.contentDocument, e = d.documentElement;
      document.title = [e.scrollWidth, e.clientWidth, ...Array.from(d.images, i => i.naturalWidth)].join(" "); }
    </script>"""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [str(CHROMIUM), *flags.split(), "--disable-component-update", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "probe.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, encoding="utf-8").stdout
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", dom)
    assert found, dom[:500]
    content, window, picture = map(int, found.groups())
    assert window == 390 and content <= window
    assert picture == 40 * 58 - 2


def test_page_of_a_bare_report_needs_neither_pictures_nor_provenance() -> None:
    bare = conclude(Report("digits", "f", rows={"standard_normal": Row()}))
    page = render_html(bare, {}, "seed: 0\n")
    assert "Only the baseline" in page and "Pictures" not in page and "Provenance" not in page


def test_paired_gains_decide_where_images_differ_more_than_priors() -> None:
    report = _report(elbo_nats=92.0)
    rows = {name: replace(row, spread={"elbo_nats": 1.5}) for name, row in report.rows.items()}
    rows["standard_normal"] = replace(rows["standard_normal"], elbo_nats=94.0)

    def winner(gain: Estimate | None) -> str | None:
        gains = None if gain is None else {"elbo_nats": gain}
        changed = {**rows, "mixture": replace(rows["mixture"], gain=gains)}
        return views.winners(replace(report, rows=changed)).get("elbo_nats")

    assert winner(None) is None
    assert winner(Estimate(-2.0, 0.1)) == "mixture"
    assert winner(Estimate(-2.0, 1.1)) is None


def test_the_title_speaks_of_a_learned_prior_only_where_there_is_one() -> None:
    alone = conclude(Report("digits", "f", rows={"standard_normal": Row()}))
    assert str(views.terminal_table(alone).renderables[0]) == "digits: N(0, I) alone"
    assert str(views.terminal_table(_report()).renderables[0]) == "mnist: what the learned prior bought"
