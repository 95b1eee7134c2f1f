"""How many components a mixture needs: numbers from few to many, as long as held-out latents gain by more."""

from collections.abc import Callable
from dataclasses import replace

import torch

from stage1_vae.latents import LatentDataset
from stage1_vae.rows import spread_rows
from stage2_prior.em.finite_mixture import FiniteMixture
from stage2_prior.em.shrinkage import FEWEST, gain, pays
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.in_turn import FitsInTurn

NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200)
"""That are tried, where there are twice as many latents."""
PATIENCE = 2
"""Numbers in a row that do not pay."""
HELD_OUT = 10_000
"""Latents that they are compared on, at most."""


def choose_number(
    make: Callable[[int], FiniteMixture], train: LatentDataset, val: LatentDataset, run: FitRun
) -> tuple[FiniteMixture, FitReport]:
    """The fitted mixture of the smallest number of components that no larger one betters beyond noise, and what its fit
    reported, with what was tried.

    `make`: an unfitted mixture of so many. Where too few latents are held out to tell, it is one component.
    """
    tried: list[tuple[int, FiniteMixture, FitReport, torch.Tensor]] = []
    best = unpaid = 0
    can_tell = val is not train and len(val) >= FEWEST
    numbers = [number for number in NUMBERS if can_tell and 2 * number <= train.num_images] or [1]
    states = FitsInTurn(run, len(numbers))
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(run.seed)
        z = val.draw(spread_rows(len(val), HELD_OUT)).to(run.device)
    for place, number in enumerate(numbers):
        mixture = make(number).to(run.device)
        if states.restore(place, mixture):
            report = states.reports[place]
        else:
            report = mixture.fit(train, val, states.fit_of(place))
            states.finish(place, mixture, report)
        nats = run.ranks.broadcast(mixture.log_prob(z).double())
        tried.append((number, mixture, report, nats))
        unpaid = 0 if place and pays(nats, tried[best][3]) else unpaid + bool(place)
        best = place if not unpaid else best
        if unpaid == PATIENCE:
            break
    number, mixture, report, nats = tried[best]
    return mixture, replace(report, notes=[words(tried, best), *report.notes])


def words(tried: list[tuple[int, FiniteMixture, FitReport, torch.Tensor]], best: int) -> str:
    """Which number was taken, and what the next ones would have bought."""
    taken = f"{tried[best][0]} component{'s' * (tried[best][0] > 1)}"
    if len(tried) == 1:
        return f"{taken}: too few latents to tell how many; prior.num_components sets it"
    beyond = [(number, *gain(nats, tried[best][3])) for number, _, _, nats in tried[best + 1 :]]
    more = [f"{number} would buy {amount:.2f} ± {error:.2f} nats a held-out latent" for number, amount, error in beyond]
    return f"{taken} of {', '.join(str(number) for number, *_ in tried)} tried" + "".join(f"; {one}" for one in more)
