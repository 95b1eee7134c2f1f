"""The verdict in words: what the figures of a report say, and what they cannot say.

Three questions, each answered from what is there: does q(z) match N(0, I)? does the learned prior match q(z)? what is
left, and is it the prior's fault or the decoder's? A difference counts only beyond `NOISE` standard errors (or, for
image distances, standard deviations over resampled halves); below that it is called noise, and a figure without a
spread is quoted without a judgement on its size. Of discrete latents it says besides whether a prior beats counting,
and of a conditional prior whether its samples show the class that was asked for.

The last question is answered in two currencies. In nats, a prior can win the marginal KL(q(z) || p(z)) at most: what a
held-out draw of q(z) still costs more than it must is the prior's. In images, everything between decoded draws of the
aggregate posterior (or reconstructions) and real images is the decoder's, and what decoded samples add is the prior's.

Of latents that came without images, and without a decoder, the same is said of distances between latents, and what was
not looked at is named.
"""

import math
from dataclasses import replace

from expost.evaluation.nouns import IMAGES, LATENTS, Nouns
from expost.evaluation.report import Report, Row
from expost.evaluation.row_names import (
    AGGREGATE,
    BASELINES,
    FLOORS,
    MOMENT_MATCHED,
    RECONSTRUCTIONS,
    TRAIN_AGAINST_TEST,
    TRAINING_AGGREGATE,
)
from expost.evaluation.sections import Classes, Clusters, Decomposition, Estimate, Fitting, Share, Surgery

NOISE = 2.0
"""A difference of fewer standard errors than this is noise, and no win."""
CHANCE_PERCENT = 50.0
FEW_CLUSTERS = 2
"""Times the number of classes: a mixture of more components was not meant to find them."""
NEARLY_EMPTY_NATS = math.log(2)
"""One bit: a code that carries less cannot tell one half of the images from the other."""
LITTLE_NATS = 0.1
"""Where counting leaves less than this to be won, a prior that wins nothing has not failed."""


def conclude(report: Report) -> Report:
    """The report with what follows from its figures: the gap that each learned prior closes, and the verdict; nothing
    infinite or NaN is left in it."""
    finite = {name: row.finite() for name, row in report.rows.items()}
    report = Report.from_json(replace(report, rows=finite).to_json())
    rows = {}
    for name, row in report.rows.items():
        if name != report.baseline and name not in FLOORS:
            row = replace(row, gap_closed=report.gap_closed(name))
        figures = row.figures
        rows[name] = replace(row, spread={key: std for key, std in row.spread.items() if figures[key] is not None})
    report = replace(report, rows=rows)
    lines = verdict_lines(report)
    if_empty = report.if_empty if code_emptied(report) else ""
    return replace(report, verdict=" ".join(lines), verdict_lines=tuple(lines), if_empty=if_empty)


def verdict_lines(report: Report) -> list[str]:
    """One sentence a finding, the most important first; anything in `report` may be missing."""
    baseline, learned, surgery, nouns = report.baseline, report.learned, report.surgery, report.nouns
    empty = code_emptied(report)
    lines = [*([empty] if empty else []), *_without_density(report), *(_bought(name, report) for name in learned)]
    lines += [_memoriser(name, nouns) for name in learned if report.row(name).memorises]
    lines += [line for name in learned if (line := _behind_gaussian(name, report))]
    lines += [over_floors(name, report) for name in learned if report.row(name).over]
    if report.classes is not None:
        lines += [classes_followed(report.classes, name, report.fitting.get(name), nouns) for name in learned]
    if report.clusters is not None and report.clusters.num_components <= FEW_CLUSTERS * report.clusters.num_classes:
        lines += [clusters_found(report.clusters, name, nouns) for name in learned]
    if not learned:
        title = BASELINES.get(baseline, baseline)
        lines.append(f"Only the baseline {title} was evaluated; choose a learned prior to compare it with.")
    sentences = [_match(name, report) for name in (baseline, *learned)]
    sentences += [_information(surgery.train, nouns), None if empty else _collapse(surgery, nouns)]
    sentences += [codes_used(surgery, nouns)]
    sentences += [_left(name, report) for name in learned or [baseline]]
    sentences += [_memory(learned, surgery.test, nouns)]
    if nouns is LATENTS:
        lines += unseen(report)
    return [*lines, *(sentence for sentence in sentences if sentence)]


