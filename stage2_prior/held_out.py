"""Latents looked at by every fit, whatever its family: whether they are finite, and what held-out ones cost."""

import torch

from stage1_vae.latents import LatentDataset
from stage1_vae.rows import spread_rows
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Prior

ROWS_AT_ONCE = 4096
LEAST_ROWS = 1000


def check_finite(latents: LatentDataset, split: str) -> None:
    """Refuse parameters that are NaN or infinite, before any fit.

    Raises:
        PriorError: naming the parameter and the first row.
    """
    bad: dict[str, tuple[int, int]] = {}  # rows, and the first of them
    start = 0
    for posterior in latents.blocks():
        for name in latents.params:
            finite = getattr(posterior, name).flatten(1).isfinite().all(1)
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
def mean_nll_nats(prior: Prior, latents: LatentDataset, max_rows: int | None = None) -> float:
    """Mean -log p(z) in nats over one fresh z ~ q(z|x) an image, or of `max_rows` images spread over the set."""
    device = prior.anchor.device
    rows = spread_rows(len(latents), max_rows or len(latents))
    total = 0.0
    for index in rows.split(ROWS_AT_ONCE):
        total -= prior.log_prob(latents.draw(index).to(device)).double().sum().item()
    return total / len(rows)


def affordable(rows: int, prior: Prior, max_tokens: int | None = None) -> int:
    """Fewer than `rows` latents where each takes a pass of the network a class; a thousand still give a mean.

    With `max_tokens` as few as hold so many numbers, in all passes, but at least one.
    """
    rows = min(rows, max(LEAST_ROWS, rows // prior.passes))
    return rows if max_tokens is None else min(rows, max(1, max_tokens // (prior.spec.num_dims * prior.passes)))


def measured_nll_nats(prior: Prior, train: LatentDataset, val: LatentDataset, seed: int) -> tuple[float, float]:
    """`mean_nll_nats` on (at most 10,000 of) `train` and on `val`; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mean_nll_nats(prior, train, max_rows=10_000), mean_nll_nats(prior, val)
