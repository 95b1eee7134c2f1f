"""Several reports in one table: what is averaged, what is marked, what is kept apart and what is refused."""

import csv
import io
import json
import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from evaluation import comparison_views as views
from evaluation.comparison import Comparison, compare, needed_lead, student_quantile
from evaluation.comparison_figure import draw
from evaluation.comparison_lines import Line, Value
from evaluation.comparison_source import Source, comparable, read
from evaluation.errors import EvaluationError

SPREAD = {"frechet_distance": 0.1, "rate_nats": 0.02, "coverage": 0.01, "iwae_nats": 0.2}


def row(frechet: float, rate: float | None = None, iwae: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "frechet_distance": frechet,
        "rate_nats": rate,
        "iwae_nats": iwae,
        "coverage": 0.5,
        "num_samples": 1000,
        "spread": SPREAD,
        "notes": [],
        **more,
    }


def run(name: str, prior: str, learned: dict[str, Any], seed: int = 0, vae: str = "v", **more: Any) -> Source:
    """One run: a learned prior beside the rows of its VAE, whose figures move with the seed."""
    rows = {
        "standard_normal": row(10.0 + seed, 24.0 + seed, 100.0 + seed),
        prior: {**learned, "fit_seconds": 1.5, "num_parameters": 120},
        "reconstructions": row(1.0 + seed),
        "train_against_test": row(0.1),
    }
    provenance = {
        "vae": f"{vae}{seed}",
        "data": "f00d",
        "evaluation": name,
        "prior": f"key of {name}",
        "vae_recipe": vae,
        "prior_recipe": f"{vae} {prior}",
        "stage1": f"net {vae}",
        "stage2": prior,
        "likelihood": "Bernoulli on binary pixels",
    }
    provenance.update(more.pop("provenance", {}))
    top = {"data": "mnist", "features": "64 features", "reference": "test", "num_samples": 1000, **more}
    return Source(name, {"baseline": "standard_normal", "rows": rows, "provenance": provenance, **top})


def lines(comparison: Comparison) -> dict[str, Line]:
    return {line.label: line for line in comparison.lines}


def leads(comparison: Comparison, key: str) -> list[str]:
    return [line.label for line in comparison.lines if key in line.values and line.values[key].leads]


def test_priors_are_sorted_and_rows_of_the_vae_appear_once() -> None:
    found = compare([run("a", "mixture", row(3.0, 21.0)), run("b", "flow", row(2.0, 20.0))])
    names = [line.label for line in found.lines]
    assert names == ["flow", "mixture", "N(0, I)", "train vs test", "reconstructions"]
    assert found.sort == "frechet_distance" and len(found.blocks) == 1
    by_coverage = compare([run("a", "mixture", row(3.0, coverage=0.9)), run("b", "flow", row(2.0))], sort="coverage")
    assert by_coverage.lines[0].label == "mixture"
    with pytest.raises(EvaluationError, match=r"sort=beauty.*frechet_distance"):
        compare([run("a", "mixture", row(3.0))], sort="beauty")
    with pytest.raises(EvaluationError, match="no run"):
        compare([])


def test_seeds_become_one_line_with_their_mean_and_deviation() -> None:
    frechet = [3.0, 3.5, 4.6]
    runs = [run(f"m{seed}", "mixture", row(value), seed) for seed, value in enumerate(frechet)]
    found = lines(compare([*runs, run("f", "flow", row(1.0))]))
    value = found["mixture"].values["frechet_distance"]
    assert found["mixture"].num == 3 and found["mixture"].runs == ("m0", "m1", "m2")
    assert value.mean == pytest.approx(sum(frechet) / 3, abs=1e-12)
    by_hand = math.sqrt(sum((x - sum(frechet) / 3) ** 2 for x in frechet) / 2)
    assert value.seed_std == pytest.approx(by_hand, abs=1e-12)
    assert value.noise == pytest.approx(by_hand / math.sqrt(3), abs=1e-12)
    baseline = found["N(0, I)"]  # of the VAEs of three seeds; the flow's is one of them
    assert baseline.num == 3 and baseline.values["rate_nats"].mean == pytest.approx(25.0)
    assert found["train vs test"].num == 1 and found["flow"].num == 1
    assert found["flow"].values["frechet_distance"].seed_std is None


