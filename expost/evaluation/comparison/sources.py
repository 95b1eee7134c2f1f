"""One run of a comparison: its stored report, checked, and what may not differ between two of them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expost.evaluation.errors import EvaluationError
from expost.evaluation.nouns import LATENTS
from expost.evaluation.report import FIGURES, Report
from expost.evaluation.sections import Provenance

MOST_NAMED = 3
COMPARED = (
    "data",
    "features",
    "rows",
    "reference",
    "num_samples",
    "num_bound_images",
    "importance_samples",
    "neighbours",
    "annealing_settings",
    "provenance",
    "judged",
)
"""Keys of `report.json` that a comparison reads; what another version wrote under any other is no reason to refuse."""


@dataclass(frozen=True)
class Source:
    """One run.

    Attributes:
        name: of its folder.
        report: what a comparison reads of its `report.json`.
    """

    name: str
    report: Report

    @property
    def provenance(self) -> Provenance:
        return self.report.provenance or Provenance()

    @property
    def vae(self) -> str:
        """Key of the trained VAE; of latents that came without one, their fingerprint."""
        return self.provenance.vae or (self.provenance.data or "" if self.report.nouns is LATENTS else "")

    @property
    def prior(self) -> str:
        """Key of the fitted prior; in reports that do not say it, of this very measurement."""
        return self.provenance.prior or self.evaluation

    @property
    def age(self) -> tuple[str, str]:
        """Sorts runs, those measured first to the front; a report without a date is older than any other."""
        return self.provenance.date or "", self.name

    @property
    def evaluation(self) -> str:
        """What tells this measurement from every other."""
        return self.provenance.evaluation or self.name

    @property
    def vae_recipe(self) -> str:
        """Identity of the VAE up to its seed; in reports that do not say it, of this very VAE."""
        return self.provenance.vae_recipe or self.vae

    @property
    def prior_recipe(self) -> str:
        """Identity of the prior up to its seed; in reports that do not say it, of this very fit."""
        return self.provenance.prior_recipe or self.prior

    @property
    def vae_label(self) -> str:
        return self.provenance.stage1 or f"VAE {self.vae[:6]}"

    @property
    def prior_label(self) -> str:
        fitted = (name for name, row in self.report.rows.items() if row.fit_seconds)
        return self.provenance.stage2 or next(fitted, "none")

    @property
    def likelihood(self) -> str:
        """Likelihood and preprocessing in words; an older report that does not say is comparable to its VAE alone."""
        return self.provenance.likelihood or f"likelihood of VAE {self.vae[:6]}"


def read(name: str, text: str) -> Source:
    """The run `name` from the text of its `report.json`.

    Raises:
        EvaluationError: it is no report, or one that was damaged.
    """
    try:
        stored = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{name}: report.json is damaged ({error}); write it again with stage=report") from error
    try:
        refuse_foreign(stored)
        return Source(name, Report.from_json({key: stored[key] for key in COMPARED if key in stored}))
    except EvaluationError as error:
        raise EvaluationError(
            f"{name}: report.json is not a report of this project ({error}); leave this run out"
        ) from error


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def refuse_foreign(stored: Any) -> None:
    """Raises:
    EvaluationError: `stored` is no report; the message is what is wrong with it.
    """
    if not isinstance(stored, dict):
        raise EvaluationError("no mapping")
    for key, kind in {"data": str, "features": str, "rows": dict, "provenance": dict}.items():
        if not isinstance(stored.get(key), kind):
            raise EvaluationError(f"no {key}")
    for key in ("data",) if stored.get("judged") == "latents" else ("vae", "data"):
        if not isinstance(stored["provenance"].get(key), str):
            raise EvaluationError(f"no provenance.{key}")
    if not isinstance(stored.get("annealing_settings") or {}, dict):
        raise EvaluationError("annealing_settings")
    if not stored["rows"]:
        raise EvaluationError("no rows")
    for name, row in stored["rows"].items():
        if not isinstance(row, dict) or not isinstance(row.get("notes", []), list):
            raise EvaluationError(f"row {name}")
        spread = row.get("spread") or {}
        if not isinstance(spread, dict):
            raise EvaluationError(f"row {name}, spread")
        for key in FIGURES:
            if not (_is_number(row.get(key)) and _is_number(spread.get(key))):
                raise EvaluationError(f"row {name}, {key}={row.get(key)!r}")


def _is_number(value: Any) -> bool:
    """A finite number, or none."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _features(source: Source) -> str:
    key = source.provenance.features
    return source.report.features + (f" ({key[:8]})" if key is not None else "")


def _annealing(source: Source) -> str | None:
    if all(row.ais_nats is None for row in source.report.rows.values()):
        return None
    settings = sorted((source.report.annealing_settings or {}).items())
    # images of bdmc_images check, and move no bound
    return ", ".join(f"{name}={value}" for name, value in settings if name != "bdmc_images") or "not told"


MUST_AGREE: Mapping[str, Callable[[Source], str | None]] = {
    "kinds": lambda source: f"{source.report.nouns.many} were judged",
    "data": lambda source: f"{source.report.data} ({(source.provenance.data or '')[:8]})",
    "feature nets": _features,
    "reference splits": lambda source: str(source.report.reference),
    "numbers of samples": lambda source: str(source.report.num_samples),
    "numbers of bounded images": lambda source: str(source.report.num_bound_images),
    "importance samples": lambda source: str(source.report.importance_samples),
    "neighbours": lambda source: str(source.report.neighbours or "not told"),
    "annealing settings": _annealing,
}
"""What a figure depends on beside the model, in words -> its value in a run; None where no figure of the run does."""


def comparable(one: Source, other: Source) -> bool:
    """Whether the two may stand in one table."""
    terms = ((of(one), of(other)) for of in MUST_AGREE.values())
    return all(a == b or None in (a, b) for a, b in terms)


def beside(first: Source, sources: Sequence[Source]) -> list[Source]:
    """Those of `sources` that may stand in one table with `first` and with each other, newer ones chosen first."""
    chosen = [first]
    for source in sorted(sources, key=lambda source: source.age, reverse=True):
        if source is not first and all(comparable(source, other) for other in chosen):
            chosen.append(source)
    return [source for source in sources if any(source is other for other in chosen)]


def refuse_different(sources: Sequence[Source]) -> None:
    """Raises:
    EvaluationError: for runs that cannot stand in one table; which, why, and how to choose.
    """
    for what, of in MUST_AGREE.items():
        groups: dict[str, list[str]] = {}
        for source in sources:
            if (value := of(source)) is not None:
                groups.setdefault(value, []).append(source.name)
        if len(groups) > 1:
            values = "; ".join(f"{value}: {_first_few(names)}" for value, names in groups.items())
            choice = _first_few(max(groups.values(), key=len), ",")
            raise EvaluationError(
                f"runs of different {what} cannot be compared ({values}); choose with compare.runs=[{choice}]"
            )


def _first_few(names: Sequence[str], separator: str = ", ") -> str:
    shown = list(names[:MOST_NAMED]) + (["..."] if len(names) > MOST_NAMED else [])
    return separator.join(shown)
