"""Latents that somebody else's autoencoder has made, in files; see `docs/latents.md`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage1_vae.data.images import DataError, Source
from stage1_vae.data.labels import Labels, read_labels
from stage1_vae.data.latents.arrays import Found, find_arrays
from stage1_vae.data.latents.assignment import Assigned, assign
from stage1_vae.data.latents.columns import Parameter
from stage1_vae.data.latents.data import LatentData, missing_of
from stage1_vae.data.latents.shapes import Reading, Shapes, code_sizes, shapes_of
from stage1_vae.data.latents.singles import find_crops, find_moments, recognise
from stage1_vae.data.latents.statistics import compare_statistics
from stage1_vae.data.latents.stored import Shelf
from stage1_vae.data.latents.survey import Facts, digest_of, survey
from stage1_vae.data.splits import existing_path
from stage1_vae.data.watched import Watched
from stage1_vae.latents import LatentDataset, LatentSpec, dependent_columns

DEPENDENT = ("compute", "keep")
LAYOUTS = ("auto", "arrays", "moments_npz", "latent_shards", "code_crops")


@dataclass(frozen=True)
class Latents(Source):
    """Latents in .npz, .npy or .safetensors files.

    Args:
        root: a file, or a folder of shards or of a file an image.
        layout: one of `LAYOUTS`.
        loc, log_std, std, log_var, var, moments, codes, bits, logits, probs: which array is that; None: by its name;
            False: none.
        label: which holds labels, or an .npy file, or a folder of such; None: by its name; False: none.
        label_column: of labels in several columns, the one to take.
        axes: of maps, in the order of the file, such as NHWC; None: by their sizes.
        grids: the maps (h, w) that a row of codes lays end to end; None: one.
        num_codes: codebook size, one or one a map; None: the largest code and one.
        groups: the array, or .npy file, that says which rows must not be split; None: none.
        dependent: of dimensions that are sums or repeats of others, "compute" them from those, so that a prior is of
            the others, or "keep" them: they are modelled like any other.
        val_fraction, test_fraction: what is cut, where files name no such split.
        memory_limit_gib: of arrays in compressed files, which cannot be read in part.
    """

    root: str | None
    layout: str = "auto"
    loc: str | bool | None = None
    log_std: str | bool | None = None
    std: str | bool | None = None
    log_var: str | bool | None = None
    var: str | bool | None = None
    moments: str | bool | None = None
    codes: str | bool | None = None
    bits: str | bool | None = None
    logits: str | bool | None = None
    probs: str | bool | None = None
    label: str | bool | None = None
    label_column: int | None = None
    axes: str | None = None
    grids: Sequence[Sequence[int]] | None = None
    num_codes: int | Sequence[int] | None = None
    groups: str | None = None
    dependent: str = "compute"
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    memory_limit_gib: float = 2.0

    def load(self) -> LatentData:
        if self.dependent not in DEPENDENT:
            raise DataError(f"data.dependent={self.dependent} is unknown: choose {' or '.join(DEPENDENT)}")
        path = existing_path(self.root, "a .npz, .npy or .safetensors file of latents, or a folder of them")
        began_ns = time.time_ns()
        found = self.find(path)
        columns = next(iter(found.columns.values()))
        kinds = tuple(columns)
        shapes = self.shapes(path, found, kinds)
        assigned = assign(
            {split: len(own[kinds[0]]) for split, own in found.columns.items()},
            found.groups,
            self.val_fraction,
            self.test_fraction,
            found.guesses,
        )
        labels, numbers = self._labels(path, found, assigned)
        facts = self.survey_all(found, shapes, kinds, assigned)
        spec = self._spec(found, shapes, facts, len(labels.names))
        readings = shapes.readings(kinds)
        provenance = {"data": path.stem, "files": str(path)}
        datasets = []
        for split, own in assigned.items():
            params = {
                name: column_of(found, own.source, kind, reading, shapes.event, spec.dtype(name)).of_rows(own.rows)
                for name, (kind, reading) in readings.items()
            }
            datasets.append(LatentDataset(spec, shapes.family, params, numbers.get(split), provenance))
        constant = self._constant(found, shapes, facts[assigned["train"].source])
        dependent = self._dependent(found, datasets[0])
        first = next(iter(readings))
        ranges = [own[first] for own in facts.values()]
        return LatentData(
            path.stem,
            *datasets,
            fingerprint=_fingerprint(spec, facts, assigned, numbers, labels),
            class_names=labels.names,
            value_range=(min(each.smallest for each in ranges), max(each.largest for each in ranges)),
            guesses=tuple(found.guesses),
            left_out=tuple(found.left_out),
            check_unchanged=Watched(found.paths, began_ns).check,
            style=shapes.style(kinds[0], found.name, columns[kinds[0]].dtype, found.label_name, found.suffix),
            missing=missing_of(kinds[0], len(kinds) > 1, bool(labels.names)),
            fractions=None if found.groups or "all" not in found.columns else (self.val_fraction, self.test_fraction),
            constant=constant,
            dependent=dependent,
        )

    def find(self, path: Path, has_train: bool = True) -> Found:
        """The arrays in files below `path`; `has_train`: some must be to train on."""
        if self.layout not in LAYOUTS:
            raise DataError(f"data.layout={self.layout} is unknown: choose {', '.join(LAYOUTS[:-1])} or {LAYOUTS[-1]}")
        shelf = Shelf(self.memory_limit_gib)
        layout = (recognise(path, shelf) or "arrays") if self.layout == "auto" else self.layout
        kinds = ("loc", "log_std", "std", "log_var", "var", "moments", "codes", "bits", "logits", "probs")
        keys: dict[str, str | bool] = {kind: name for kind in kinds if (name := getattr(self, kind)) is not None}
        if layout in ("moments_npz", "code_crops"):
            if keys:
                kind, name = next(iter(keys.items()))
                raise DataError(f"data.{kind}={name}: data.layout={layout} has its own names; leave one of them out")
            if not path.is_dir():
                raise DataError(f"data.layout={layout} is a file an image, and {path} is one file: name their folder")
            if self.groups is not None:
                raise DataError(f"data.groups={self.groups}: files of one image are groups already; leave it out")
            return (find_moments if layout == "moments_npz" else find_crops)(path, self.label, shelf)
        names = keys if self.label is None else {**keys, "label": self.label}
        found = find_arrays(path, names, self.groups, shelf, has_train)
        if layout == "latent_shards":
            if not found.groups:
                raise DataError(
                    f"data.layout=latent_shards has mirrored copies beside the latents, and {path} has none: leave the "
                    "layout out"
                )
            found.axes = "NCHW"
        return found

    def shapes(self, path: Path, found: Found, kinds: tuple[str, ...]) -> Shapes:
        """What one latent is, by the shapes of the arrays that were found."""
        stack = next(iter(found.columns.values()))[kinds[0]]
        what = f"{path} ({found.name})" if found.name else str(path)
        is_real = kinds[0] in ("loc", "moments") and len(stack.shape) == 4
        axes = (found.axes if is_real else None) if self.axes is None else self.axes
        return shapes_of(what, kinds, stack.shape, axes, self.grids, found.guesses)

    def _labels(self, path: Path, found: Found, assigned: dict[str, Assigned]) -> tuple[Labels, dict[str, np.ndarray]]:
        """Names of the classes, and numbers of each split, ours, that has labels."""
        none = Labels(np.zeros(0, np.int64), ())
        if not found.labels:
            if self.label_column is not None:
                raise DataError(f"data.label_column={self.label_column}: {path} has no labels; leave the key out")
            return none, {}
        parts = [part.reshape(len(part), -1) if part.ndim != 1 else part for part in found.labels.values()]
        if len({part.shape[1:] for part in parts}) > 1:
            raise DataError(
                f"{path}: labels of its splits have different shapes: save all splits alike, or set data.label=false"
            )
        rows = np.concatenate(parts)
        labels = read_labels(str(path), rows, len(rows), self.label_column, found.guesses)
        if labels.are_identities and self.label is None:
            found.left_out.append(
                f"labels of {len(labels.names):,} values for {len(rows):,} rows (data.label=NAME keeps them)"
            )
            return none, {}
        ends = np.cumsum([len(part) for part in parts])
        by_source = dict(zip(found.labels, np.split(labels.numbers, ends[:-1]), strict=True))
        numbers = {split: own.of(by_source[own.source]) for split, own in assigned.items() if own.source in by_source}
        counts = np.bincount(numbers["train"], minlength=len(labels.names))
        if not counts.all():
            name = labels.names[int(counts.argmin())]
            raise DataError(f"{path}: class {name} has no training latents: add some, or set data.label=false")
        if lacking := [split for split in assigned if split not in numbers]:
            found.left_out.append(f"figures of classes on {' and '.join(lacking)}, which has no labels")
        return labels, numbers

    def survey_all(
        self, found: Found, shapes: Shapes, kinds: tuple[str, ...], assigned: dict[str, Assigned]
    ) -> dict[str, dict[str, Facts]]:
        """Split of the files -> parameter -> what was seen."""
        sizes = code_sizes(self.num_codes, len(shapes.grids) or 1)
        if sizes is not None and shapes.family != "codes":
            raise DataError(f"data.num_codes={self.num_codes} is for codes, and these are {kinds[0]}: leave it out")
        lengths = [height * width for height, width in shapes.grids]
        limits = None if sizes is None else np.repeat(sizes, lengths)
        facts: dict[str, dict[str, Facts]] = {}
        for source, stacks in found.columns.items():
            train = assigned["train"]
            is_train = None
            if train.source == source and train.rows is not None:
                is_train = np.zeros(len(stacks[kinds[0]]), bool)
                is_train[train.rows] = True
            facts[source] = {}
            by_kind: dict[str, dict[str, Parameter]] = {}
            for name, (kind, reading) in shapes.readings(kinds).items():
                dtype = np.dtype(np.int64 if name == "codes" else np.float32)
                by_kind.setdefault(kind, {})[name] = column_of(found, source, kind, reading, shapes.event, dtype)
            for kind, columns in by_kind.items():  # those of one array read it once
                facts[source] |= survey(columns, kind, is_train, limits)
        return facts

    def _spec(self, found: Found, shapes: Shapes, facts: dict[str, dict[str, Facts]], num_classes: int) -> LatentSpec:
        if shapes.family != "codes":
            return shapes.spec((), num_classes)
        values = {value for own in facts.values() for value in (own["codes"].smallest, own["codes"].largest)}
        if len(values) == 1:
            raise DataError(
                f"{self.root}: all codes are {int(values.pop())}, so there is nothing that a prior could learn: look "
                "at the encoder that wrote them, or name another array, data.codes=NAME"
            )
        sizes = code_sizes(self.num_codes, len(shapes.grids))
        if sizes is None:
            highest = np.max([own["codes"].high_of_all for own in facts.values()], axis=0)  # [T]
            ends = np.cumsum([height * width for height, width in shapes.grids])
            sizes = tuple(max(2, int(part.max()) + 1) for part in np.split(highest, ends[:-1]))
            words = f"{sizes[0]:,}" if len(set(sizes)) == 1 else str(list(sizes))
            found.guesses.append(f"codebook of {words}, the largest code and one (data.num_codes otherwise)")
        return shapes.spec(sizes, num_classes)

    def _constant(self, found: Found, shapes: Shapes, facts: dict[str, Facts]) -> np.ndarray | None:
        """Which numbers of point masses are the same in all training rows; none of others are."""
        if shapes.family not in ("delta", "diagonal_normal"):
            return None
        loc = facts["loc"]
        path = Path(str(self.root)).expanduser()
        if len(shapes.event) == 3:
            compare_statistics(path if path.is_dir() else path.parent, loc.mean, loc.std, found.guesses)
        if shapes.family == "diagonal_normal":
            return np.zeros(shapes.event, bool)
        constant = np.asarray(loc.low == loc.high)
        if num := int(constant.sum()):
            found.guesses.append(f"{num:,} of {constant.size:,} dimensions never vary over the training latents")
        return constant

    def _dependent(self, found: Found, train: LatentDataset) -> tuple[int, ...]:
        """Which dimensions are computed from the others."""
        if self.dependent == "keep" or not (dependent := dependent_columns(train)):
            return ()
        are = "is a sum or repeat" if len(dependent) == 1 else "are sums or repeats"
        found.guesses.append(
            f"{len(dependent):,} of {train.spec.num_dims:,} dimensions {are} of others over the training latents and "
            "computed from them (data.dependent=keep models them like any other)"
        )
        return dependent


def column_of(
    found: Found, source: str, kind: str, reading: Reading, event: tuple[int, ...], dtype: np.dtype
) -> Parameter:
    """All rows of a parameter."""
    return Parameter(found.columns[source][kind], reading.kind, reading.arrange, event, dtype)


def _fingerprint(
    spec: LatentSpec,
    facts: dict[str, dict[str, Facts]],
    assigned: dict[str, Assigned],
    numbers: dict[str, np.ndarray],
    labels: Labels,
) -> str:
    """sha256 of content, labels and split assignment; how files hold them does not count."""
    parts: list[str | np.ndarray | None] = [repr(spec.to_json())]
    parts += [f"{source} {name} {fact.digest}" for source, own in facts.items() for name, fact in own.items()]
    for split, own in assigned.items():
        parts += [f"{split} of {own.source}", own.rows, numbers.get(split)]
    return digest_of([*parts, *labels.facts])
