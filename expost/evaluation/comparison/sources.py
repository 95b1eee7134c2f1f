"""One run of a comparison: its stored report, checked, and what may not differ between two of them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expost.evaluation.errors import EvaluationError
from expost.evaluation.report import FIGURES

MOST_NAMED = 3


@dataclass(frozen=True)
class Source:
    """One run.

    Attributes:
        name: of its folder.
        report: the content of its `report.json`.
    """

    name: str
    report: Mapping[str, Any]

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.report["provenance"]

    @property
    def vae(self) -> str:
        """Key of the trained VAE."""
        return str(self.provenance["vae"])

    @property
    def prior(self) -> str:
        """Key of the fitted prior; in reports that do not say it, of this very measurement."""
        return str(self.provenance.get("prior", self.evaluation))

    @property
    def age(self) -> tuple[str, str]:
        """Sorts runs, those measured first to the front; a report without a date is older than any other."""
        return str(self.provenance.get("date", "")), self.name

    @property
    def evaluation(self) -> str:
        """What tells this measurement from every other."""
        return str(self.provenance.get("evaluation", self.name))

    @property
    def vae_recipe(self) -> str:
        """Identity of the VAE up to its seed; in reports that do not say it, of this very VAE."""
        return str(self.provenance.get("vae_recipe", self.vae))

    @property
    def prior_recipe(self) -> str:
        """Identity of the prior up to its seed; in reports that do not say it, of this very fit."""
        return str(self.provenance.get("prior_recipe", self.prior))

    @property
    def vae_label(self) -> str:
        return str(self.provenance.get("stage1", f"VAE {self.vae[:6]}"))

    @property
    def prior_label(self) -> str:
        return str(self.provenance.get("stage2", next(iter(self.learned), "none")))

    @property
    def learned(self) -> list[str]:
        """Rows with a fit."""
        return [name for name, row in self.report["rows"].items() if row.get("fit_seconds")]

    @property
    def likelihood(self) -> str:
        """Likelihood and preprocessing in words; an older report that does not say is comparable to its VAE alone."""
        return str(self.provenance.get("likelihood", f"likelihood of VAE {self.vae[:6]}"))


def read(name: str, text: str) -> Source:
    """The run `name` from the text of its `report.json`.

    Raises:
        EvaluationError: it is no report, or one that was damaged.
    """
    try:
        report = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{name}: report.json is damaged ({error}); write it again with stage=report") from error
    if (problem := _problem(report)) is not None:
        raise EvaluationError(f"{name}: report.json is not a report of this project ({problem}); leave this run out")
    return Source(name, report)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _problem(report: Any) -> str | None:
    if not isinstance(report, dict):
        return "no mapping"
    for key, kind in {"data": str, "features": str, "rows": dict, "provenance": dict}.items():
        if not isinstance(report.get(key), kind):
            return f"no {key}"
    for key in ("vae", "data"):
        if not isinstance(report["provenance"].get(key), str):
            return f"no provenance.{key}"
    if not isinstance(report.get("annealing_settings") or {}, dict):
        return "annealing_settings"
    if not report["rows"]:
        return "no rows"
    for name, row in report["rows"].items():
        if not isinstance(row, dict) or not isinstance(row.get("notes", []), list):
            return f"row {name}"
        spread = row.get("spread") or {}
        if not isinstance(spread, dict):
            return f"row {name}, spread"
        for key in FIGURES:
            if not (_is_number(row.get(key)) and _is_number(spread.get(key))):
                return f"row {name}, {key}={row.get(key)!r}"
    return None


def _is_number(value: Any) -> bool:
    """A finite number, or none."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _data(source: Source) -> str:
    return f"{source.report['data']} ({source.provenance['data'][:8]})"


def _features(source: Source) -> str:
    key = source.provenance.get("features")
    return source.report["features"] + (f" ({str(key)[:8]})" if key is not None else "")


def _neighbours(source: Source) -> str:
    return str(source.report.get("neighbours") or "not told")


def _annealing(source: Source) -> str | None:
    if all(row.get("ais_nats") is None for row in source.report["rows"].values()):
        return None
    settings = source.report.get("annealing_settings") or {}
    told = {name: value for name, value in settings.items() if name != "bdmc_images"}  # they check, and move no bound
    return ", ".join(f"{name}={value}" for name, value in sorted(told.items())) or "not told"


MUST_AGREE: Mapping[str, Callable[[Source], str | None]] = {
    "data": _data,
    "feature nets": _features,
    "reference splits": lambda source: str(source.report.get("reference")),
    "numbers of samples": lambda source: str(source.report.get("num_samples")),
    "numbers of bounded images": lambda source: str(source.report.get("num_bound_images")),
    "importance samples": lambda source: str(source.report.get("importance_samples")),
    "neighbours": _neighbours,
    "annealing settings": _annealing,
}
"""What a figure depends on beside the model, in words -> its value in a run; None where no figure of the run does."""


def comparable(one: Source, other: Source) -> bool:
    """Whether the two may stand in one table."""
    terms = ((of(one), of(other)) for of in MUST_AGREE.values())
    return all(mine == theirs or None in (mine, theirs) for mine, theirs in terms)


def beside(first: Source, sources: Sequence[Source]) -> list[Source]:
    """Those of `sources` that may stand in one table with `first` and with each other, newer ones chosen first."""
    kept = [first]
    for source in sorted(sources, key=lambda source: source.age, reverse=True):
        if source is not first and all(comparable(source, other) for other in kept):
            kept.append(source)
    return [source for source in sources if any(source is chosen for chosen in kept)]


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
            told = "; ".join(f"{value}: {_some(names)}" for value, names in groups.items())
            choice = max(groups.values(), key=len)
            raise EvaluationError(
                f"runs of different {what} cannot be compared ({told}); choose with compare.runs=[{_some(choice, ',')}]"
            )


def _some(names: Sequence[str], separator: str = ", ") -> str:
    shown = list(names[:MOST_NAMED]) + (["..."] if len(names) > MOST_NAMED else [])
    return separator.join(shown)
