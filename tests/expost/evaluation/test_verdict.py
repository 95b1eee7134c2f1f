"""The verdict: each sentence follows from the figures, survives their absence, and calls noise noise."""

import copy
from typing import Any

import pytest

from expost.evaluation.report import Report
from expost.evaluation.verdict import conclude, verdict_lines


def estimate(value: float, error: float | None = 0.1) -> dict[str, Any]:
    return {"value": value, "standard_error": error}


def verdict(stored: dict[str, Any]) -> str:
    """Of a report as it is stored."""
    return " ".join(verdict_lines(Report.from_json(stored)))


def two_sample(accuracy: float) -> dict[str, Any]:
    found = {"accuracy_percent": accuracy, "standard_error_percent": 0.6, "num_held_out": 1000}
    return found | {"mmd_squared": 0.01, "mmd_standard_error": 0.001, "mmd_num_samples": 1000}


def under(cross: float, kl: float, rate: float) -> dict[str, Any]:
    return {
        "cross_entropy_nats": estimate(cross),
        "marginal_kl_nats": estimate(kl),
        "rate_nats": estimate(rate),
        "note": None,
    }


def row(distance: float, spread: float | None = 0.1, **more: Any) -> dict[str, Any]:
    stored = {"frechet_distance": distance, **more}
    return stored if spread is None else {**stored, "spread": {"frechet_distance": spread}}


REPORT: dict[str, Any] = {
    "data": "mnist",
    "features": "64 features",
    "baseline": "standard_normal",
    "rows": {
        "standard_normal": row(10.0, rate_nats=23.9),
        "mixture": row(2.0, rate_nats=20.0, gap_closed=8 / 9),
        "reconstructions": row(1.0),
        "aggregate_draws": row(1.1),
        "train_against_test": row(0.1),
    },
    "surgery": {
        "train": {
            "num_draws": 10_000,
            "num_components": 60_000,
            "mutual_information_nats": estimate(10.8),
            "ceiling_nats": 11.0,
            "at_ceiling": False,
            "priors": {"standard_normal": under(22.7, 13.2, 24.0), "mixture": under(18.0, 9.0, 19.8)},
        },
        "test": {
            "num_draws": 10_000,
            "num_components": 10_000,
            "mutual_information_nats": estimate(9.0),
            "ceiling_nats": 9.2,
            "at_ceiling": False,
            "priors": {
                "standard_normal": under(22.7, 14.0, 23.9),
                "mixture": under(19.0, 10.0, 20.0),
                "training_aggregate": under(33.0, 24.0, 35.5),
            },
        },
        "dimensions": {"num_dims": 16, "num_active": 16, "num_collapsed": 0},
        "two_sample": {
            "standard_normal": two_sample(88.0),
            "mixture": two_sample(60.0),
        },
    },
}


def changed(*keys: str, to: Any) -> dict[str, Any]:
    report = copy.deepcopy(REPORT)
    inner = report
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return report


def test_a_rate_inside_the_noise_is_neither_lower_nor_higher() -> None:
    noisy = {"frechet_distance": 0.1, "rate_nats": 0.3}
    report = changed("rows", "mixture", to=row(2.0, rate_nats=23.95) | {"spread": noisy})
    report["rows"]["standard_normal"]["spread"] = noisy
    assert "leaves the rate as it is: 23.90 to 23.95 nats is a difference inside the noise" in verdict(report)


def test_memory_is_concluded_from_a_difference_beyond_the_noise_only() -> None:
    near = changed("surgery", "test", "priors", "training_aggregate", "rate_nats", to=estimate(20.1))
    assert "(20.00 under mixture), a difference inside the noise" in verdict(near)


def test_every_question_is_answered_in_order() -> None:
    lines = verdict_lines(Report.from_json(REPORT))
    assert lines[0].startswith("Against N(0, I), the prior mixture lowers the rate by 3.90 nats")
    assert "closes 88.9% of the gap" in lines[0]
    assert lines[1].startswith("N(0, I) does not match q(z)") and "88.0 ± 0.6 %" in lines[1] and "13.20" in lines[1]
    assert lines[2].startswith("The prior mixture does not match q(z)")
    text = verdict(REPORT)
    assert "10.80 ± 0.10 nats" in text and "log N = 11.00" in text and "lower bound" not in text
    assert "fitted 1.00 nats of the training images that unseen ones lack" in text
    assert "35.50 ± 0.10 nats" in text and "memory of them" in text
    assert text == " ".join(lines)


