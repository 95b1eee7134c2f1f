"""What the verdict says of discrete latents alone: whether a prior beats counting, and how many codes are used."""

from collections.abc import Mapping
from typing import Any

from expost.evaluation.row_names import RECONSTRUCTIONS

Row = Mapping[str, Any]
NOISE = 2.0
"""A difference of fewer standard errors than this is no win."""
LITTLE_NATS = 0.1
"""Where counting leaves less than this to be won, a prior that wins nothing has not failed."""


def over_counting(name: str, rows: Row, fitting: Mapping[str, Any] | None = None) -> str:
    """Whether the prior `name` beats the priors by counting in held-out nats, which it must unless it counts itself.

    Differences are paired: the same latents of the same images.

    Args:
        name: of the prior.
        rows: of the report.
        fitting: of `expost.measure.remedies`.
    """
    fitting = fitting or {"by": "steps", "remedy": "train it longer"}
    failed, won = [], []
    least: float | None = None
    for floor, gains in rows[name]["over"].items():
        paired, before = gains.get("latent_nll_nats"), (rows.get(floor) or {}).get("latent_nll_nats")
        if paired is None or before is None:
            continue
        after = before + paired["value"]
        if paired["value"] < -NOISE * paired["standard_error"]:
            won.append(f"{1 - after / before:.1%} fewer nats than {floor} ({before:.2f} to {after:.2f})")
            continue
        least = before if least is None else min(least, before)
        inside = abs(paired["value"]) <= NOISE * paired["standard_error"]
        noise = ", a difference inside the noise" if inside else ""
        failed.append(f"{floor} ({before:.2f} nats a held-out latent, {after:.2f} with {name}{noise})")
    if failed and least is not None and least < LITTLE_NATS:
        return (
            f"There is nothing to win for the prior {name}: counting leaves {least:.2f} nats a held-out latent, so the "
            "codes hardly differ from image to image; that is the doing of stage 1."
        )
    if failed and fitting.get("num_places") == 1:
        return f"The prior {name} costs no fewer nats than {' and '.join(failed)}: of latents of one code none can."
    if failed and fitting["by"] == "counting":
        return f"The prior {name} costs no fewer nats than {' and '.join(failed)}; {fitting['remedy']}."
    if failed:
        return f"FAILED: the prior {name} does not beat counting codes: {' and '.join(failed)}; {fitting['remedy']}."
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
    from expost.evaluation.distances import gap_closed  # torch: only who measures

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
