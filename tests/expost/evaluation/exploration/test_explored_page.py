"""A page that is explored: by mouse, by finger, by keys, by a screen reader, and without scripts not at all.

Its ten thousand points have images of noise, which take the most room that images can take.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from outside.browser import Page, chromium, find_chromium

from expost.evaluation.exploration.content import (
    MOST_SPRITE_BYTES,
    MOST_STEP_BYTES,
    Cloud,
    Exploration,
    Traversal,
    Traversals,
    page_data,
)
from expost.evaluation.exploration.sprites import save_sprite
from expost.evaluation.page import render_html
from expost.evaluation.report import Report, Row
from expost.evaluation.sections import Dimensions, Surgery
from expost.evaluation.verdict import conclude

BINARY = find_chromium()
needs_chromium = pytest.mark.skipif(BINARY is None, reason="there is no Chromium here: apt-get install chromium")
WIDTHS = (400, 1200)
NUM, NUM_DRAWS, STEPS = 10_000, 2_000, 5
NAMES = ("</script><b>zero", "one", "two")
NOTE = "10,000 of 1,000,000 images of the test split are shown, spread over it"
POINTS = "document.querySelector('#points')"
TOLD = f"{POINTS}.querySelector('[role=status]').textContent"
TIP = f"{POINTS}.querySelector('.tip')"


def exploration(folder: Path, num: int = NUM, num_draws: int = NUM_DRAWS) -> dict[str, Any]:
    """Three clouds and two dimensions, from two starts; of the points in the corners the places are known."""
    torch.manual_seed(0)
    clouds, first = [], 0
    for name, role, count in (("q(z)", "posterior", num), ("N(0, I)", "baseline", num_draws), ("mix", "learned", 2)):
        x, y = torch.randn(2, count).clamp(-3, 3).tolist()
        if role == "posterior":
            x[:3], y[:3] = [3.5, -3.5, 0.0], [3.5, 3.5, -3.9]
        labels = tuple(i % 3 if i else -1 for i in range(count)) if role == "posterior" else None
        rows = tuple(range(0, 100 * num, 100)) if role == "posterior" else None
        noun = "test image" if role == "posterior" else "draw"
        clouds.append(Cloud(name, role, noun, tuple(x), tuple(y), rows, labels, first))
        first += count
    noise = torch.randint(0, 256, (first, 3, 32, 32), dtype=torch.uint8)
    points = save_sprite(noise, folder / "points.jpg", MOST_SPRITE_BYTES)
    ramp = torch.linspace(0, 255, 2 * 2 * STEPS).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    steps = save_sprite(ramp, folder / "steps.jpg", MOST_STEP_BYTES)
    values = tuple(-2.0 + i for i in range(STEPS))
    traversals = Traversals(
        ("test image 0", "test image 9"), (Traversal("dimension 1", values), Traversal("dimension 0", values)), steps
    )
    titles = ("principal axis 1 (60% of variance)", "principal axis 2 (40%)")
    content = Exploration(titles, (-4, -4), (4, 4), tuple(clouds), NAMES, points, traversals, (NOTE,))
    content.check()
    return page_data(content, (folder / "points.jpg").read_bytes(), (folder / "steps.jpg").read_bytes())


def report() -> Report:
    rows = {
        "standard_normal": Row(rate_nats=23.9, elbo_nats=104.0),
        "mix": Row(rate_nats=19.5, elbo_nats=99.0, num_parameters=1234),
        "aggregate_draws": Row(),
    }
    used = Dimensions(3, 2, 0, active=(True, True, False), mean_variance=(0.5, 10.0, 0.001))
    return conclude(Report("digits", "features", rows=rows, surgery=Surgery(dimensions=used)))


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explored")
    page = render_html(report(), {}, "seed: 0\n", None, exploration(folder))
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BINARY is not None
    with chromium(BINARY, tmp_path_factory.mktemp("chromium")) as page:
        yield page


def opened(html: Path, browser: Page, width: int = 1200) -> Page:
    """The page, its images decoded and its scatter in sight."""
    browser.open(html.as_uri(), width)
    browser.evaluate(f"{POINTS}.querySelector('.plot').scrollIntoView({{block: 'center'}})")
    browser.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")
    return browser


def place(browser: Page, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a point is, in a frame from -4 to 4."""
    left, top, width, height = browser.evaluate(
        f"(() => {{ const r = {POINTS}.querySelector('.plot canvas').getBoundingClientRect(); "
        "return [r.left, r.top, r.width, r.height]; })()"
    )
    return left + width * (x + 4) / 8, top + height * (4 - y) / 8


