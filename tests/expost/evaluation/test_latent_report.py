"""Reports about latents that came without images speak of latents, and reports about images stay as they are."""

import json
from dataclasses import replace
from typing import Any

import pytest

from expost.evaluation.comparison.sources import MUST_AGREE, comparable, read, refuse_different
from expost.evaluation.errors import EvaluationError
from expost.evaluation.page import render_html
from expost.evaluation.report import Report, Row
from expost.evaluation.row_names import MOMENT_MATCHED, TRAIN_AGAINST_TEST
from expost.evaluation.sections import Classes, Estimate, Fitting, Share
from expost.evaluation.verdict import conclude
from expost.evaluation.views import legend


def row(distance: float, nats: float | None = None, **more: Any) -> Row:
    spread = {"frechet_distance": 0.05} | ({} if nats is None else {"latent_nll_nats": 0.1})
    return Row(frechet_distance=distance, latent_nll_nats=nats, num_samples=1000, spread=spread, **more)


def latent_report(learned_nats: float = 15.0, paired: float = -2.0) -> Report:
    gain = {"latent_nll_nats": Estimate(learned_nats - 25.0, 0.05)}
    over = {MOMENT_MATCHED: {"latent_nll_nats": Estimate(paired, 0.05)}}
    rows = {
        "standard_normal": row(10.0, 25.0),
        MOMENT_MATCHED: row(3.0, learned_nats - paired),
        "mixture": row(1.0, learned_nats, gain=gain, over=over),
        "aggregate_draws": row(0.5),
        TRAIN_AGAINST_TEST: row(0.4),
    }
    return Report(
        "cells",
        "latents in units of their training standard deviations, 16 dimensions",
        rows=rows,
        reference="1,000 test latents",
        counted=(MOMENT_MATCHED,),
        fitting={"mixture": Fitting("iterations", "give it more components", 16)},
        judged="latents",
        missing=("standard deviations: no rate, no surgery",),
    )


def test_a_verdict_on_latents_says_that_images_were_not_looked_at_and_what_is_missing() -> None:
    report = conclude(latent_report())
    assert report.row("mixture").gap_closed == pytest.approx(9 / 9.6)  # the end of the gap is training latents
    assert report.sentences[0] == (
        "Against N(0, I), the prior mixture lowers the cost -log p(z) of a held-out latent by 10.00 ± 0.05 nats a "
        "latent (25.00 to 15.00) and closes 93.8% of the gap between N(0, I) samples and training latents "
        "(Frechet distance 10.000 to 1.000; training latents reach 0.400)."
    )
    assert "A shift and a scale alone would not do: the prior mixture costs 2.00 ± 0.05 nats fewer" in report.verdict
    assert "Images were not looked at" in report.verdict
    assert "The files do not hold standard deviations: no rate, no surgery." in report.verdict
    assert "its samples are further from test latents than draws of q(z) of training latents" in report.verdict
    rest = report.verdict.replace("Images were not looked at", "")
    assert "image" not in rest and "decoded" not in rest and "reconstruction" not in rest


@pytest.mark.parametrize(
    ("paired", "said"),
    [(0.05, "A shift and a scale alone would do:"), (2.0, "alone would do better: the prior mixture costs 2.00")],
)
def test_a_prior_that_a_shift_and_a_scale_reach_is_told_so(paired: float, said: str) -> None:
    verdict = conclude(latent_report(paired=paired)).verdict
    assert said in verdict and ("give it more components" in verdict) == (paired > 1)


def test_what_is_said_of_latents_comes_back_from_the_file_and_reports_of_images_do_not_say_it() -> None:
    report = conclude(latent_report())
    assert Report.from_json(json.loads(report.text())) == report
    images = replace(report, judged="images", missing=())
    assert "judged" not in images.to_json() and "missing" not in images.to_json()
    assert Report.from_json(images.to_json()).nouns.many == "images"


def test_the_page_of_latents_speaks_of_latents() -> None:
    share = Share(0.8, 0.01, 1000)
    classes = Classes(100, 0.1, "a small classifier", share, None, share, ())
    report = conclude(replace(latent_report(), classes=classes))
    page = render_html(report, {}, "stage: all", {"shape": "16"})
    body = page[page.index("<header>") :].replace("Images were not looked at", "")
    assert "<h2>Latents</h2>" in body and "test latents" in body and "moment matched" in body
    assert "image" not in body and "ELBO" not in body and "reconstructions" not in body
    assert "of nats over the test latents" in legend(report)


def test_latents_and_images_are_never_compared() -> None:
    sources = []
    for judged in ("images", "latents"):
        stored = replace(latent_report(), judged=judged).to_json() | {"provenance": {"vae": "v", "data": "d"}}
        sources.append(read(judged, json.dumps(stored)))
    assert [name for name, of in MUST_AGREE.items() if len({of(source) for source in sources}) > 1] == ["kinds"]
    assert not comparable(*sources)
    with pytest.raises(EvaluationError, match="latents were judged"):
        refuse_different(sources)
