"""What was taken of the user's files: the line before any work, and the facts in every report.

A guess about files is right until it is wrong; so it is said, beside what was left out, with the key that changes it.
"""

from expost.evaluation.sections import Dataset
from stage1_vae.data.images import Data, Domain, ImageData, InMemory
from stage1_vae.data.labels import list_names
from stage1_vae.data.latents.data import LatentData

FAMILY_WORDS = {
    "diagonal_normal": "means and standard deviations",
    "delta": "point masses",
    "codes": "codes",
    "bits": "bits",
    "power_spherical": "directions and concentrations",
    "truncated_normal": "normals cut to a box",
}
"""Family of posteriors -> what is held of each."""
OF_LATENTS = "latents: "
"""What the domain of latents begins with."""
SPLITS = {"train": "training", "val": "validation", "test": "test"}


def dataset_facts(data: Data) -> Dataset:
    """For report.json: images or latents of each split, shape, values, classes, guesses, what was left out."""
    low, high = value_range(data) or (None, None)
    left_out = tuple(data.left_out)
    if isinstance(data, LatentData):
        shape, domain, levels = data.spec.shape, f"{OF_LATENTS}{FAMILY_WORDS[data.train.family]}", None
        left_out += tuple(f"no {words}" for words in data.missing if words != "labels")  # said of the classes
    else:
        assert isinstance(data, ImageData)
        shape, domain, levels = data.shape, data.domain.value, data.levels
    return Dataset(
        name=data.name,
        num_images={split: len(getattr(data, split)) for split in SPLITS},
        shape=tuple(shape),
        domain=domain,
        levels=levels,
        smallest_value=low,
        largest_value=high,
        num_classes=data.num_classes,
        class_names=tuple(data.class_names),
        read_as=tuple(data.guesses),
        left_out=left_out,
    )


def value_range(data: Data) -> tuple[float, float] | None:
    """The smallest and the largest raw value: of what the source looked at, else of training images in memory."""
    if data.value_range is not None or not isinstance(data.train, InMemory) or not len(data.train):
        return data.value_range
    low, high = data.train.images.aminmax()
    return low.item(), high.item()


def describe(facts: Dataset) -> dict[str, str]:
    """The same in words: what is said -> how; for the line, the page and the card."""
    counts = ", ".join(f"{num:,} {SPLITS[split]}" for split, num in facts.num_images.items())
    parts = {
        what_is_held(facts): f"{counts}, {'x'.join(map(str, facts.shape))}",
        "values": _values(facts),
        "classes": f"{facts.num_classes:,} ({list_names(facts.class_names)})" if facts.num_classes else "no labels",
        "read as": "; ".join(facts.read_as),
        "left out": "; ".join(facts.left_out),
    }
    return {what: words for what, words in parts.items() if words}


def what_is_held(facts: Dataset) -> str:
    return "latents" if facts.domain.startswith(OF_LATENTS) else "images"


def _values(facts: Dataset) -> str:
    if facts.domain.startswith(OF_LATENTS):
        kind = facts.domain.removeprefix(OF_LATENTS)
        low, high = facts.smallest_value, facts.largest_value
        return kind if low is None else f"{kind}, {low:.6g} to {high:.6g}"
    kind = "real numbers" if facts.domain == Domain.REAL.value else "floats"
    kind = kind if facts.levels is None else f"{facts.levels} levels"
    low, high = facts.smallest_value, facts.largest_value
    return kind if low is None else f"{kind}, {low:.6g} to {high:.6g} seen"


def dataset_line(data: Data) -> str:
    """All of it in one line."""
    facts = dataset_facts(data)
    words = describe(facts)
    classes = f"{facts.num_classes:,} classes: {list_names(data.class_names)}" if data.num_classes else words["classes"]
    parts = [f"{data.name}: {words[what_is_held(facts)]}", words["values"], classes]
    parts += [f"{what} {words[what]}" for what in ("read as", "left out") if what in words]
    return " ".join("; ".join(parts).split())