def press(browser: Page, *keys: str) -> None:
    for key in keys:
        text = {"text": key} if len(key) == 1 else {}
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        browser.call("Input.dispatchKeyEvent", type="keyUp", key=key)


def test_the_data_cannot_leave_their_element(html: Path) -> None:
    page = html.read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "<b>zero" not in page
    assert len(page.encode()) < 5_000_000
    assert page.count(NOTE) == 2  # in words, and in the data


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_painted_at_once_and_fits(html: Path, browser: Page, width: int) -> None:
    opened(html, browser, width)
    painted = browser.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 1000
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.evaluate("[...document.querySelectorAll('.explore')].every(part => !part.hidden)")
    assert not browser.events_of("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    asked = {sent["request"]["url"].split(":", 1)[0] for sent in browser.events_of("Network.requestWillBeSent")}
    assert asked == {"file", "data"}
    small = (
        "[...document.querySelectorAll('.explore button, .controls label, .controls select')]"
        ".filter(e => e.getBoundingClientRect().height < 20).length"
    )
    assert browser.evaluate(small) == 0


@needs_chromium
def test_hovering_shows_the_image_of_a_point(html: Path, browser: Page) -> None:
    opened(html, browser)
    assert browser.evaluate(f"{TIP}.hidden")
    x, y = place(browser, 3.5, 3.5)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 3, y=y - 2)
    assert browser.evaluate(f"{TIP}.textContent") == "test image 0, at 3.5, 3.5"  # its class is not known
    assert browser.evaluate(TOLD) == ""  # a screen reader is not told of all that a mouse passes over
    x, y = place(browser, -3.5, 3.5)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.evaluate(f"{TIP}.textContent") == "test image 100, class one, at -3.5, 3.5"
    image = f"{TIP}.querySelector('canvas')"
    deviation = f"(d => Math.max(...d) - Math.min(...d))({image}.getContext('2d').getImageData(0, 0, 16, 16).data)"
    assert browser.evaluate(f"!{image}.hidden && {image}.width > 8") and browser.evaluate(deviation) > 100
    x, y = place(browser, -3.9, -3.9)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.evaluate(f"{TIP}.hidden")


@needs_chromium
def test_a_finger_chooses_a_point(html: Path, browser: Page) -> None:
    opened(html, browser, 400)
    x, y = place(browser, 3.5, 3.5)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x - 8, "y": y + 8}])
        browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        browser.evaluate("new Promise(done => setTimeout(done, 400))")
    finally:
        browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    assert browser.evaluate(TOLD) == "test image 0, at 3.5, 3.5" and not browser.evaluate(f"{TIP}.hidden")