def _memoriser(name: str, nouns: Nouns) -> str:
    """What keeps a prior that is made of training latents from being the answer."""
    return (
        f"The prior {name} stands on every training latent and draws them again, at most blurred: it stands beside "
        f"the others to show what memory of the training {nouns.many} gives, and is no prior to choose."
    )


def _without_density(report: Report) -> list[str]:
    """That there is no density to be fitted, where the look at the latents says so."""
    first = next((fitting.look[0].done for fitting in report.fitting.values() if fitting.look), "")
    return [f"{first[0].upper()}{first[1:]}."] if first else []


def _behind_gaussian(name: str, report: Report) -> str | None:
    """That one Gaussian does better, where it does beyond noise or by a few latents."""
    fitting = report.fitting.get(name)
    if fitting is None or fitting.over_gaussian is None or not fitting.if_losing:
        return None
    lost = Estimate(-fitting.over_gaussian.value, fitting.over_gaussian.standard_error)
    return (
        f"The prior {name} loses to one Gaussian, prior=gaussian, which costs held-out latents {_nats(lost)} less; "
        f"{fitting.if_losing}."
    )


def unseen(report: Report) -> list[str]:
    """What a report about latents cannot say, and what their files would have to hold for more."""
    sentence = "Images were not looked at: there is no decoder, so nothing is said of what one makes of these samples."
    return [sentence, *([f"The files do not hold {', nor '.join(report.missing)}."] if report.missing else [])]


def _bought(name: str, report: Report) -> str:
    """What the learned prior bought against the baseline."""
    base, row, title = report.row(report.baseline), report.row(name), BASELINES.get(report.baseline, report.baseline)
    parts = []
    costs = {"rate_nats": "the rate", "latent_nll_nats": "the cost -log p(z) of a held-out latent"}
    for key, what in costs.items():
        before, after = base.figures[key], row.figures[key]
        if before is not None and after is not None:
            verb = "lowers" if after <= before else "raises"
            gain = (row.gain or {}).get(key)  # of the paired difference: same images, same draws
            error = None if gain is None else gain.standard_error
            noise = (base.spread.get(key), row.spread.get(key)) if error is None else (error,)
            if beyond_noise(before - after, *noise) is False:
                change = f"{before:.2f} to {after:.2f} nats is a difference inside the noise"
                parts.append(f"leaves {what} as it is: {change}")
            else:
                won = _nats(Estimate(abs(before - after), error))
                parts.append(f"{verb} {what} by {won} {report.nouns.an} ({before:.2f} to {after:.2f})")
            break  # both say the same where both exist: the entropy of q(z|x) is shared
    parts += _distance_bought(base, row, report, title)
    if not parts:
        return f"There is no figure that compares the prior {name} with {title}."
    return f"Against {title}, the prior {name} {' and '.join(parts)}."


def _distance_bought(base: Row, row: Row, report: Report, title: str) -> list[str]:
    """The same in Frechet distances; nothing where one is missing."""
    nouns = report.nouns
    before, after = base.frechet_distance, row.frechet_distance
    best = report.row(nouns.ceiling).frechet_distance
    if before is None or after is None:
        return []
    spell = f"Frechet distance {before:.3f} to {after:.3f}"
    if beyond_noise(before - after, _spread(base), _spread(row)) is False:
        return [f"leaves the {nouns.many} as they are: {spell} is a difference inside the noise"]
    closed = row.gap_closed
    if closed is None or best is None:
        return [f"{'lowers' if after < before else 'raises'} the Frechet distance from {before:.3f} to {after:.3f}"]
    verb = f"closes {closed:.1%}" if closed >= 0 else f"widens by {-closed:.1%}"
    gap = f"of the gap between {nouns.decoded}{title} samples and {nouns.best}"
    return [f"{verb} {gap} ({spell}; {nouns.best} reach {best:.3f})"]


