"""report.html in a real browser: everything loads, nothing leaves the machine, nothing is wider than the window."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outside.browser import Page, chromium, find_chromium
from PIL import Image

from expost.evaluation.page import dimensions, rates, render_html, tight_bounds
from expost.evaluation.report import Report, Row
from expost.evaluation.sections import Surgery
from expost.evaluation.verdict import conclude

BINARY = find_chromium()
needs_chromium = pytest.mark.skipif(BINARY is None, reason="there is no Chromium here: apt-get install chromium")
WIDTHS = (360, 800, 1280)
LONG = "a_prior_whose_name_somebody_made_up_without_thinking_of_telephones"
OVERFLOWING = """[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll, pre') && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "standard_error": 0.04}


def under(rate: float, information: float) -> dict[str, Any]:
    figures = {"cross_entropy_nats": 20.0, "marginal_kl_nats": rate - information, "rate_nats": rate}
    return {**{name: estimate(value) for name, value in figures.items()}, "note": None}


def split(num: int, information: float, ceiling: float, at_ceiling: bool) -> dict[str, Any]:
    return {
        "num_draws": num,
        "num_components": num,
        "mutual_information_nats": estimate(information),
        "ceiling_nats": ceiling,
        "at_ceiling": at_ceiling,
        "priors": {"standard_normal": under(23.9, information), LONG: under(19.7, information), "none": None},
    }


def wide_report() -> Report:
    """A report with everything that a report may have, and names that are hard to fit."""
    figures = {"distortion_nats": 80.12345, "rate_nats": 23.9, "elbo_nats": 104.0, "iwae_nats": 100.0}
    rows: dict[str, Any] = {
        name: {key: value - step for key, value in figures.items()}
        | {"spread": {"rate_nats": 0.05, "iwae_nats": 0.3}, "num_parameters": 123_456_789}
        | {"notes": ["the note of a row that goes on <b>& on</b> " + "x" * 120]}
        for step, name in enumerate(("standard_normal", "mixture", LONG))
    }
    rows |= {name: {} for name in ("reconstructions", "train_against_test", "aggregate_draws")}
    distance = {"mean": 0.1, "largest": 0.5, "floor": 0.01, "per_dim": [0.1, 0.5, 0.2]}
    two_sample = {"accuracy_percent": 97.5, "standard_error_percent": 0.4, "num_held_out": 2000}
    two_sample |= {"mmd_squared": 0.0123, "mmd_standard_error": 0.0004, "mmd_num_samples": 5000}
    surgery = {
        "train": split(60_000, 10.8, 11.0, False),
        "test": split(10_000, 9.2, 9.21, True),
        "dimensions": {
            "num_dims": 3,
            "num_active": 1,
            "num_collapsed": 1,
            "active": [True, False, False],
            "collapsed": [False, True, False],
            "mean_variance": [0.9, 0.0001, 0.005],
            "wasserstein_1": {"standard_normal": distance, LONG: distance},
        },
        "two_sample": {"standard_normal": two_sample, LONG: None},
    }
    bound = {"ais_nats": 98.5, "ais_std_error_nats": 0.2, "iwae_nats": 99.0, "acceptance": 0.65, "diverged_share": 0.0}
    bound |= {"bdmc_gap_nats": 0.04, "bdmc_gap_std_error_nats": None, "notes": ["a note on the chains"]}
    annealing = {"num_images": 100, "bdmc_images": 100, "num_chains": 16, "num_steps": 1000, "importance_samples": 64}
    annealing |= {"leapfrog_steps": 10, "is_density": True}
    annealing |= {"rows": {"standard_normal": bound, LONG: {"notes": ["no density"]}}}
    provenance = {"date": "2026-01-01 00:00", "seeds": {"vae": 0, "prior": 1}, "data": "0123456789abcdef" * 4}
    stored = {"data": "digits", "features": "features", "rows": rows, "surgery": surgery}
    return conclude(Report.from_json({**stored, "annealing": annealing, "provenance": provenance}))


def pictures(folder: Path) -> dict[str, Path]:
    found = {}
    for name, shape in {"wide": (40, 1600, 3), "tall": (1200, 300, 3)}.items():
        noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
        found[f'A {name} picture, "quoted" & <odd>.'] = folder / f"{name}.png"
    return found


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    config = "data:\n  root: " + "/a/very/long/path" * 20 + "\nkey: <script>alert(1)</script>\n"
    (folder / "report.html").write_text(render_html(wide_report(), pictures(folder), config), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BINARY is not None
    with chromium(BINARY, tmp_path_factory.mktemp("chromium")) as page:
        yield page


def test_the_rate_is_shown_as_the_sum_that_it_is() -> None:
    table = rates(wide_report().surgery)
    assert [label for label, _ in table.lines] == [
        f"{s} images, {p}" for s in ("train", "test") for p in ("N(0, I)", LONG)
    ]
    for _, texts in table.lines:
        information, kl, rate = (float(text.split(" ± ")[0]) for text in texts)
        assert information + kl == pytest.approx(rate, abs=0.011)
    states = [texts[0] for _, texts in dimensions(wide_report().surgery).lines]
    assert states == ["active", "collapsed", "inactive"]
    assert tight_bounds(wide_report().annealing).lines[1][1] == ["-"] * 5
    assert rates(Surgery()).lines == dimensions(Surgery()).lines == tight_bounds(None).lines == []


def test_what_is_missing_leaves_no_trace(tmp_path: Path) -> None:
    rows = {"standard_normal": Row(distortion_nats=1.0)}
    page = render_html(conclude(Report("digits", "features", rows=rows)), {}, "key: value\n")
    for word in ("The rate taken apart", "Tight bounds", "Pictures", "Provenance", "None"):
        assert word not in page
    assert len(re.findall("<table", page)) == 1 and "<canvas" not in page.split("<script>")[0]


def test_only_what_differs_beyond_the_noise_is_bold(html: Path) -> None:
    page = html.read_text(encoding="utf-8")
    line = {label: row for label, row in re.findall(r'<th scope="row">([^<]*)</th>\n(.*?)</tr>', page, re.DOTALL)}
    rate = re.findall(r'<td class="([^"]*)">([\d.]+) <small>± ([\d.]+)</small>', line["rate, nats ↓"])
    assert [("best" in classes) for classes, _, _ in rate] == [False, False, True]
    assert [value for _, value, _ in rate] == ["23.90", "22.90", "21.90"]
    rows = {
        name: Row(rate_nats=rate, spread={"rate_nats": 5.0})
        for name, rate in (("standard_normal", 23.9), ("mixture", 22.9))
    }
    noisy = conclude(Report("d", "f", rows=rows))
    assert "best" not in render_html(noisy, {}, "").split("<tbody>")[1].split("</tbody>")[0]


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(html: Path, browser: Page, width: int) -> None:
    browser.open(html.as_uri(), width)
    sizes = browser.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth, i.alt])")
    assert [natural for _, natural, _, _ in sizes] == [1600, 300]
    assert all(complete and 0 < shown <= width and alt for complete, _, shown, alt in sizes)
    for opened in (False, True):
        browser.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {json.dumps(opened)})")
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
        assert browser.evaluate(OVERFLOWING) == []
    assert browser.evaluate("[...document.querySelectorAll('th')].every(h => h.scope)")
    assert not browser.events_of("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    asked = {sent["request"]["url"].split(":", 1)[0] for sent in browser.events_of("Network.requestWillBeSent")}
    assert asked == {"file", "data"}
    assert browser.evaluate("[...document.scripts].map(s => s.src + s.type)") == [""]  # ours, within the page


@needs_chromium
def test_the_browser_sees_what_would_be_wrong(html: Path, browser: Page, tmp_path: Path) -> None:
    """The measurements above are able to fail."""
    bad = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", html.read_text(encoding="utf-8")).replace(
        "</main>",
        '<div style="width:2000px">wide</div><img alt="" src="nowhere.png"><script>console.error("no")</script></main>',
    )
    (tmp_path / "bad.html").write_text(bad, encoding="utf-8")
    browser.open((tmp_path / "bad.html").as_uri(), 360)
    assert browser.evaluate("document.scrollingElement.scrollWidth") > 360
    assert browser.evaluate(OVERFLOWING) != []
    assert browser.evaluate("[...document.images].map(i => i.naturalWidth)") == [1600, 300, 0]
    assert browser.events_of("Runtime.consoleAPICalled") and browser.events_of("Log.entryAdded")


@needs_chromium
def test_the_page_runs_nothing_but_its_own_and_asks_nobody(html: Path, browser: Page, tmp_path: Path) -> None:
    bad = html.read_text(encoding="utf-8").replace(
        "</main>",
        '<script>window.ran = 1</script><img alt="" src="nowhere.png" onerror="window.ran = 1"></main>',
    )
    (tmp_path / "bad.html").write_text(bad, encoding="utf-8")
    browser.open((tmp_path / "bad.html").as_uri(), 360)
    assert browser.evaluate("window.ran") is None
    assert browser.evaluate("fetch('nowhere.png').then(() => 'asked', () => 'refused')") == "refused"
    assert not [s for s in browser.events_of("Network.responseReceived") if "nowhere" in s["response"]["url"]]
    assert browser.evaluate("document.querySelectorAll('button.sort').length") > 10  # its own script does run


@needs_chromium
def test_printed_on_paper(html: Path, browser: Page) -> None:
    browser.open(html.as_uri(), 1280)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        browser.call("Emulation.setDeviceMetricsOverride", width=688, height=1000, deviceScaleFactor=1, mobile=False)
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= 688  # A4 without its margins
        assert browser.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    assert len(browser.call("Page.printToPDF")["data"]) > 10_000
