"""Which reports may stand in one table, and what a damaged, foreign or older one gets."""

import json
from typing import Any

import pytest
from stored_reports import row, run

from expost.evaluation.comparison.compare import compare
from expost.evaluation.comparison.sources import Source, beside, comparable, read
from expost.evaluation.errors import EvaluationError


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"provenance": {"data": "beef"}, "data": "digits"}, "different data .*mnist.*: a; digits.*: b"),
        ({"features": "2048 Inception features"}, "different feature nets"),
        ({"num_samples": 500}, r"different numbers of samples .*\(1000: a; 500: b\)"),
        ({"reference": "train"}, "different reference splits"),
        ({"importance_samples": 5000}, "different importance samples"),
        ({"neighbours": 3}, r"different neighbours .*\(not told: a; 3: b\)"),
        ({"provenance": {"features": "0123456789"}}, r"different feature nets .*64 features \(01234567\): b"),
    ],
)
def test_what_cannot_stand_in_one_table_is_refused(change: dict[str, Any], words: str) -> None:
    one, other = run("a", "mixture", row(3.0)), run("b", "flow", row(2.0), **change)
    with pytest.raises(EvaluationError, match=words) as caught:
        compare([one, other])
    assert "compare.runs=[a]" in str(caught.value) and "\n" not in str(caught.value)
    assert not comparable(one, other) and comparable(one, one)


def annealed(name: str, chains: int | None, bdmc_images: int = 40, bound: float | None = 90.0) -> Source:
    settings = None if chains is None else {"num_chains": chains, "num_steps": 200, "bdmc_images": bdmc_images}
    return run(name, name, row(3.0, ais_nats=bound), annealing_settings=settings)


def test_annealing_must_agree_where_both_runs_have_its_bounds() -> None:
    few, many, off = annealed("few", 8), annealed("many", 16), annealed("off", None, bound=None)
    with pytest.raises(EvaluationError, match=r"annealing settings .*num_chains=8, num_steps=200: few; .*=16"):
        compare([few, many])
    assert not comparable(few, many) and comparable(few, off) and comparable(off, many)
    assert comparable(few, annealed("checked", 8, bdmc_images=0)), "simulated images only check the bound"
    assert comparable(annealed("failed", 32, bound=None), few), "it has no bound to compare"
    assert [source.name for source in beside(off, [few, many, off])] == ["many", "off"], "by age, then by name"
    compare(beside(off, [few, many, off]))


GOOD = run("a", "mixture", row(3.0)).report.to_json()


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
        (json.dumps({**GOOD, "annealing_settings": "many"}), "annealing_settings"),
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