@needs_chromium
def test_keys_reach_every_point_and_say_where_they_are(html: Path, browser: Page) -> None:
    opened(html, browser)
    canvas = f"{POINTS}.querySelector('.plot canvas')"
    assert browser.evaluate(f"{canvas}.getAttribute('aria-label')") == "q(z), N(0, I), mix, on two principal axes"
    browser.evaluate(f"{canvas}.focus()")
    announcements = []
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowLeft", "ArrowDown"):
        press(browser, key)
        announcements.append(browser.evaluate(TOLD))
    heights = [float(re.findall(r"at \S+, (\S+)$", words)[0]) for words in announcements]
    assert heights[0] > 0 and heights[1] > heights[0] and heights[4] < heights[3]
    assert len(set(announcements)) >= 4
    press(browser, "Escape", "PageDown")
    assert browser.evaluate(TOLD) == "test image 0, at 3.5, 3.5"
    press(browser, "PageDown")
    assert browser.evaluate(TOLD) == "test image 100, class one, at -3.5, 3.5"
    press(browser, "PageUp", "PageUp")
    assert browser.evaluate(TOLD).startswith("draw 2 of mix, at ")  # round the corner; N(0, I) is not shown
    press(browser, "+")
    assert browser.evaluate(TOLD) == "enlarged 2 times" and not browser.evaluate(f"{TIP}.hidden")
    press(browser, "0")
    assert browser.evaluate(TOLD) == "all of the frame"
    press(browser, "-")
    assert browser.evaluate(TOLD) == "reduced 2 times"


@needs_chromium
def test_boxes_and_classes_say_what_is_shown(html: Path, browser: Page) -> None:
    opened(html, browser)
    ink = (  # pixels that are not nearly white
        "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((n, v, i) => n + (i % 4 === 0 "
        f"&& v < 200), 0))({POINTS}.querySelector('.plot canvas'))"
    )
    boxes = browser.evaluate("[...document.querySelectorAll('[data-cloud]')].map(b => [b.checked, b.labels.length])")
    assert boxes == [[True, 1], [False, 1], [True, 1]]
    before = browser.evaluate(ink)
    browser.evaluate("document.querySelectorAll('[data-cloud]')[1].click()")
    assert browser.evaluate(ink) > before
    browser.evaluate("document.querySelectorAll('[data-cloud]').forEach(box => box.checked && box.click())")
    nothing = browser.evaluate(ink)
    assert nothing < before / 3  # the grid
    browser.evaluate("document.querySelectorAll('[data-cloud]')[0].click()")
    legend = f"{POINTS}.querySelector('.legend')"
    assert browser.evaluate(f"{legend}.hidden")
    browser.evaluate("document.querySelector('input[value=class]').click()")
    assert not browser.evaluate(f"{legend}.hidden")
    assert browser.evaluate(f"{legend}.textContent").split() == [
        "</script><b>zero",
        "one",
        "two",
        "no",
        "class",
        "known",
    ]
    browser.evaluate(
        "(list => { list.value = '2'; list.dispatchEvent(new Event('change', {bubbles: true})); })"
        f"({POINTS}.querySelector('select'))"
    )
    browser.evaluate(f"{POINTS}.querySelector('.plot canvas').focus()")
    press(browser, "PageDown")
    assert browser.evaluate(TOLD) == "test image 200, class two, at 0, -3.9"


@needs_chromium
def test_sliders_move_along_a_dimension(html: Path, browser: Page) -> None:
    opened(html, browser)
    grey = "document.querySelectorAll('.card .large')[{}].getContext('2d').getImageData(8, 8, 1, 1).data[0]"
    expected = [255 * n / (4 * STEPS - 1) for n in range(4 * STEPS)]
    assert browser.evaluate(grey.format(0)) == pytest.approx(expected[2], abs=4)
    assert browser.evaluate(grey.format(1)) == pytest.approx(expected[STEPS + 2], abs=4)
    browser.evaluate("document.querySelector('#dim-1').focus()")
    press(browser, "Home")
    browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowRight", windowsVirtualKeyCode=39)
    slider = "document.querySelector('#dim-1')"
    assert browser.evaluate(f"{slider}.labels[0].textContent") == "dimension 0"
    assert browser.evaluate(f"{slider}.getAttribute('aria-valuetext')") == "-1, step 2 of 5"
    assert browser.evaluate(f"{slider}.closest('.card').querySelector('output').textContent") == "-1"
    assert browser.evaluate(grey.format(1)) == pytest.approx(expected[STEPS + 1], abs=4)
    browser.evaluate(
        "(list => { list.selectedIndex = 1; list.dispatchEvent(new Event('change')); })"
        "(document.querySelector('#traversals select'))"
    )
    assert browser.evaluate(grey.format(1)) == pytest.approx(expected[3 * STEPS + 1], abs=4)
    spoken = "document.querySelectorAll('.card .large')[1].getAttribute('aria-label')"
    assert browser.evaluate(spoken) == "test image 9, decoded with dimension 0 at -1"


