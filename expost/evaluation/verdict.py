"""The verdict in words: what the figures of a report say, and what they cannot say.

Three questions, each answered from what is there: does q(z) match N(0, I)? does the learned prior match q(z)? what is
left, and is it the prior's fault or the decoder's? A difference counts only beyond `NOISE` standard errors (or, for
image distances, standard deviations over resampled halves); below that it is called noise, and a figure without a
spread is quoted without a judgement on its size.

The last question is answered in two currencies. In nats, a prior can win the marginal KL(q(z) || p(z)) at most: what a
held-out draw of q(z) still costs more than it must is the prior's. In images, everything between decoded draws of the
aggregate posterior (or reconstructions) and real images is the decoder's, and what decoded samples add is the prior's.
"""

import math
from collections.abc import Mapping
from typing import Any

from expost.evaluation.code_verdict import codes_used, over_counting
from expost.evaluation.row_names import (
    AGGREGATE,
    BASELINES,
    RECONSTRUCTIONS,
    TRAIN_AGAINST_TEST,
    TRAINING_AGGREGATE,
    learned_rows,
)

NOISE = 2.0
"""A difference of fewer standard errors than this is noise."""
CHANCE_PERCENT = 50.0

Row = Mapping[str, Any]


def verdict(report: Row) -> str:
    """The whole verdict as one paragraph."""
    return " ".join(verdict_lines(report))


def verdict_lines(report: Row) -> list[str]:
    """One sentence a finding, the most important first.

    Args:
        report: with `rows` (name -> figures), and, where they exist, `baseline` (name of its row), `surgery` (of
            `expost.measure.latents`), `classes` (of `expost.measure.classes`), `fitting` (name -> what
            `expost.measure.remedies` says of it), `carries_unchanged` (z is x, nothing decodes). Anything may be
            missing or None.
    """
    rows: Row = report.get("rows") or {}
    from expost.evaluation.images.class_accuracy import classes_followed  # torch: only who measures

    baseline = report.get("baseline") or "standard_normal"
    title = BASELINES.get(baseline, baseline)
    learned = learned_rows(report)
    surgery: Row = report.get("surgery") or {}
    base = rows.get(baseline) or {}
    lines = [_bought(name, rows[name] or {}, base, rows.get(RECONSTRUCTIONS) or {}, title) for name in learned]
    fitting: Row = report.get("fitting") or {}
    lines += [over_counting(name, rows, fitting.get(name)) for name in learned if (rows[name] or {}).get("over")]
    followed = (classes_followed(report.get("classes"), name, fitting.get(name)) for name in learned)
    lines += [sentence for sentence in followed if sentence]
    if not learned:
        lines.append(f"Only the baseline {title} was evaluated; choose a learned prior to compare it with.")
    lines += [sentence for name in (baseline, *learned) if (sentence := _match(name, surgery, baseline))]
    found = (_information(surgery), _collapse(surgery), codes_used(surgery))
    lines += [sentence for sentence in found if sentence]
    unchanged = bool(report.get("carries_unchanged"))
    left = (_left(name, rows, surgery, baseline, unchanged) for name in learned or [baseline])
    lines += [sentence for sentence in left if sentence]
    lines += [sentence] if (sentence := _memory(learned, surgery)) else []
    return lines