def over_floors(name: str, report: Report) -> str:
    """Whether the prior `name` beats the floors that were fitted besides."""
    over = report.row(name).over or {}
    return over_moments(name, report) if MOMENT_MATCHED in over else over_counting(name, report)


def over_moments(name: str, report: Report) -> str:
    """Whether a shift and a scale of every dimension are all that the prior `name` has found; by paired differences."""
    paired = (report.row(name).over or {})[MOMENT_MATCHED].get("latent_nll_nats")
    before = report.row(MOMENT_MATCHED).latent_nll_nats
    if paired is None or before is None:
        return f"The prior {name} has no density to compare with that of a shift and a scale alone."
    scaled = f"N(mean, variances), which shifts and scales every dimension and does no more ({before:.2f} nats"
    spell = f"{scaled} a held-out latent, {before + paired.value:.2f} with {name})"
    gain = _nats(Estimate(abs(paired.value), paired.standard_error))
    is_real = beyond_noise(paired.value, paired.standard_error)
    if is_real is False:
        return f"A shift and a scale alone would do: the prior {name} costs as much as {spell}."
    if paired.value > 0:
        fitting = report.fitting.get(name)
        remedy = "" if fitting is None else f"; {fitting.remedy}"
        return f"A shift and a scale alone would do better: the prior {name} costs {gain} more than {spell}{remedy}."
    return f"A shift and a scale alone would not do: the prior {name} costs {gain} fewer than {spell}."


def over_counting(name: str, report: Report) -> str:
    """Whether the prior `name` beats the priors by counting in held-out nats, which it must unless it counts itself.

    Differences are paired: the same latents of the same images.
    """
    failed, won = [], []
    least: float | None = None
    for floor, gains in (report.row(name).over or {}).items():
        paired, before = gains.get("latent_nll_nats"), report.row(floor).latent_nll_nats
        if paired is None or paired.standard_error is None or before is None:
            continue
        after = before + paired.value
        if paired.value < -NOISE * paired.standard_error:
            won.append(f"{1 - after / before:.1%} fewer nats than {floor} ({before:.2f} to {after:.2f})")
            continue
        least = before if least is None else min(least, before)
        inside = abs(paired.value) <= NOISE * paired.standard_error
        noise = ", a difference inside the noise" if inside else ""
        failed.append(f"{floor} ({before:.2f} nats a held-out latent, {after:.2f} with {name}{noise})")
    if failed and least is not None and least < LITTLE_NATS:
        return (
            f"There is nothing to win for the prior {name}: counting leaves {least:.2f} nats a held-out latent, so the "
            f"codes hardly differ from {report.nouns.source} to {report.nouns.source}; that is the doing of stage 1."
        )
    fitting = report.fitting.get(name) or Fitting("steps", "train it longer", 0)
    if failed and fitting.num_places == 1:
        return f"The prior {name} costs no fewer nats than {' and '.join(failed)}: of latents of one code none can."
    if failed and fitting.by == "counting":
        return f"The prior {name} costs no fewer nats than {' and '.join(failed)}; {fitting.remedy}."
    if failed:
        return f"FAILED: the prior {name} does not beat counting codes: {' and '.join(failed)}; {fitting.remedy}."
    if not won:
        return f"The prior {name} has no density to compare with that of counted codes."
    closed = report.gap_closed(name, "unigram")
    gap = f"; of the gap between unigram samples and {report.nouns.best} it closes"
    images = "" if closed is None else f"{gap} {closed:.1%}"
    return f"A held-out latent costs the prior {name} {' and '.join(won)}{images}."


def codes_used(surgery: Surgery, nouns: Nouns = IMAGES) -> str | None:
    """How many codes are used, and how many test images have the very codes of a training image."""
    if surgery.codes is None:
        return None
    spell = "{0.used_share:.1%} of {0.num_codes:,} codes (perplexity {0.perplexity:.0f})"
    books = [spell.format(book) for book in surgery.codes.books]
    repeats = f"{surgery.codes.seen_share:.1%} of test {nouns.many} have exactly the codes of a training {nouns.one}"
    return f"Training {nouns.many} use {', '.join(books)}; {repeats}."


