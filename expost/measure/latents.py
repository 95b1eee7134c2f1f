"""The glue between two trained stages and the surgery: what the latents are made of, and how well priors fit them.

Everything is measured on one fresh z ~ q(z|x) an image: of training images under the aggregate of all training images,
of test images under the aggregate of all test images. Which draws a prior is judged on matters: the marginal KL on
training images rewards memory too, so what generalises (classifier, discrepancy, marginals) is measured against draws
of test images.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.marginals import units, wasserstein_1, wasserstein_1_floor
from expost.evaluation.latents.surgery import LogDensity, Surgery, UnderPrior, surgery, under_prior
from expost.evaluation.latents.two_sample import classifier_of_known, classifier_two_sample, maximum_mean_discrepancy
from expost.evaluation.row_names import TRAINING_AGGREGATE
from expost.job import Run
from expost.measure.codes import code_figures
from expost.measure.subject import Trained
from expost.training.progress import clock
from stage1_vae.latents import LatentDataset, Support
from stage1_vae.rows import spread_rows
from stage2_prior.held_out import affordable
from stage2_prior.prior import Exactness, Prior

MAX_DRAWS = 10_000
MAX_KNOWN, MAX_KERNEL = 5_000, 5_000
"""Images whose very mixture the classifier is asked about, and samples of each set in the kernel discrepancy."""
MAX_LISTED_DIMS = 512
"""Latents of more dimensions get their counts and extremes, and no figure a dimension."""
BLOCK_ROWS = 4096


def dissect(trained: Trained, run: Run, name: str) -> dict[str, Any]:
    """Everything about the latents for the report; plain JSON values, None with a note for what does not exist.

    Args:
        trained: both stages and their latents.
        run: the job; `evaluation.num_samples` bounds the number of draws, `seeds.sample` decides them.
        name: of the learned prior.

    Returns:
        `train`, `test`: `Surgery.to_json()` of that split under the aggregate of its own images (`num_draws`,
            `num_components`, `mutual_information_nats`, `ceiling_nats`, `at_ceiling`, and `priors`: name ->
            `cross_entropy_nats`, `marginal_kl_nats`, `rate_nats`, each a `value` with its `standard_error`, and a
            `note`; None for a prior without a density). `test` has the aggregate of the training images as one prior
            more, `training_aggregate`. None for point masses.
        `dimensions`: `num_dims`, `num_active`, `num_collapsed` and, a dimension, `active`, `collapsed`,
            `mean_variance`, of training images; `wasserstein_1`: prior -> `mean`, `largest`, `floor` (mean of two
            samples of one density) and `per_dim`, prior samples against draws of test images, in units of z.
        `two_sample`: prior -> `accuracy_percent`, `standard_error_percent`, `num_held_out` of the classifier against
            q(z) of test images that it never saw; `known_accuracy_percent`, `known_standard_error_percent`,
            `known_num_images` against the aggregate of known test images, new draws of each, which is easier by
            whatever memory of images is worth (None for point masses); `mmd_squared`, `mmd_standard_error`,
            `mmd_num_samples`.
        `codes`: of codes, instead of the two above, `code_figures`.
        `log_prob_is`: prior -> what its density is (exact, lower bound, estimate, none).
        `notes`: in words, what is missing and why.
    """
    priors = trained.priors(name)
    found: dict[str, Any] = {"train": None, "test": None, "dimensions": None, "two_sample": dict.fromkeys(priors)}
    found["codes"] = None
    found |= {"log_prob_is": {key: prior.log_prob_is.value for key, prior in priors.items()}, "notes": []}
    are_codes = trained.train.spec.support is Support.CODES
    with run.seeded(run.config.seeds.sample), clock("surgery", run.shows_progress):
        limit = min(MAX_DRAWS, run.config.evaluation.num_samples)
        _take_rates_apart(trained, priors, affordable(limit, trained.prior), found)
        if are_codes:  # numbers of codes have no distances: neither moments nor a classifier mean anything
            found["codes"] = code_figures(trained)
        else:
            _look_at_samples(trained, priors, limit, found)
    return found


def _take_rates_apart(trained: Trained, priors: Mapping[str, Prior], limit: int, found: dict[str, Any]) -> None:
    """Fill in `train` and `test`."""
    if trained.train.is_point_mass:
        found["notes"].append(
            "posteriors are point masses: they have no rate, no mutual information and no marginal KL"
        )
        return
    densities = {key: prior.log_prob for key, prior in priors.items() if prior.log_prob_is is not Exactness.NONE}
    for key in priors.keys() - densities.keys():
        found["notes"].append(f"{key} has no density: no rate and no marginal KL under it")
    for split, latents in (("train", trained.train), ("test", trained.test)):
        try:
            z, log_posterior, result = dissected(latents, densities, limit, trained.device)
        except EvaluationError as error:
            found["notes"].append(f"{split}: {error}")
            continue
        under: dict[str, UnderPrior | None] = {**dict.fromkeys(priors), **result.priors}
        if split == "test" and trained.train.spec.support is not Support.CODES:  # of codes it says what was seen
            aggregate = latents.log_aggregate(z.double())
            under[TRAINING_AGGREGATE] = under_prior(z, log_posterior, aggregate, trained.train.log_aggregate)
        told = {key: None if one is None else one.to_json() for key, one in under.items()}
        found[split] = result.to_json() | {"priors": told}
        found["notes"] += [f"{split}, {key}: {one.note}" for key, one in under.items() if one is not None and one.note]


def dissected(
    latents: LatentDataset, densities: Mapping[str, LogDensity], limit: int, device: torch.device
) -> tuple[Tensor, Tensor, Surgery]:
    """Draws z [B, *shape] of at most `limit` images, their log q(z|x) [B] nats, and the surgery under their aggregate.

    Raises:
        EvaluationError: the latents are not finite.
    """
    rows = spread_rows(len(latents), limit)
    posterior = latents.posterior(rows)
    z = posterior.sample()
    log_posterior = posterior.log_prob(z.double()).to(device)  # float64: of large maps it is thousands of nats
    z = z.to(device)
    result = surgery(z, log_posterior, latents.log_aggregate(z.double()), len(latents), densities)
    return z, log_posterior, result


def _look_at_samples(trained: Trained, priors: Mapping[str, Prior], limit: int, found: dict[str, Any]) -> None:
    """Fill in `dimensions` and `two_sample`, which need no density."""
    train, test = trained.train, trained.test
    z = test.draw(spread_rows(len(test), limit)).to(trained.device)
    used = units(blocks_of(train))
    listed = train.spec.num_dims <= MAX_LISTED_DIMS
    distances: dict[str, Any] = {}
    for key, prior in priors.items():
        samples = trained.draw(prior, len(z)).to(trained.device)
        if not torch.isfinite(samples).all():
            distances[key] = None
            found["notes"].append(
                f"{key}: some of its samples are NaN or infinite, so they were not compared with q(z)"
            )
            continue
        per_dim, floor = wasserstein_1(samples, z), wasserstein_1_floor(samples, z)
        distances[key] = {
            "mean": per_dim.mean().item(),
            "largest": per_dim.max().item(),
            "floor": floor.mean().item(),
            "per_dim": per_dim.tolist() if listed else None,
        }
        try:
            found["two_sample"][key] = _two_sample(samples, z)
            if not test.is_point_mass:
                found["two_sample"][key] |= _against_known(trained, prior, min(limit, MAX_KNOWN))
        except EvaluationError as error:
            found["notes"].append(f"{key}: {error}")
    found["dimensions"] = {
        "num_dims": train.spec.num_dims,
        "num_active": int(used.active.sum()),
        "num_collapsed": None if used.collapsed is None else int(used.collapsed.sum()),
        "active": used.active.tolist() if listed else None,
        "collapsed": used.collapsed.tolist() if listed and used.collapsed is not None else None,
        "mean_variance": used.mean_variance.tolist() if listed else None,
        "wasserstein_1": distances,
    }


def _two_sample(samples: Tensor, z: Tensor) -> dict[str, Any]:
    """Prior samples [n, *shape] against q(z) of held-out images, z [n, *shape]."""
    accuracy = classifier_two_sample(samples, z)
    discrepancy = maximum_mean_discrepancy(samples[:MAX_KERNEL], z[torch.randperm(len(z))[:MAX_KERNEL]])
    return {
        "accuracy_percent": accuracy.percent,
        "standard_error_percent": accuracy.standard_error_percent,
        "num_held_out": accuracy.num_held_out,
        "known_accuracy_percent": None,
        "known_standard_error_percent": None,
        "known_num_images": None,
        "mmd_squared": discrepancy.squared,
        "mmd_standard_error": discrepancy.standard_error,
        "mmd_num_samples": discrepancy.num_samples,
    }


def _against_known(trained: Trained, prior: Prior, num: int) -> dict[str, Any]:
    """Prior samples against the aggregate of `num` test images at most, trained and judged on draws of them all."""
    rows = spread_rows(len(trained.test), num)

    def pair() -> tuple[Tensor, Tensor]:
        return trained.draw(prior, len(rows)).to(trained.device), trained.test.draw(rows).to(trained.device)

    accuracy = classifier_of_known(train=pair(), judge=pair(), reference=pair())
    return {
        "known_accuracy_percent": accuracy.percent,
        "known_standard_error_percent": accuracy.standard_error_percent,
        "known_num_images": len(rows),
    }


def blocks_of(latents: LatentDataset) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Posterior means and log standard deviations, some rows at a time."""
    for start in range(0, len(latents), BLOCK_ROWS):
        posterior = latents.posterior(slice(start, start + BLOCK_ROWS))
        yield posterior.mean, getattr(posterior, "log_std", None)