def _bought(name: str, row: Row, base: Row, floor: Row, title: str) -> str:
    """What the learned prior bought against the baseline, called `title`."""
    parts = []
    for key, what in [("rate_nats", "the rate"), ("latent_nll_nats", "the cost -log p(z) of a held-out latent")]:
        before, after = base.get(key), row.get(key)
        if before is not None and after is not None:
            verb = "lowers" if after <= before else "raises"
            error = _of(row, "gain", key, "standard_error")  # of the paired difference: same images, same draws
            told = f"{verb} {what} by {_nats(abs(before - after), error)} an image ({before:.2f} to {after:.2f})"
            noise = (_spread(base, key), _spread(row, key)) if error is None else (error,)
            if _beyond_noise(before - after, *noise) is False:
                told = f"leaves {what} as it is: {before:.2f} to {after:.2f} nats is a difference inside the noise"
            parts.append(told)
            break  # both say the same where both exist: the entropy of q(z|x) is shared
    closed, distance = row.get("gap_closed"), row.get("frechet_distance")
    before, best = base.get("frechet_distance"), floor.get("frechet_distance")
    if distance is not None and before is not None:
        spell = f"Frechet distance {before:.3f} to {distance:.3f}"
        if _beyond_noise(before - distance, _spread(base), _spread(row)) is False:
            parts.append(f"leaves the images as they are: {spell} is a difference inside the noise")
        elif closed is not None and best is not None:
            doing = f"closes {closed:.1%}" if closed >= 0 else f"widens by {-closed:.1%}"
            gap_words = f"of the gap between decoded {title} samples and reconstructions ({spell}; "
            parts.append(f"{doing} {gap_words}reconstructions reach {best:.3f})")
        else:
            doing = "lowers" if distance < before else "raises"
            parts.append(f"{doing} the Frechet distance from {before:.3f} to {distance:.3f}")
    if not parts:
        return f"There is no figure that compares the prior {name} with {title}."
    return f"Against {title}, the prior {name} {' and '.join(parts)}."


def _match(name: str, surgery: Row, baseline: str) -> str | None:
    """Does q(z) match this prior? By the classifier first, which needs no density; then by the marginal KL."""
    title = BASELINES[name] if name == baseline else f"the prior {name}"
    accuracy = _of(surgery, "two_sample", name, "accuracy_percent")
    error = _of(surgery, "two_sample", name, "standard_error_percent")
    marginal = _marginal_kl(surgery, "train", name)
    nats = None if marginal is None else f"KL(q(z) || p(z)) on training images is {_nats(*marginal)}"
    if nats is not None and _of(surgery, "train", "at_ceiling"):
        nats += ", an upper bound here"
    if accuracy is None or error is None:
        return None if nats is None else f"How far q(z) is from {title}: {nats}."
    told = f"{accuracy:.1f} ± {error:.1f} %"
    if accuracy - CHANCE_PERCENT > NOISE * error:
        known = f"{title} does not match q(z): a classifier tells its samples from held-out q(z) with {told}"
    else:  # no proof of a match: with few images a classifier sees little
        known = f"a classifier cannot tell samples of {title} from held-out q(z) ({told})"
    sentence = known if nats is None else f"{known}; {nats}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _information(surgery: Row) -> str | None:
    mutual, ceiling = _estimate(_of(surgery, "train", "mutual_information_nats")), _of(surgery, "train", "ceiling_nats")
    if mutual is None or ceiling is None:
        return None
    sentence = f"The code carries {_nats(*mutual)} about the training image, of at most log N = {ceiling:.2f}"
    if _of(surgery, "train", "at_ceiling"):
        sentence += ": the estimate has reached its ceiling, so it is a lower bound and the marginal KL an upper one"
    return f"{sentence}."


def _collapse(surgery: Row) -> str | None:
    active, num = _of(surgery, "dimensions", "num_active"), _of(surgery, "dimensions", "num_dims")
    collapsed = _of(surgery, "dimensions", "num_collapsed")
    if active is None or num is None or (active == num and not collapsed):
        return None
    if active == 0:
        return f"None of the {num} latent dimensions is active: the code says nothing about the image."
    told = f"{active} of {num} latent dimensions are active (their posterior means vary over images)"
    return f"{told}; {collapsed} have collapsed to the prior." if collapsed else f"{told}."


def _left(name: str, rows: Row, surgery: Row, baseline: str, unchanged: bool) -> str | None:
    """What is left between samples and real images, and whose fault it is; without a decoder, it is the prior's."""
    title = BASELINES[name] if name == baseline else name
    in_images = None if unchanged else _left_images(name, rows)
    parts = [part for part in (_left_nats(name, surgery), in_images) if part]
    return f"What is left with {title}: {'; '.join(parts)}." if parts else None


