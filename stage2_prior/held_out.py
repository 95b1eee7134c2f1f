"""Latents looked at by every fit, whatever its family: whether they are finite, and what held-out ones cost."""

from collections.abc import Mapping, Sequence

import torch

from stage1_vae.latents import LatentDataset
from stage1_vae.rows import spread_rows
from stage2_prior.fitting import Density, FitReport, FitRun, PriorError

ROWS_AT_ONCE = 4096
LARGE_NATS, ERRORS_OF_LARGE = 1.0, 0.9
"""A difference of which fewer standard errors are enough, and how many: of one latent alone it is its own error."""
LEAST_ROWS, TRAIN_ROWS = 1000, 10_000
"""Latents of a mean: at least, and of training ones at most."""


def check_finite(latents: LatentDataset, split: str) -> None:
    """Refuse parameters that are NaN or infinite, before any fit.

    Raises:
        PriorError: naming the parameter and the first row.
    """
    bad: dict[str, tuple[int, int]] = {}  # rows, and the first of them
    start = 0
    for posterior in latents.blocks():
        for name in latents.params:
            finite = getattr(posterior, name).reshape(posterior.batch_shape[0], -1).isfinite().all(1)
            if not finite.all():
                rows, first = bad.get(name, (0, start + int(finite.int().argmin())))
                bad[name] = (rows + int((~finite).sum()), first)
        start += posterior.batch_shape[0]
    for name, (rows, first) in bad.items():
        raise PriorError(
            f"{name} of the {split} latents is not finite in {rows} rows (first: {first}): "
            "the VAE diverged; train it again with a lower learning rate or gradient clipping"
        )


@torch.no_grad()
def mean_nll_nats(prior: Density, latents: LatentDataset, max_rows: int | None = None) -> float:
    """Mean -log p(z) in nats over one fresh z ~ q(z|x) an image, or of `max_rows` images spread over the set."""
    device = prior.anchor.device
    rows = spread_rows(len(latents), max_rows or len(latents))
    total = 0.0
    for index in rows.split(ROWS_AT_ONCE):
        total -= prior.log_prob(latents.draw(index).to(device)).double().sum().item()
    return total / len(rows)


def is_large(nats: float, error: float) -> bool:
    """Whether a gain of so many nats counts with that standard error, though a few latents may be most of it: those to
    which the other gives next to no probability."""
    return nats > max(LARGE_NATS, ERRORS_OF_LARGE * error)


def affordable(rows: int, prior: Density, max_tokens: int | None = None) -> int:
    """Fewer than `rows` latents where each takes a pass of the network a class; a thousand still give a mean.

    With `max_tokens` as few as hold so many numbers, in all passes, but at least one.
    """
    rows = min(rows, max(LEAST_ROWS, rows // prior.passes))
    return rows if max_tokens is None else min(rows, max(1, max_tokens // (prior.spec.num_dims * prior.passes)))


def report(
    prior: Density,
    train: LatentDataset,
    val: LatentDataset,
    run: FitRun,
    seconds: float,
    curve: Sequence[Mapping[str, float]] = (),
    notes: Sequence[str] = (),
    max_tokens: int | None = None,
) -> FitReport:
    """What a fit of `prior` ends with: its costs, of `affordable` fresh draws (`max_tokens`: of the held-out figures),
    where the run asks for them.

    Torch's global generator is left as it was.
    """
    if not run.measures:
        return FitReport(seconds, None, None, [dict(row) for row in curve], list(notes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        rows = (affordable(num, prior, max_tokens) for num in (TRAIN_ROWS, len(val)))
        train_nll, val_nll = (mean_nll_nats(prior, *split) for split in zip((train, val), rows, strict=True))
    return FitReport(seconds, train_nll, val_nll, [dict(row) for row in curve], list(notes))
