"""What the verdict says of discrete latents alone: whether a prior beats counting, and how many codes are used."""

from collections.abc import Mapping
from typing import Any

from evaluation.distances import gap_closed
from evaluation.row_names import RECONSTRUCTIONS

Row = Mapping[str, Any]
NOISE = 2.0
"""A difference of fewer standard errors than this is no win."""


def over_counting(name: str, rows: Row) -> str:
    """Whether the prior `name` beats the priors by counting in held-out nats, which it must.

    Differences are paired: the same latents of the same images.
    """
    failed, won = [], []
    for floor, gains in rows[name]["over"].items():
        paired, before = gains.get("latent_nll_nats"), (rows.get(floor) or {}).get("latent_nll_nats")
        if paired is None or before is None:
            continue
        after = before + paired["value"]
        if paired["value"] < -NOISE * paired["standard_error"]:
            won.append(f"{1 - after / before:.1%} fewer nats than {floor} ({before:.2f} to {after:.2f})")
        else:
            failed.append(f"{floor} ({before:.2f} nats a held-out latent, {after:.2f} with {name})")
    if failed:
        return f"FAILED: the prior {name} does not beat counting codes: {' and '.join(failed)}; train it longer."
    if not won:
        return f"The prior {name} has no density to compare with that of counted codes."
    closed = _gap_closed(name, rows)
    images = (
        "" if closed is None else f"; of the gap between unigram samples and reconstructions it closes {closed:.1%}"
    )
    return f"A held-out latent costs the prior {name} {' and '.join(won)}{images}."


def _gap_closed(name: str, rows: Row) -> float | None:
    """Share of the Frechet distance between samples of counted codes and reconstructions that `name` closes."""
    wanted = [(rows.get(row) or {}).get("frechet_distance") for row in ("unigram", name, RECONSTRUCTIONS)]
    counted, mine, best = wanted
    return None if counted is None or mine is None or best is None else gap_closed(counted, mine, best)


def codes_used(surgery: Row) -> str | None:
    """How many codes are used, and how many test images have the very codes of a training image."""
    codes = surgery.get("codes")
    if not codes:
        return None
    books = [
        f"{book['used_share']:.1%} of {book['num_codes']:,} codes (perplexity {book['perplexity']:.0f})"
        for book in codes["books"]
    ]
    told = f"Training images use {', '.join(books)}"
    return f"{told}; {codes['seen_share']:.1%} of test images have exactly the codes of a training image."
