"""Reports as JSON and back: the same again, of whatever version, and one line for what is no report."""

import json
import math
from typing import Any

import pytest
from test_page import wide_report
from test_verdict import REPORT

from expost.evaluation.errors import EvaluationError
from expost.evaluation.report import FIGURES, Report, Row
from expost.evaluation.sections import Estimate, Provenance, Surgery

BARE: dict[str, Any] = {"data": "digits", "features": "64 features", "rows": {"standard_normal": {}}}


@pytest.mark.parametrize("report", [wide_report(), Report.from_json(REPORT), Report.from_json(BARE)])
def test_what_is_written_is_read_again(report: Report) -> None:
    assert Report.from_json(json.loads(report.text())) == report
    assert Report.from_json(json.loads(report.text())).text() == report.text()


def test_what_only_some_rows_have_is_left_out_and_every_figure_is_there() -> None:
    assert list(Row().to_json()) == [*FIGURES, "spread", "notes"]
    gain = {"rate_nats": Estimate(-1.0, None)}
    assert Row(gain=gain).to_json()["gain"] == {"rate_nats": {"value": -1.0, "standard_error": None}}
    assert Provenance(vae="abc").to_json() == {"vae": "abc"}
    assert "dataset" not in Report("d", "f").to_json()


def test_another_version_is_read_as_far_as_it_goes() -> None:
    newer = {
        **BARE,
        "mood": "good",
        "rows": {"mixture": {"beauty": 3.0, "rate_nats": 20.0, "spread": {"rate_nats": None}}},
    }
    row = Report.from_json(newer).rows["mixture"]
    assert (row.rate_nats, row.spread) == (20.0, {})
    older = Report.from_json({**BARE, "surgery": None, "classes": {"samples": {"value": 0.5}}})
    assert older.surgery == Surgery() and older.classes is None, "a section that lacks what it needs is not shown"
    assert older.sentences == ("",) and Report.from_json({**BARE, "verdict": "So."}).sentences == ("So.",)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ([], "report is of type list, not dict"),
        ({"features": "f"}, "report holds no data"),
        (
            {**BARE, "rows": {"mixture": {"rate_nats": "low"}}},
            "report.rows.mixture.rate_nats is of type str, not float",
        ),
        ({**BARE, "rows": {"mixture": {"num_samples": True}}}, "num_samples is of type bool, not int"),
        ({**BARE, "carries_unchanged": 1}, "carries_unchanged is of type int, not bool"),
        ({**BARE, "notes": {"a": 1}}, "report.notes is of type dict, not list"),
        ({**BARE, "seconds": {"bounds": "long"}}, "report.seconds.bounds is of type str, not float"),
        ({**BARE, "surgery": {"codes": {"books": [{"grid": [2]}]}}}, "grid holds 1 values, not 2"),
    ],
)
def test_what_is_of_another_type_is_named_in_one_line(stored: object, words: str) -> None:
    with pytest.raises(EvaluationError, match=words.replace(".", r"\.")) as caught:
        Report.from_json(stored)
    assert "\n" not in str(caught.value)


def test_what_json_cannot_hold_is_none() -> None:
    stored = Report("d", "f", true_nll_nats=math.nan, seconds={"bounds": math.inf}).text()
    assert json.loads(stored)["true_nll_nats"] is None and json.loads(stored)["seconds"] == {"bounds": None}