def classes_followed(classes: Classes, name: str, fitting: Fitting | None = None, nouns: Nouns = IMAGES) -> str:
    """The verdict on samples of the conditional prior `name`.

    A prior is held to what can be seen: not where the classifier takes real test images for their class no more often
    than by chance, nor where reconstructions of them have lost it already.
    """
    samples, chance = classes.samples, classes.chance
    real, decoded = classes.test_images, classes.reconstructions
    if not _above(samples, chance) or (real is not None and not _above(real, chance)):
        return _not_followed(name, classes, "train it longer" if fitting is None else fitting.remedy, nouns)
    shares = {f"reconstructions of test {nouns.many}": decoded, f"test {nouns.many}": real}
    beside = [f"{what} {_share(share)}" for what, share in shares.items() if share is not None]
    return (
        f"Of {samples.num:,} samples of {name}, equally many a class, a classifier takes {_share(samples)} for the "
        f"class that was asked for ({', '.join([f'chance {chance:.1%}', *beside])})."
    )


def clusters_found(clusters: Clusters, name: str, nouns: Nouns = IMAGES) -> str:
    """What the components of the mixture `name` have to do with classes."""
    how = (
        "in which component k is class k by labels of training"
        if clusters.classes_known
        else "matched one to one to classes on these very"
    )
    return (
        f"Of {clusters.num_images:,} test {nouns.many}, {_percent(clusters.accuracy)} lie in the component of their "
        f"class, of {clusters.num_components} components of {name} for {clusters.num_classes} classes, {how} "
        f"{nouns.many} (as many components to a class as like: {_percent(clusters.purity)}; normalised mutual "
        f"information {clusters.nmi:.3f})."
    )


def _percent(share: Estimate) -> str:
    return f"{share.value:.1%} ± {share.standard_error:.1%}"


def _not_followed(name: str, classes: Classes, remedy: str, nouns: Nouns) -> str:
    """Why samples do not show their class: the classifier, stage 1, noise, or in the end the prior."""
    samples, chance = classes.samples, classes.chance
    real, decoded = classes.test_images, classes.reconstructions
    unknown = f"Whether samples of {name} follow their label cannot be told: a classifier takes"
    untold = f"{unknown} {_share(samples)} of them"
    if real is not None and not _above(real, chance):
        return (
            f"{untold} for the class that was asked for, and {_share(real)} of real test {nouns.many} for theirs, no "
            f"more than by chance ({chance:.1%})."
        )
    if decoded is not None and not _above(decoded, chance):
        return (
            f"Samples of {name} do not show their class, and neither do reconstructions of test images: "
            f"{_share(samples)} and {_share(decoded)} are taken for it, by chance {chance:.1%}; it is lost in stage 1, "
            "and no prior brings it back."
        )
    if decoded is not None and not _further(decoded, samples):
        return (
            f"{untold} for the class that was asked for (by chance {chance:.1%}), and {_share(decoded)} of the "
            "reconstructions of test images for theirs, a difference inside the noise."
        )
    return (
        f"FAILED: samples of {name} do not follow their label: a classifier takes {_share(samples)} of them for the "
        f"class that was asked for, and would take {chance:.1%} by chance; {remedy}."
    )


def _above(share: Share, chance: float) -> bool:
    """Whether a share is above chance by more than its noise."""
    return share.value - chance > NOISE * share.standard_error


def _further(share: Share, rival: Share) -> bool:
    """Whether one share is above another by more than the noise of both."""
    return share.value - rival.value > NOISE * math.hypot(share.standard_error, rival.standard_error)


def _share(share: Share) -> str:
    return f"{share.value:.1%} ± {share.standard_error:.1%}"