def test_the_same_run_twice_counts_once_and_another_setting_is_another_line() -> None:
    twice = lines(compare([run("a", "mixture", row(3.0)), run("a", "mixture", row(3.0))]))
    assert twice["mixture"].num == 1
    larger = {"prior_recipe": "v mixture 100", "stage2": "mixture num_components=100"}
    found = lines(compare([run("a", "mixture", row(3.0)), run("b", "mixture", row(2.0), provenance=larger)]))
    assert {"mixture", "mixture num_components=100"} <= found.keys()
    unnamed = {"prior_recipe": "v other"}
    found = lines(compare([run("a", "mixture", row(3.0)), run("b", "mixture", row(2.0), provenance=unnamed)]))
    assert len([label for label in found if label.startswith("mixture #")]) == 2, "two lines of one name"


@pytest.mark.parametrize(("distance", "bold"), [(2.72, []), (2.70, ["mixture"])])
def test_a_lead_is_marked_beyond_two_standard_errors_of_the_difference(distance: float, bold: list[str]) -> None:
    """Two runs with a spread of 0.1 each: sqrt(2) 0.1 is the error of the difference, so 0.283 is needed."""
    found = compare([run("a", "mixture", row(distance)), run("b", "flow", row(3.0))])
    assert leads(found, "frechet_distance") == bold


def test_the_only_learned_prior_must_lead_the_baseline() -> None:
    assert leads(compare([run("a", "mixture", row(9.7))]), "frechet_distance") == ["mixture"]
    assert leads(compare([run("a", "mixture", row(9.9))]), "frechet_distance") == []
    assert leads(compare([run("a", "mixture", row(11.0))]), "frechet_distance") == [], "worse than N(0, I)"


def test_without_a_spread_nothing_is_marked() -> None:
    found = compare([run("a", "mixture", row(1.0, spread=None)), run("b", "flow", row(9.0, spread=None))])
    assert not leads(found, "frechet_distance")
    shared = compare([run("a", "mixture", row(1.0)), run("b", "flow", row(9.0, spread={}))])
    assert not leads(shared, "frechet_distance")
    half = [run("m0", "mixture", row(1.0)), run("m1", "mixture", row(1.1, spread=None), 1)]
    assert lines(compare(half))["mixture"].values["frechet_distance"].spread is None, "one run stands for both"


def test_seeds_are_paired_by_their_vae() -> None:
    """The VAE's seed moves both priors by up to 4; their difference is 1 +- 0.05."""
    pairs = [(3.0, 4.0), (5.0, 6.05), (7.0, 7.95)]
    runs = [run(f"a{s}", "mixture", row(a, spread=None), s) for s, (a, _) in enumerate(pairs)]
    runs += [run(f"b{s}", "flow", row(b, spread=None), s) for s, (_, b) in enumerate(pairs)]
    found = compare(runs)
    assert leads(found, "frechet_distance") == ["mixture"]
    first, rival = (lines(found)[name].values["frechet_distance"] for name in ("mixture", "flow"))
    std = statistics.stdev([1.0, 1.05, 0.95])
    assert needed_lead(first, rival) == pytest.approx(student_quantile(2) * std / math.sqrt(3))
    assert student_quantile(10**6) == pytest.approx(2.0, abs=1e-4)
    alone = Value(3.0, 0.5, None, 3, {"x0": 3.0, "x1": 3.0, "x2": 3.0})
    assert (needed_lead(alone, rival) or 0) > 1.9, "unpaired, the VAE's seed is noise"


def test_lines_of_unequal_seeds_are_compared_on_the_vaes_that_they_share() -> None:
    """On the first VAE the mixture is behind; the flow was measured on a worse one too."""
    runs = [run("m0", "mixture", row(3.0)), run("f0", "flow", row(2.0)), run("f1", "flow", row(9.0), 1)]
    found = compare(runs)
    assert found.lines[0].label == "mixture" and leads(found, "frechet_distance") == []
    behind = [run("m0", "mixture", row(1.0)), *runs[1:]]
    assert leads(compare(behind), "frechet_distance") == ["mixture"]


