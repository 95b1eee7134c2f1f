"""What a prior says of its own densities, in the rows of a report, and who is called best."""

import math
from typing import Any

from expost.evaluation.report import Report, Row
from expost.evaluation.sections import Estimate
from expost.evaluation.verdict import conclude
from expost.evaluation.views import winners
from expost.measure.rows import MEMORISES, add_caveats
from stage1_vae.latents import LatentSpec
from stage2_prior.priors.standard_normal import StandardNormal


class Estimated(StandardNormal):
    """Densities whose normaliser is known to 0.3 nats."""

    @property
    def log_prob_error_nats(self) -> float:
        return 0.3

    @property
    def caveats(self) -> list[str]:
        return ["log p(z) is an estimate."]


def rows(**changes: Any) -> dict[str, Row]:
    spread = {"rate_nats": 0.4, "frechet_distance": 0.1}
    gain = {"rate_nats": Estimate(-4.0, 0.4)}
    learned = Row(rate_nats=20.0, frechet_distance=2.0, spread=spread, gain=gain, notes=("measured.",), **changes)
    return {"standard_normal": Row(rate_nats=24.0, frechet_distance=9.0, spread=spread), "estimated": learned}


def test_the_error_of_a_normaliser_widens_those_of_nats_alone() -> None:
    filled = rows()
    add_caveats(filled, "estimated", Estimated(LatentSpec((2,))))
    row = filled["estimated"]
    assert math.isclose(row.spread["rate_nats"], 0.5) and row.spread["frechet_distance"] == 0.1
    assert row.gain is not None and math.isclose(row.gain["rate_nats"].standard_error or 0, 0.5)
    assert row.notes == ("log p(z) is an estimate.", "measured.") and not row.memorises
    assert filled["standard_normal"] == rows()["standard_normal"]


def test_who_stands_on_training_latents_is_never_best() -> None:
    report = conclude(Report(data="some", features="of a net", baseline="standard_normal", rows=rows()))
    assert winners(report)["frechet_distance"] == "estimated"
    filled = rows()
    copies = StandardNormal(LatentSpec((2,)))
    copies.memorises = True
    add_caveats(filled, "estimated", copies)
    report = conclude(Report(data="some", features="of a net", baseline="standard_normal", rows=filled))
    assert "frechet_distance" not in winners(report) and MEMORISES in report.row("estimated").notes
    assert "and is no prior to choose" in report.verdict
    assert Report.from_json(report.to_json()).row("estimated").memorises
