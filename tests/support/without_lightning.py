"""What is lent to fits that have no loop of Lightning's: in closed form, by counting, by EM."""

from typing import Any

import torch

from stage2_prior.fitting import FitRun


def no_loop(*what: Any, **asked: Any) -> None:
    raise AssertionError("this fit has no loop of Lightning's")


RUN = FitRun(torch.device("cpu"), 0, lambda figures, step: None, no_loop)
