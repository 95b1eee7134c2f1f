"""Several runs in one table: which prior is better, and is the difference more than noise?

What may stand beside what. Distances between images need the same data, the same feature net, the same number of
samples and the same reference split: runs that differ there are refused. Bounds on log p(x) compare two models only
where both score the same images under likelihoods of one kind (a Bernoulli mass of binary pixels and a density of grey
ones differ by what they count, not by how good they are): each likelihood gets a block of its own. Rates and other
figures of the latent space depend on the posterior that stage 1 learned, so a best one is looked for among the priors
of one VAE alone.

Seeds and noise of a line: `expost.evaluation.comparison.lines`. The best learned prior of a column is marked where it
leads every other (or N(0, I), where it is the only one) by more than the noise of that lead: `needed_lead`.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from scipy import stats

from expost.evaluation import distances
from expost.evaluation.comparison.lines import Line, Value, available, lines_of
from expost.evaluation.comparison.sources import Source, refuse_different
from expost.evaluation.errors import EvaluationError
from expost.evaluation.nouns import LATENTS, Nouns
from expost.evaluation.report import FIGURES, Report
from expost.evaluation.row_names import BASELINES
from expost.evaluation.verdict import NOISE
from expost.evaluation.views import conditions, shared_notes

BOUNDS = frozenset({"distortion_nats", "elbo_nats", "iwae_nats", "ais_nats", "bits_per_dim"})
"""Comparable under one likelihood."""
OF_IMAGES = frozenset({*distances.FIGURES, "memorisation", "class_accuracy"})
"""Comparable whatever made the images."""
OF_STAGE1 = "distortion_nats"
"""The same under every prior of a VAE: no prior leads in it."""
SORTED_BY = ("frechet_distance", "iwae_nats", "elbo_nats", "latent_nll_nats", "fit_seconds")
"""What a table is sorted by unless one is asked for: the first of these that there is; of latents without images, nats
before distances, of which a Frechet distance is blind to all but means and covariances."""


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    data: name of the data set.
    sort: the figure that the priors are sorted by, best first; floors and ceilings stand below them.
    columns: figures that some line has.
    blocks: title -> lines; one block unless some figures must not be compared across.
    conditions, notes: what a reader must know.
    runs: names.
    """

    data: str
    sort: str
    columns: tuple[str, ...]
    blocks: Mapping[str, tuple[Line, ...]]
    conditions: str
    notes: tuple[str, ...]
    runs: tuple[str, ...]

    @property
    def lines(self) -> list[Line]:
        return [line for lines in self.blocks.values() for line in lines]

    @property
    def names_vaes(self) -> bool:
        """Whether there is more than one VAE, so that a line must say its own."""
        return len({line.vae for line in self.lines}) > 1


def compare(sources: Sequence[Source], sort: str | None = None) -> Comparison:
    """One table of all `sources`; `sort` names a figure.

    Raises:
        EvaluationError: there is no run, they cannot be compared, or none has the figure `sort`.
    """
    if not sources:
        raise EvaluationError("there is no run to compare")
    refuse_different(sources)
    columns = available(sources)
    if not columns:
        raise EvaluationError(f"{sources[0].name} and the others hold no figure; run stage=evaluate")
    preferred = ("latent_nll_nats", *SORTED_BY) if sources[0].report.nouns is LATENTS else SORTED_BY
    sort = sort or next((key for key in preferred if key in columns), columns[0])
    if sort not in columns:
        raise EvaluationError(f"sort={sort}: no run has that figure; choices: {', '.join(columns)}")
    lines = _marked(list(lines_of(sources, columns)), columns)
    lines.sort(key=lambda line: _place(line, sort))
    blocks = _blocks(lines, sort)
    first = sources[0].report
    return Comparison(
        data=first.data,
        sort=sort,
        columns=columns,
        blocks=blocks,
        conditions=" ".join([conditions(first), *_bound_conditions(first, columns)]),
        notes=tuple(_notes(lines, first.nouns)),
        runs=tuple(source.name for source in sources),
    )


def _scope(key: str) -> Callable[[Line], str]:
    """What a line must share with another for the figure to be compared."""
    if key in OF_IMAGES:
        return lambda line: ""
    return (lambda line: line.likelihood) if key in BOUNDS else (lambda line: line.vae)


def _marked(lines: list[Line], columns: Sequence[str]) -> list[Line]:
    """The lines with `leads` set where a learned prior is best by more than the noise."""
    for key in columns:
        if not FIGURES[key].better or key == OF_STAGE1:
            continue
        scope = _scope(key)
        for _, peers in groupby(sorted((line for line in lines if key in line.values), key=scope), key=scope):
            if (winner := _leader(list(peers), key)) is not None:
                value = replace(winner.values[key], leads=True)
                lines[lines.index(winner)] = replace(winner, values={**winner.values, key: value})
    return lines


def _leader(lines: Sequence[Line], key: str) -> Line | None:
    learned = sorted(
        (line for line in lines if line.is_learned and not line.memorises),
        key=lambda line: _cost(line.values[key].mean, key),
    )
    rivals = learned[1:] or [line for line in lines if line.row in BASELINES]
    if not learned or not rivals:
        return None
    first = learned[0].values[key]
    for rival in (line.values[key] for line in rivals):
        needed = needed_lead(first, rival)
        if needed is None or lead(first, rival, key) <= needed:
            return None
    return learned[0]