def _left_nats(name: str, surgery: Row) -> str | None:
    """How much of the marginal KL on training images a prior should not win: q(z) of other images costs more."""
    seen = _estimate(_of(surgery, "train", "priors", name, "cross_entropy_nats"))
    unseen = _estimate(_of(surgery, "test", "priors", name, "cross_entropy_nats"))
    if seen is None or unseen is None:
        return None
    excess = unseen[0] - seen[0]
    told = f"-log p(z) is {_nats(*seen)} on training and {_nats(*unseen)} on test images"
    judged = _beyond_noise(excess, seen[1], unseen[1])
    if judged is False:
        return f"in nats the prior serves unseen images as well as seen ones ({told}, a difference inside the noise)"
    if judged is None:
        return told
    if excess > 0:
        return f"in nats the prior has fitted {excess:.2f} nats of the training images that unseen ones lack ({told})"
    return f"in nats unseen images cost {-excess:.2f} nats less than seen ones ({told})"


def _memory(learned: list[str], surgery: Row) -> str | None:
    """Why no prior should bring the marginal KL on training images to zero."""
    aggregate = _estimate(_of(surgery, "test", "priors", TRAINING_AGGREGATE, "rate_nats"))
    rates = {name: _estimate(_of(surgery, "test", "priors", name, "rate_nats")) for name in learned}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if aggregate is None or not known:
        return None
    told = ", ".join(f"{rate[0]:.2f} under {name}" for name, rate in known.items())
    best = min(known.values(), key=lambda rate: rate[0])
    if _beyond_noise(aggregate[0] - best[0], aggregate[1], best[1]) is False:
        end = "a difference inside the noise"
    elif aggregate[0] > best[0]:
        end = "so part of the KL on training images is memory of them and no fault of the prior"
    else:
        end = "so a better prior is possible"
    rate = f"a test image has a rate of {_nats(*aggregate)} under the aggregate of the training images itself"
    return f"{rate[0].upper()}{rate[1:]} ({told}), {end}."


def _left_images(name: str, rows: Row) -> str | None:
    mine, floor = rows.get(name) or {}, rows.get(TRAIN_AGAINST_TEST) or {}
    source = AGGREGATE if (rows.get(AGGREGATE) or {}).get("frechet_distance") is not None else None
    source = source or RECONSTRUCTIONS
    decoded = rows.get(source) or {}
    distance, best = mine.get("frechet_distance"), decoded.get("frechet_distance")
    if distance is None or best is None:
        return None
    real = floor.get("frechet_distance") or 0.0
    by_prior, by_decoder = distance - best, best - real
    what = "decoded draws of q(z)" if source == AGGREGATE else "reconstructions"
    spell = f"Frechet distance {distance:.3f}, {what} {best:.3f}, training images {real:.3f}"
    if _beyond_noise(by_prior, _spread(mine), _spread(decoded)) is False:
        return f"its samples are as near to test images as {what}, so what is left is the decoder's ({spell})"
    if by_prior <= 0:
        return f"its samples are nearer to test images than {what}, so what is left is the decoder's ({spell})"
    if by_decoder <= 0:
        return f"the prior's fault alone ({spell})"
    share = by_prior / (by_prior + by_decoder)
    mainly = "mostly the prior's fault" if share > 0.6 else "mostly the decoder's" if share < 0.4 else "shared"
    return f"in images {mainly}: {share:.0%} of the distance is the prior's, {1 - share:.0%} the decoder's ({spell})"


def _of(mapping: Any, *keys: str) -> Any:
    """The value under nested keys; None where any is missing."""
    for key in keys:
        if not isinstance(mapping, Mapping):
            return None
        mapping = mapping.get(key)
    return mapping


def _estimate(stored: Any) -> tuple[float, float | None] | None:
    value = _of(stored, "value")
    return None if value is None else (value, _of(stored, "standard_error"))


def _marginal_kl(surgery: Row, split: str, name: str) -> tuple[float, float | None] | None:
    return _estimate(_of(surgery, split, "priors", name, "marginal_kl_nats"))


def _spread(row: Row, figure: str = "frechet_distance") -> float | None:
    return _of(row, "spread", figure)


def _beyond_noise(difference: float, *spreads: float | None) -> bool | None:
    """Whether a difference of two figures is more than noise; None where a spread is missing."""
    known = [spread for spread in spreads if spread is not None]
    return None if len(known) < len(spreads) else abs(difference) > NOISE * math.hypot(*known)


def _nats(value: float, standard_error: float | None) -> str:
    return f"{value:.2f} nats" if standard_error is None else f"{value:.2f} ± {standard_error:.2f} nats"