def _match(name: str, report: Report) -> str | None:
    """Does q(z) match this prior? By the classifier first, which needs no density; then by the marginal KL."""
    title = BASELINES[name] if name == report.baseline else f"the prior {name}"
    train, two = report.surgery.train, report.surgery.two_sample.get(name)
    under = None if train is None else train.priors.get(name)
    marginal = None if under is None else under.marginal_kl_nats
    of = f"on training {report.nouns.many}"
    nats = None if marginal is None else f"KL(q(z) || p(z)) {of} is {_nats(marginal)}"
    if nats is not None and train is not None and train.at_ceiling:
        nats += ", an upper bound here"
    if two is None:
        return None if nats is None else f"How far q(z) is from {title}: {nats}."
    accuracy = f"{two.accuracy_percent:.1f} ± {two.standard_error_percent:.1f} %"
    if two.accuracy_percent - CHANCE_PERCENT > NOISE * two.standard_error_percent:
        known = f"{title} does not match q(z): a classifier tells its samples from held-out q(z) with {accuracy}"
    else:  # no proof of a match: with few images a classifier sees little
        known = f"a classifier cannot tell samples of {title} from held-out q(z) ({accuracy})"
    sentence = known if nats is None else f"{known}; {nats}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _information(train: Decomposition | None, nouns: Nouns) -> str | None:
    if train is None:
        return None
    mutual = _nats(train.mutual_information_nats)
    sentence = (
        f"The code carries {mutual} about the training {nouns.source}, of at most log N = {train.ceiling_nats:.2f}"
    )
    if train.at_ceiling:
        sentence += ": the estimate has reached its ceiling, so it is a lower bound and the marginal KL an upper one"
    return f"{sentence}."


def code_emptied(report: Report) -> str | None:
    """That the code carries next to nothing, whatever its dimensions look like, and what to change; None: it does not.

    A posterior mean that varies by a tenth of the prior's spread makes a dimension an active one (Burda, Grosse &
    Salakhutdinov, "Importance Weighted Autoencoders", 2016, section 5.2), and half a hundredth of a nat pays for that;
    so the count of active ones is told beside the nats and never alone.
    """
    train, dimensions = report.surgery.train, report.surgery.dimensions
    if train is None or train.ceiling_nats < 4 * NEARLY_EMPTY_NATS:
        return None
    mutual = train.mutual_information_nats
    if mutual.value + NOISE * (mutual.standard_error or 0) >= NEARLY_EMPTY_NATS:
        return None
    counted = ""
    if dimensions is not None:
        counted = f", though {dimensions.num_active} of {dimensions.num_dims} latent dimensions count as active"
        if not dimensions.num_active:
            counted = f", and none of its {dimensions.num_dims} dimensions is active"
    remedy = f": {report.if_empty}" if report.if_empty else ""
    return f"The code has all but collapsed ({mutual.value:.2f} nats{counted}){remedy}."


def _collapse(surgery: Surgery, nouns: Nouns) -> str | None:
    if surgery.dimensions is None:
        return None
    active, num = surgery.dimensions.num_active, surgery.dimensions.num_dims
    collapsed = surgery.dimensions.num_collapsed
    if active == num and not collapsed:
        return None
    if active == 0:
        return f"None of the {num} latent dimensions is active: the code says nothing about the {nouns.source}."
    sentence = f"{active} of {num} latent dimensions are active (their posterior means vary over {nouns.sources})"
    return f"{sentence}; {collapsed} have collapsed to the prior." if collapsed else f"{sentence}."


def _left(name: str, report: Report) -> str | None:
    """What is left between samples and real images, and whose fault it is; without a decoder, it is the prior's."""
    title = BASELINES[name] if name == report.baseline else name
    row = report.row(name)
    apart = None if report.carries_unchanged else _left_images(row, report)
    if report.nouns is LATENTS:
        apart = _left_latents(row, report)
    parts = [part for part in (_left_nats(name, report.surgery, report.nouns), apart) if part]
    return f"What is left with {title}: {'; '.join(parts)}." if parts else None


def _left_nats(name: str, surgery: Surgery, nouns: Nouns) -> str | None:
    """How much of the marginal KL on training images a prior should not win: q(z) of other images costs more."""
    splits = (surgery.train, surgery.test)
    train, test = (None if split is None else split.priors.get(name) for split in splits)
    if train is None or test is None or train.cross_entropy_nats is None or test.cross_entropy_nats is None:
        return None
    seen, unseen = train.cross_entropy_nats, test.cross_entropy_nats
    excess = unseen.value - seen.value
    costs = f"-log p(z) is {_nats(seen)} on training and {_nats(unseen)} on test {nouns.many}"
    is_real = beyond_noise(excess, seen.standard_error, unseen.standard_error)
    if is_real is False:
        noise = "a difference inside the noise"
        return f"in nats the prior serves unseen {nouns.many} as well as seen ones ({costs}, {noise})"
    if is_real is None:
        return costs
    if excess > 0:
        of = f"of the training {nouns.many} that unseen ones lack"
        return f"in nats the prior has fitted {excess:.2f} nats {of} ({costs})"
    return f"in nats unseen {nouns.many} cost {-excess:.2f} nats less than seen ones ({costs})"


