"""What is expected of latents that come from elsewhere: of copying them, and of judging a prior without images."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from expost.config.schema import Evaluation
from expost.evaluation.images import memorisation
from expost.forecast.notice import DRAWN_AT_ONCE, Expectation, draw_latents, expected_seconds, lower
from expost.measure.latent_evaluation import MOST_DRAWS
from expost.measure.latent_sets import num_searched
from expost.measure.latents import MAX_DRAWS, MAX_KNOWN
from stage1_vae.latents import LatentDataset, Support
from stage2_prior.held_out import affordable
from stage2_prior.prior import Exactness, Prior

AT_ONCE_NUMBERS, SETS = 2**22, 6
"""Numbers of latents that are read or compared at once; and sets of samples: reference, baseline, floors, learned."""
TRIED = 64
"""Draws whose density under some posteriors is timed."""


def copy_parts(splits: Sequence[LatentDataset]) -> list[Expectation]:
    """Reading all rows once, and writing them, which takes no longer."""
    latents = max(splits, key=len)

    def read(num: int) -> None:
        for values in latents.params.values():
            values[slice(0, num)]

    at_once = min(len(latents), max(1, AT_ONCE_NUMBERS // latents.spec.num_dims))
    seconds = 2 * expected_seconds(read, at_once, sum(map(len, splits)))
    return [Expectation(seconds, "save them in fewer and larger files")]


@torch.no_grad()
def latent_evaluation_parts(
    settings: Evaluation, prior: Prior, train: LatentDataset, test: LatentDataset, device: torch.device
) -> list[Expectation]:
    """Drawing, what draws and held-out latents cost, and what looks at all training latents.

    Args:
        settings: how much is measured.
        prior: fitted, on `device`.
        train, test: latents.
        device: where it computes.
    """
    num = min(settings.num_samples, len(train), len(test))
    drawn = num * (3 if prior.num_classes else 2) + (0 if train.is_certain else 3 * min(num, MAX_KNOWN))
    sampling = expected_seconds(prior.sample, DRAWN_AT_ONCE, drawn)
    surgery = affordable(min(MAX_DRAWS, num), prior)
    bounded = min(settings.num_bound_images, len(test))
    rated = bounded * (1 if train.is_certain else min(MOST_DRAWS, settings.importance_samples))
    density = 0.0
    if prior.log_prob_is is not Exactness.NONE:
        an_image = expected_seconds(
            lambda num: prior.log_prob(draw_latents(train, num, device)), DRAWN_AT_ONCE, rated + 2 * surgery
        ) / (rated + 2 * surgery)
        density = an_image * rated
        sampling += an_image * 2 * surgery
    searched = search_seconds(train, num_searched(train.spec, num, len(train)), device)
    aggregates = aggregate_seconds(train, surgery, 2 * len(train) + len(test), device)
    return [
        Expectation(sampling + searched + aggregates, lower("evaluation.num_samples", settings.num_samples)),
        Expectation(density, lower("evaluation.num_bound_images", settings.num_bound_images)),
    ]


def first(latents: LatentDataset, num: int) -> LatentDataset:
    """The first `num`."""
    return LatentDataset(latents.spec, latents.family, {name: values[:num] for name, values in latents.params.items()})


def aggregate_seconds(train: LatentDataset, draws: int, num: int, device: torch.device) -> float:
    """Of the density of `draws` under `num` posteriors, in pairs; none of point masses."""
    if not train.has_density or train.family == "codes" or not draws:
        return 0.0
    z = draw_latents(train, TRIED, device).double()

    def work(rows: int) -> Any:
        return first(train, rows).log_aggregate(z)

    at_once = min(len(train), max(1, AT_ONCE_NUMBERS // train.spec.num_dims))
    return expected_seconds(work, at_once, num * draws / TRIED)


def search_seconds(train: LatentDataset, num: int, device: torch.device) -> float:
    """Of the nearest training latent of `num` latents in each set; of codes it has a limit that takes seconds."""
    if train.spec.support is Support.CODES:
        return 0.0
    z = draw_latents(train, num, device).flatten(1)

    def work(rows: int) -> None:
        memorisation.nearest(z, first(train, rows).posterior(slice(None)).mean.to(device).flatten(1))

    at_once = min(len(train), max(1, AT_ONCE_NUMBERS // math.prod(train.spec.shape)))
    return SETS * expected_seconds(work, at_once, len(train))