@needs_chromium
def test_figures_sort_what_compares_and_lists_sort_their_lines(html: Path, browser: Page) -> None:
    opened(html, browser)
    heads = "[...document.querySelectorAll('table.across thead th')].map(h => h.textContent.trim()).slice(1)"
    rate = "[...document.querySelectorAll('table.across tbody th')].find(h => h.textContent.startsWith('rate'))"
    cells = f"[...{rate}.parentElement.querySelectorAll('td')].map(c => c.textContent.trim())"
    first = browser.evaluate(heads)
    assert browser.evaluate(cells) == ["23.90", "19.50", "-"]
    states = []
    for order in ([1, 0, 2], [0, 1, 2], [0, 1, 2]):  # what is no figure stays last
        browser.evaluate(f"{rate}.querySelector('button').click()")
        states.append(browser.evaluate(f"{rate}.getAttribute('aria-sort')"))
        assert browser.evaluate(heads) == [first[i] for i in order]
        assert browser.evaluate(cells) == [["23.90", "19.50", "-"][i] for i in order]
    assert states == ["ascending", "descending", None]
    table = "[...document.querySelectorAll('table')].find(t => t.textContent.includes('posterior means'))"
    column = f"[...{table}.querySelectorAll('thead button')].find(b => b.textContent.includes('variance'))"
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.evaluate(f"{column}.click()")
    lines = f"[...{table}.querySelectorAll('tbody th')].map(h => h.textContent.trim())"
    assert browser.evaluate(lines) == ["2", "0", "1"]
    spoken = "document.querySelector('main > [role=status]').textContent"
    assert browser.evaluate(spoken) == "sorted by variance of posterior means, ascending"


@needs_chromium
def test_without_scripts_there_are_tables_and_nothing_that_does_not_work(html: Path, browser: Page) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(html.as_uri(), 400)
        tree = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        hidden = browser.call("DOM.querySelectorAll", nodeId=tree, selector=".explore[hidden]")["nodeIds"]
        buttons = browser.call("DOM.querySelectorAll", nodeId=tree, selector="button.sort")["nodeIds"]
        table = browser.call("DOM.querySelector", nodeId=tree, selector="table.across")["nodeId"]
        text = browser.call("DOM.getOuterHTML", nodeId=table)["outerHTML"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert len(hidden) == 2 and buttons == [] and "23.90" in text


@needs_chromium
def test_in_the_dark_and_on_paper(html: Path, browser: Page) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        opened(html, browser)
        swatch = "getComputedStyle(document.querySelector('.swatch.posterior')).backgroundColor"
        assert browser.evaluate(swatch) == "rgb(125, 180, 230)"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    try:
        assert browser.evaluate("getComputedStyle(document.querySelector('#points')).display") == "none"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


@needs_chromium
def test_latents_without_images_or_classes(browser: Page, tmp_path: Path) -> None:
    cloud = Cloud("q(z)", "posterior", "test latent", (0.0, 1.0), (0.0, 1.0), rows=(0, 1))
    content = Exploration(("principal axis 1", ""), (-4, -4), (4, 4), (cloud,))
    page = render_html(report(), {}, "seed: 0\n", None, page_data(content, None, None))
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    opened(tmp_path / "report.html", browser)
    browser.evaluate(f"{POINTS}.querySelector('.plot canvas').focus()")
    press(browser, "PageDown", "PageDown")
    assert browser.evaluate(TOLD) == "test latent 1, at 1, 1"
    assert browser.evaluate(f"{TIP}.querySelector('canvas').hidden && !{TIP}.hidden")
    assert browser.evaluate("document.querySelector('#traversals, .legend, input[value=class]')") is None
    assert not browser.events_of("Log.entryAdded", "Runtime.exceptionThrown")
