"""Names of the rows of a report that are the same in every report; learned priors bear their config names."""

from collections.abc import Mapping
from typing import Any

BASELINES = {"standard_normal": "N(0, I)", "uniform": "uniform"}
"""Priors that nobody learns, by the name of their row, as people call them; each report has one."""
AGGREGATE = "aggregate_draws"
RECONSTRUCTIONS = "reconstructions"
TRAIN_AGAINST_TEST = "train_against_test"
FLOORS = (AGGREGATE, RECONSTRUCTIONS, TRAIN_AGAINST_TEST)
"""Rows that no prior can beat, nearest first: draws from the training aggregate posterior, which every prior that is
fitted afterwards tries to become, and which copies; reconstructions, the best of this decoder; the data themselves."""
TRAINING_AGGREGATE = "training_aggregate"
"""In the surgery: the aggregate posterior of the training images, taken as a prior for test images."""


def learned_rows(report: Mapping[str, Any]) -> list[str]:
    """Rows of the priors that the run is about: neither the baseline nor the `FLOORS` nor what `counted` names, priors
    by counting, which discrete latents are measured with besides.
    """
    others = {report.get("baseline") or "standard_normal", *FLOORS, *(report.get("counted") or ())}
    return [name for name in report.get("rows") or {} if name not in others]
