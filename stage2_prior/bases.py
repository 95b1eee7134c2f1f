"""A prior that another one stands on: it is fitted first, by itself, and then stays as it is."""

from dataclasses import replace

from stage1_vae.latents import LatentDataset
from stage1_vae.ranks import ALONE
from stage2_prior.fitting import FitReport, FitRun, FitStates, PriorError
from stage2_prior.prior import Exactness, GradientPrior, Prior


def check_base(base: Prior) -> None:
    """
    Raises:
        PriorError: nothing can stand on it.
    """
    learned = [part for part in base.modules() if isinstance(part, GradientPrior)]
    if learned or base.log_prob_is is not Exactness.EXACT:
        raise PriorError(
            f"prior.base={type([*learned, base][0]).__name__}: a base is an exact density that is not itself fitted by "
            "gradient; give mixture"
        )


def take_after(prior: Prior, base: Prior) -> None:
    """Let `prior`, which stands on `base`, be and need what that is and needs."""
    prior.min_images, prior.min_images_a_class = base.min_images, base.min_images_a_class
    prior.memorises, prior.needs_widths = base.memorises, base.needs_widths
    prior.passes += base.passes - 1  # of an ordinary density there is none to count


def fit_base(base: Prior, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
    """Fit it as it fits itself; it logs nothing and keeps no states, for those belong to what stands on it.

    Raises:
        PriorError: as it does itself.
    """
    ranks = run.ranks if base.fits_in_ranks else ALONE
    alone = replace(run, settings={}, ranks=ranks, states=FitStates(), log=lambda figures, step: None)
    return base.fit(train, val, alone)