def lead(first: Value, rival: Value, key: str) -> float:
    """By how much `first` is better than `rival`: on the VAEs that both were measured on, where there are such."""
    common = first.by_vae.keys() & rival.by_vae.keys()
    pairs = [(_on(first, vae), _on(rival, vae)) for vae in common] or [(first.mean, rival.mean)]
    return statistics.fmean(_cost(theirs, key) - _cost(own, key) for own, theirs in pairs)


def needed_lead(first: Value, rival: Value) -> float | None:
    """The smallest lead that is no noise; None where the noise of either is unknown.

    Over images: two standard errors, which more seeds on the same images do not make fewer. Over seeds (`_over_seeds`):
    as many as Student's t wants for the same confidence, 95.4 %. The two are independent: their squares add up.
    """
    if first.noise is None or rival.noise is None:
        return None
    common = first.by_vae.keys() & rival.by_vae.keys()
    if len(common) == 1 and not all(_known_on(value, *common) for value in (first, rival)):
        return None
    error, degrees = _over_seeds(first, rival)
    over_images = math.hypot(first.spread or 0.0, rival.spread or 0.0)
    return math.hypot(NOISE * over_images, student_quantile(degrees) * error)


def _over_seeds(first: Value, rival: Value) -> tuple[float, int]:
    """Standard error of the lead over seeds, and its degrees of freedom; 0 and 1 where there is one seed alone.

    On several VAEs that both were measured on, that of the differences VAE by VAE: what a seed of stage 1 does to both
    is no noise. On one such VAE, over the seeds of the priors on it. On none, over all seeds of each. Where only one of
    the two has several seeds, the other's share is not known, and the error is a lower bound.
    """
    common = first.by_vae.keys() & rival.by_vae.keys()
    if len(common) > 1:
        differences = [_on(first, vae) - _on(rival, vae) for vae in common]
        return statistics.stdev(differences) / math.sqrt(len(common)), len(common) - 1
    if common:
        (vae,) = common
        numbers = [value.by_vae[vae] for value in (first, rival)]
        known = [(statistics.stdev(seeds), len(seeds)) for seeds in numbers if len(seeds) > 1]
    else:
        known = [(value.seed_std, value.num) for value in (first, rival) if value.seed_std is not None]
    if not known:
        return 0.0, 1
    return math.hypot(*(std / math.sqrt(num) for std, num in known)), min(num for _, num in known) - 1


def _known_on(value: Value, vae: str) -> bool:
    """Whether anything is known of the noise on this VAE: over images, or over seeds of the prior."""
    return value.spread is not None or len(value.by_vae[vae]) > 1


def _on(value: Value, vae: str) -> float:
    return statistics.fmean(value.by_vae[vae])


def student_quantile(degrees: int) -> float:
    """How many standard errors hold as much of Student's t as `NOISE` hold of a normal density."""
    return float(stats.t.isf(stats.norm.sf(NOISE), degrees))


def _cost(value: float, key: str) -> float:
    return -value if FIGURES[key].better == "↑" else value


def _place(line: Line, sort: str) -> tuple[bool, bool, float]:
    """Priors before floors, lines with the figure before those without, better before worse."""
    value = line.values.get(sort)
    return (not line.is_prior, value is None, 0.0 if value is None else _cost(value.mean, sort))


def _blocks(lines: Sequence[Line], sort: str) -> dict[str, tuple[Line, ...]]:
    """One block a likelihood; one a VAE where the sorting figure compares nothing else."""
    by_vae = sort not in OF_IMAGES and sort not in BOUNDS and bool(FIGURES[sort].better)
    by_vae = by_vae and len({line.vae for line in lines}) > 1
    blocks: dict[str, list[Line]] = {}
    for line in lines:
        if by_vae and line.vae_label:
            blocks.setdefault(f"{line.likelihood}, {line.vae_label}", []).append(line)
        elif not by_vae:
            blocks.setdefault(line.likelihood, []).append(line)
    return {title: tuple(members) for title, members in blocks.items()} or {"": tuple(lines)}


def _bound_conditions(report: Report, columns: Sequence[str]) -> list[str]:
    images, samples = report.num_bound_images, report.importance_samples
    if not BOUNDS.intersection(columns) or images is None or samples is None:
        return []
    return [f"Bounds: {images:,} test images, {samples:,} samples an image."]


def _notes(lines: Sequence[Line], nouns: Nouns) -> Iterator[str]:
    values = [value for line in lines for value in line.values.values()]
    if any(value.num > 1 for value in values):
        yield "± is the standard deviation over n seeds."
    if any(value.spread is not None and value.num == 1 for value in values):
        yield f"In brackets: standard deviation over resampled {nouns.many}."
    if any(value.noise is not None for value in values):
        yield "Bold: the best learned prior, where it leads every other by more than noise explains (95 %)."
    else:
        yield "Nothing is bold: these runs carry no measure of their noise."
    if len({line.likelihood for line in lines}) > 1:
        yield (
            "Likelihoods differ: bounds, distortion and bits/dim are comparable within a block only; distances between "
            f"{nouns.many} across blocks too."
        )
    if len({line.vae for line in lines}) > 1:
        yield "Rate, -log p(z) and other figures of the latent space are comparable among priors of one VAE only."
    if nouns is LATENTS:
        yield "Images were not looked at: these are figures of latents, without a decoder."
    yield from shared_notes((line.label, line.notes) for line in lines)