def _memory(learned: list[str], test: Decomposition | None, nouns: Nouns) -> str | None:
    """Why no prior should bring the marginal KL on training images to zero."""
    priors = {} if test is None else test.priors
    rates = {
        name: under.rate_nats
        for name in (TRAINING_AGGREGATE, *learned)
        if (under := priors.get(name)) is not None and under.rate_nats is not None
    }
    aggregate = rates.pop(TRAINING_AGGREGATE, None)
    if aggregate is None or not rates:
        return None
    others = ", ".join(f"{rate.value:.2f} under {name}" for name, rate in rates.items())
    best = min(rates.values(), key=lambda rate: rate.value)
    if beyond_noise(aggregate.value - best.value, aggregate.standard_error, best.standard_error) is False:
        end = "a difference inside the noise"
    elif aggregate.value > best.value:
        end = f"so part of the KL on training {nouns.many} is memory of them and no fault of the prior"
    else:
        end = "so a better prior is possible"
    rate = f"A test {nouns.one} has a rate of {_nats(aggregate)}"
    return f"{rate} under the aggregate of the training {nouns.many} itself ({others}), {end}."


def _left_images(row: Row, report: Report) -> str | None:
    has_draws = report.row(AGGREGATE).frechet_distance is not None
    decoded = report.row(AGGREGATE if has_draws else RECONSTRUCTIONS)
    distance, best = row.frechet_distance, decoded.frechet_distance
    if distance is None or best is None:
        return None
    real = report.row(TRAIN_AGAINST_TEST).frechet_distance or 0.0
    by_prior, by_decoder = distance - best, best - real
    what = "decoded draws of q(z)" if has_draws else "reconstructions"
    spell = f"Frechet distance {distance:.3f}, {what} {best:.3f}, training images {real:.3f}"
    if beyond_noise(by_prior, _spread(row), _spread(decoded)) is False:
        return f"its samples are as near to test images as {what}, so what is left is the decoder's ({spell})"
    if by_prior <= 0:
        return f"its samples are nearer to test images than {what}, so what is left is the decoder's ({spell})"
    if by_decoder <= 0:
        return f"the prior's fault alone ({spell})"
    share = by_prior / (by_prior + by_decoder)
    mainly = "mostly the prior's fault" if share > 0.6 else "mostly the decoder's" if share < 0.4 else "shared"
    return f"in images {mainly}: {share:.0%} of the distance is the prior's, {1 - share:.0%} the decoder's ({spell})"


def _left_latents(row: Row, report: Report) -> str | None:
    """How much further from test latents samples are than draws of q(z) of training latents: the prior's alone."""
    drawn = report.row(AGGREGATE)
    distance, best = row.frechet_distance, drawn.frechet_distance
    if distance is None or best is None:
        return None
    what = "draws of q(z) of training latents"
    spell = f"Frechet distance {distance:.3f}, {what} {best:.3f}"
    if beyond_noise(distance - best, _spread(row), _spread(drawn)) is False or distance <= best:
        return f"its samples are as near to test latents as {what}, so no distance is left ({spell})"
    return f"its samples are further from test latents than {what} ({spell})"


def _spread(row: Row) -> float | None:
    return row.spread.get("frechet_distance")


def beyond_noise(difference: float, *spreads: float | None) -> bool | None:
    """Whether a difference of two figures is more than noise; None where a spread is missing."""
    known = [spread for spread in spreads if spread is not None]
    return None if len(known) < len(spreads) else abs(difference) > NOISE * math.hypot(*known)


def _nats(estimate: Estimate) -> str:
    error = estimate.standard_error
    return f"{estimate.value:.2f} nats" if error is None else f"{estimate.value:.2f} ± {error:.2f} nats"