def test_a_classifier_tells_beyond_two_errors_only() -> None:
    close = changed("surgery", "two_sample", "mixture", "accuracy_percent", to=51.1)
    assert "A classifier cannot tell samples of the prior mixture from held-out q(z) (51.1" in verdict(close)
    assert "matches" not in verdict(close), "a classifier that sees nothing proves nothing"
    apart = changed("surgery", "two_sample", "mixture", "accuracy_percent", to=51.3)
    assert "The prior mixture does not match q(z)" in verdict(apart)


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        (1.2, "as near to test images as decoded draws of q(z), so what is left is the decoder's"),
        (0.5, "nearer to test images than decoded draws"),
        (5.0, "mostly the prior's fault: 80% of the distance is the prior's"),
        (1.5, "mostly the decoder's: 29% of the distance is the prior's, 71% the decoder's"),
        (2.1, "in images shared"),
    ],
)
def test_fault_follows_the_distances(distance: float, words: str) -> None:
    assert words in verdict(changed("rows", "mixture", to=row(distance, 0.1, rate_nats=20.0)))


def test_reconstructions_stand_in_for_aggregate_draws() -> None:
    report = changed("rows", "aggregate_draws", to=None)
    assert "reconstructions 1.000" in verdict(report)


def test_noise_is_called_noise() -> None:
    noisy = verdict(changed("rows", "mixture", to=row(9.9, 0.1, rate_nats=20.0, gap_closed=0.01)))
    assert "difference inside the noise" in noisy and "closes" not in noisy
    same = changed("surgery", "test", "priors", "mixture", "cross_entropy_nats", to=estimate(18.2))
    assert "serves unseen images as well as seen ones" in verdict(same)


def test_ceiling_and_collapse_are_told() -> None:
    assert "lower bound" in verdict(changed("surgery", "train", "at_ceiling", to=True))
    dead = {"num_dims": 16, "num_active": 5, "num_collapsed": 10}
    said = verdict(changed("surgery", "dimensions", to=dead))
    assert "5 of 16 latent dimensions are active" in said and "10 have collapsed to the prior" in said
    none = {"num_dims": 16, "num_active": 0, "num_collapsed": 16}
    assert "None of the 16 latent dimensions is active" in verdict(changed("surgery", "dimensions", to=none))


def paths(value: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [before]
    return [before, *(path for key, inner in value.items() for path in paths(inner, (*before, key)))]


@pytest.mark.parametrize("path", [path for path in paths(REPORT) if path and path not in (("data",), ("features",))])
def test_anything_may_be_missing(path: tuple[str, ...]) -> None:
    text = verdict(changed(*path, to=None))
    assert text and "None " not in text.replace("None of", "") and "nan" not in text


def test_bare_reports() -> None:
    assert "Only the baseline" in verdict({"data": "d", "features": "f", "rows": {}})
    rows: dict[str, Any] = {"standard_normal": {}, "x": {}}
    assert "no figure that compares" in verdict({"data": "d", "features": "f", "rows": rows})
    unjudged = changed("surgery", "train", "priors", "mixture", "marginal_kl_nats", to=estimate(9.0, None))
    unjudged["surgery"]["two_sample"] = None
    assert "How far q(z) is from the prior mixture: KL(q(z) || p(z)) on training images is 9.00 nats." in verdict(
        unjudged
    )


def test_a_code_that_is_all_but_empty_is_called_that_however_many_dimensions_are_active() -> None:
    stored = changed("surgery", "train", "mutual_information_nats", to={"value": 0.3, "standard_error": 0.02})
    stored["if_empty"] = "lower vae.objective.beta=50"
    report = conclude(Report.from_json(stored))
    line = report.verdict_lines[0]
    assert line.startswith(
        "The code has all but collapsed (0.30 nats, though 16 of 16 latent dimensions count as active)"
    )
    assert line.endswith(": lower vae.objective.beta=50.") and report.if_empty
    stored["surgery"]["dimensions"] = {"num_dims": 16, "num_active": 0, "num_collapsed": 16}
    lines = conclude(Report.from_json(stored)).verdict_lines
    assert "none of its 16 dimensions is active" in lines[0] and "None of the 16" not in " ".join(lines)


@pytest.mark.parametrize(("value", "error", "ceiling"), [(0.8, 0.01, 11.0), (0.5, 0.2, 11.0), (0.3, 0.02, 2.0)])
def test_a_code_that_may_carry_a_bit_is_not_called_empty(value: float, error: float, ceiling: float) -> None:
    """More than a bit, perhaps more, or so few images that there is little to tell apart."""
    stored = changed("surgery", "train", "mutual_information_nats", to={"value": value, "standard_error": error})
    stored["surgery"]["train"]["ceiling_nats"] = ceiling
    report = conclude(Report.from_json(stored | {"if_empty": "lower vae.objective.beta=50"}))
    assert "all but collapsed" not in report.verdict and not report.if_empty