def test_figures_of_the_latent_space_are_compared_on_one_vae_only() -> None:
    runs = [
        run("a", "mixture", row(3.0, 21.0)),
        run("b", "flow", row(2.0, 20.0)),
        run("c", "mixture", row(4.0, 5.0), vae="w"),
    ]
    found = compare(runs)
    marked = [(line.label, line.vae_label) for line in found.lines if (v := line.values.get("rate_nats")) and v.leads]
    assert marked == [("flow", "net v"), ("mixture", "net w")]
    assert found.names_vaes and any("one VAE only" in note for note in found.notes)
    assert sum(line.row == "standard_normal" for line in found.lines) == 2
    assert sum(line.row == "train_against_test" for line in found.lines) == 1
    by_rate = compare(runs, sort="rate_nats")
    assert [len(block) for block in by_rate.blocks.values()] == [3, 4] and len(by_rate.blocks) == 2


def test_bounds_of_other_likelihoods_stand_in_a_block_of_their_own() -> None:
    grey = {"likelihood": "DiscretizedLogistic on intensities"}
    found = compare(
        [
            run("a", "mixture", row(3.0, 21.0, 90.0)),
            run("b", "flow", row(2.0, 20.0, 80.0)),
            run("c", "mixture", row(4.0, 5.0, 700.0), vae="w", provenance=grey),
        ]
    )
    assert set(found.blocks) == {"Bernoulli on binary pixels", "DiscretizedLogistic on intensities"}
    marked = [(line.label, line.vae) for line in found.lines if (v := line.values.get("iwae_nats")) and v.leads]
    assert marked == [("flow", "v")], "700 nats lead nothing: 4 against 100 of another baseline"
    assert leads(found, "frechet_distance") == ["flow"], "distances compare across blocks"
    assert any("comparable within a block only" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"provenance": {"data": "beef"}, "data": "digits"}, "different data .*mnist.*: a; digits.*: b"),
        ({"features": "2048 Inception features"}, "different feature nets"),
        ({"num_samples": 500}, r"different numbers of samples .*\(1000: a; 500: b\)"),
        ({"reference": "train"}, "different reference splits"),
        ({"importance_samples": 5000}, "different importance samples"),
    ],
)
def test_what_cannot_stand_in_one_table_is_refused(change: dict[str, Any], words: str) -> None:
    one, other = run("a", "mixture", row(3.0)), run("b", "flow", row(2.0), **change)
    with pytest.raises(EvaluationError, match=words) as caught:
        compare([one, other])
    assert "compare.runs=[a]" in str(caught.value) and "\n" not in str(caught.value)
    assert not comparable(one, other) and comparable(one, one)


GOOD = run("a", "mixture", row(3.0)).report


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged"),
        (json.dumps(GOOD)[:-40], "damaged"),
        (json.dumps(GOOD).replace("3.0", "NaN"), "NaN is no JSON number"),
        ("[]", "not a report"),
        ('{"name": "expost", "version": 1}', "not a report"),
        (json.dumps({**GOOD, "provenance": {}}), "no provenance.vae"),
        (json.dumps({**GOOD, "rows": {}}), "no rows"),
        (json.dumps({**GOOD, "rows": {"mixture": 3}}), "row mixture"),
        (json.dumps({**GOOD, "rows": {"mixture": {"frechet_distance": "low"}}}), "frechet_distance='low'"),
        (json.dumps({**GOOD, "rows": {"mixture": {"frechet_distance": 1e999}}}).replace("Infinity", "1e999"), "=inf"),
        (json.dumps({**GOOD, "rows": {"mixture": {"spread": {"rate_nats": True}}}}), "rate_nats"),
    ],
)
def test_a_damaged_or_foreign_report_is_named(text: str, words: str) -> None:
    with pytest.raises(EvaluationError, match=f"that_run: .*{words}"):
        read("that_run", text)


def test_an_old_report_without_recipes_is_read() -> None:
    old = {"vae": "abcdef0123", "data": "f00d", "prior": "p", "evaluation": "e"}
    source = read("old", json.dumps({**GOOD, "provenance": old}))
    (line,) = (line for line in compare([source]).lines if line.is_learned)
    assert (line.label, line.vae_label, line.num) == ("mixture", "VAE abcdef", 1)


def test_a_seed_without_a_figure_is_told() -> None:
    runs = [run(f"m{s}", "mixture", row(3.0, None if s else 21.0), s) for s in range(3)]
    line = lines(compare(runs))["mixture"]
    assert line.values["rate_nats"].num == 1 and "rate, nats exists for 1 of 3 seeds only" in line.notes


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
