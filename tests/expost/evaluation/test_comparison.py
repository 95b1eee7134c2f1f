"""Several reports in one table: what is averaged, what is marked and what is kept apart."""

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
from stored_reports import SPREAD, leads, lines, row, run

from expost.evaluation.comparison.compare import compare, needed_lead, student_quantile
from expost.evaluation.comparison.lines import Value
from expost.evaluation.comparison.sources import Source
from expost.evaluation.errors import EvaluationError


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
    assert value.noise == pytest.approx(math.sqrt(by_hand**2 / 3 + SPREAD["frechet_distance"] ** 2), abs=1e-12)
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
    alone = Value(3.0, 0.5, None, 3, {"x0": (3.0,), "x1": (3.0,), "x2": (3.0,)})
    assert (needed_lead(alone, rival) or 0) > 1.9, "unpaired, the VAE's seed is noise"


def test_seeds_of_priors_on_one_vae_are_noise() -> None:
    """Three fits each on one VAE; the means are 0.2 apart, the fits of a prior 0.5."""
    fits = {"mixture": [3.0, 3.5, 2.5], "flow": [3.2, 3.7, 2.7]}
    spread = {"frechet_distance": 0.01}
    runs = [
        run(f"{name}{fit}", name, row(found, spread=spread)) for name in fits for fit, found in enumerate(fits[name])
    ]
    found = lines(compare(runs))
    first, rival = (found[name].values["frechet_distance"] for name in fits)
    assert first.num == 3 and not first.leads
    by_hand = math.hypot(student_quantile(2) * 0.5 * math.sqrt(2 / 3), 2 * 0.01 * math.sqrt(2))
    assert needed_lead(first, rival) == pytest.approx(by_hand, abs=1e-12)
    bare = [run(f"m{fit}", "mixture", row(value, spread=None)) for fit, value in enumerate(fits["mixture"])]
    bare += [run(f"f{fit}", "flow", row(value, spread=None)) for fit, value in enumerate([10.0, 25.0, 4.0])]
    assert leads(compare(bare), "frechet_distance") == [], "the fits of the flow are further apart than its lead"
    assert leads(compare([*bare[:3], run("f", "flow", row(90.0))]), "frechet_distance") == ["mixture"]
    assert leads(compare([*bare[:3], run("f", "flow", row(90.0, spread=None))]), "frechet_distance") == []


def test_more_seeds_do_not_average_out_the_images_that_they_share() -> None:
    """Nine seeds that agree but for 0.001: the test images still leave 0.1 each."""
    runs = [run(f"m{s}", "mixture", row(3.0 + 0.001 * (s % 2)), s) for s in range(9)]
    value = lines(compare(runs))["mixture"].values["frechet_distance"]
    assert value.noise == pytest.approx(0.1, rel=1e-4)
    rivals = [run(f"f{s}", "flow", row(3.2), s) for s in range(9)]
    assert leads(compare([*runs, *rivals]), "frechet_distance") == []


def test_the_same_fit_measured_again_is_no_further_seed() -> None:
    dates = ("2026-01-02 10:00", "2026-01-03 10:00", "2026-01-01 10:00")
    runs = [
        run(f"m{i}", "mixture", row(3.0 + i), provenance={"prior": "fit", "date": date}) for i, date in enumerate(dates)
    ]
    line = lines(compare(runs))["mixture"]
    value = line.values["frechet_distance"]
    assert (line.num, value.num, value.mean, value.seed_std, line.runs) == (1, 1, 4.0, None, ("m1",))


def with_baseline(source: Source, **figures: Any) -> Source:
    rows = source.report.rows
    changed = replace(rows["standard_normal"], **figures)
    return replace(source, report=replace(source.report, rows={**rows, "standard_normal": changed}))


def test_rows_of_a_vae_take_each_figure_from_the_newest_run_that_has_it() -> None:
    """The first run bounded N(0, I) by annealing, the second did not; the second's other figures are newer."""
    first = run("a", "mixture", row(3.0), provenance={"date": "2026-01-01 10:00"})
    later = run("b", "flow", row(2.0), provenance={"date": "2026-01-02 10:00"})
    first = with_baseline(first, ais_nats=99.0, spread={"ais_nats": 0.3}, notes=("annealed",))
    later = with_baseline(later, frechet_distance=12.0)
    for order in ([first, later], [later, first]):
        line = lines(compare(order))["N(0, I)"]
        bound, distance = (line.values[key] for key in ("ais_nats", "frechet_distance"))
        assert (bound.mean, bound.spread, bound.num) == (99.0, 0.3, 1)
        assert (distance.mean, distance.spread) == (12.0, 0.1)
        assert set(line.runs) == {"a", "b"} and line.notes == ("annealed",)


def test_one_legend_says_what_the_signs_mean() -> None:
    found = compare([run(f"m{s}", "mixture", row(3.0 + s), s) for s in range(2)])
    legend = [found.conditions, *found.notes]
    assert sum("±" in words for words in legend) == 1 and sum("Bold" in words for words in legend) == 1


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


def test_a_seed_without_a_figure_is_told() -> None:
    runs = [run(f"m{s}", "mixture", row(3.0, None if s else 21.0), s) for s in range(3)]
    line = lines(compare(runs))["mixture"]
    assert line.values["rate_nats"].num == 1 and "rate, nats exists for 1 of 3 seeds only" in line.notes
