"""Expost: two-stage generative models whose prior is learned after the fact.

What other programs use of it; each is imported when it is first asked for, so that `import expost` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expost.direct import fit_prior, judge
    from expost.export.learned_prior import LearnedPrior
    from expost.export.two_stage import TwoStage
    from stage1_vae.latents import LatentDataset, LatentSpec
    from stage2_prior.fitting import FitReport, FitRun
    from stage2_prior.prior import GradientPrior, Prior

__all__ = [
    "FitReport",
    "FitRun",
    "GradientPrior",
    "LatentDataset",
    "LatentSpec",
    "LearnedPrior",
    "Prior",
    "TwoStage",
    "fit_prior",
    "judge",
]

_PLACES = {
    "TwoStage": "expost.export.two_stage",
    "LearnedPrior": "expost.export.learned_prior",
    "fit_prior": "expost.direct",
    "judge": "expost.direct",
    "Prior": "stage2_prior.prior",
    "GradientPrior": "stage2_prior.prior",
    "FitRun": "stage2_prior.fitting",
    "FitReport": "stage2_prior.fitting",
    "LatentDataset": "stage1_vae.latents",
    "LatentSpec": "stage1_vae.latents",
}


def __getattr__(name: str) -> object:
    """The public `name`, from the file that holds it (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'expost' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
