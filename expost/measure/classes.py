"""Samples of a conditional prior, class by class, as the classifier of the data set's own labels sees them.

Equally many are drawn of each class of the training images, as `sample.label` draws them, without any knob. The floor
is chance; the ceilings are the test images that the report's other figures are measured on, and their reconstructions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expost.evaluation.images.class_accuracy import ClassAccuracy, ClassRow, class_accuracy
from expost.evaluation.images.features import FeatureNet
from expost.evaluation.row_names import RECONSTRUCTIONS
from expost.measure.image_sets import num_compared, test_rows
from expost.measure.rows import put
from expost.measure.subject import Trained, cleaned
from stage1_vae.data.images import subset
from stage1_vae.rows import spread_rows

MOST_PICTURED, SAMPLES_PICTURED, IMAGES_PICTURED = 20, 10, 4
"""Classes, and of each of them samples and test images."""


@dataclass(frozen=True)
class Classes:
    """What was measured of a conditional prior.

    Attributes:
        facts: for the report, plain JSON values: `num_a_class`, `chance`, `judge` (the classifier in words);
            `samples`, `reconstructions`, `test_images`, each a `value` with its `standard_error` and `num`, None where
            no test image is of these classes; `by_class`: `label`, `name` and a share (or None) of each of the three.
        rows: of the picture; of many classes some, evenly spread.
    """

    facts: dict[str, Any]
    rows: list[ClassRow]


def judged_classes(trained: Trained, judge: FeatureNet, limit: int, notes: list[str]) -> Classes | None:
    """Draw, decode and judge samples of every class; None, with a note, where that is not possible.

    Args:
        trained: with a conditional prior, sampled from torch's global generator.
        judge: the data set's own net.
        limit: images that the report's figures are measured on at most; as many samples, rounded to whole classes.
        notes: takes what is missing, in words.
    """
    known = trained.parts.data.train.labels
    if known is None or judge.config.num_classes == 0:
        notes.append("the training images are all of one class: there is no classifier to judge conditional samples")
        return None
    present = torch.unique(known.cpu())
    num = num_compared(trained.parts.data, limit)
    labels = present.repeat(max(1, num // len(present)))  # every class in turn: the first few hold all of them
    z = trained.draw(trained.prior, len(labels), labels)
    if z.is_floating_point() and not torch.isfinite(z).all():
        notes.append("some conditional samples are NaN or infinite, so no class was judged")
        return None
    pictured = present[spread_rows(len(present), MOST_PICTURED)]
    taken_for, drawn = looked_at(judge, trained.decoded(z), labels, pictured, SAMPLES_PICTURED)
    samples = class_accuracy(taken_for, labels, present)
    assert samples is not None
    names = trained.parts.data.class_names
    ceilings, real = _of_test(trained, judge, num, present, pictured)
    if not ceilings:
        notes.append("the test images have no labels, so the class accuracy of samples has no ceiling")
    three = {"samples": samples, "reconstructions": None, "test_images": None} | ceilings
    facts = {
        "num_a_class": len(labels) // len(present),
        "chance": 1 / len(present),
        "judge": in_words(judge),
        **{key: found and found.to_json() for key, found in three.items()},
        "by_class": [
            {"label": y, "name": names[y], **{key: found and found.by_class.get(y) for key, found in three.items()}}
            for y in present.tolist()
        ],
    }
    rows = [ClassRow(names[y], samples.by_class[y], drawn[y], real[y]) for y in pictured.tolist()]
    return Classes(facts, rows)


def _of_test(
    trained: Trained, judge: FeatureNet, num: int, present: Tensor, pictured: Tensor
) -> tuple[dict[str, ClassAccuracy | None], dict[int, Tensor]]:
    """How the judge sees test images and their reconstructions, and some images of each `pictured` class; no accuracy
    where test images have no labels."""
    shown = subset(trained.parts.data.test, num)
    if shown.labels is None:
        return {}, {y: torch.zeros(0, *judge.config.shape) for y in pictured.tolist()}
    labels = shown.labels.cpu()  # [num]
    taken_for, real = looked_at(judge, cleaned(trained.parts, shown), labels, pictured, IMAGES_PICTURED)
    decoded = trained.decoded(trained.test.draw(test_rows(trained.parts.data, num)))
    again, _ = looked_at(judge, decoded, labels, pictured[:0], 0)
    of_test = {"reconstructions": class_accuracy(again, labels, present)}
    return of_test | {"test_images": class_accuracy(taken_for, labels, present)}, real


def looked_at(
    judge: FeatureNet, blocks: Iterator[Tensor], labels: Tensor, pictured: Tensor, few: int
) -> tuple[Tensor, dict[int, Tensor]]:
    """What each image of a stream is taken for, [N], and the first `few` images of each `pictured` class.

    Args:
        judge: of C, H, W.
        blocks: images [b, C, H, W] in [0, 1].
        labels: [N] int64, the class of each.
        pictured: classes.
        few: images.
    """
    taken_for: list[Tensor] = []
    kept: dict[int, list[Tensor]] = {y: [] for y in pictured.tolist()}
    start = 0
    for block in blocks:
        taken_for.append(judge.classify(block))
        of_block = labels[start : start + len(block)]
        for y, images in kept.items():
            if (missing := few - len(images)) > 0:
                images += block[of_block == y][:missing].unbind()
        start += len(block)
    none = torch.zeros(0, *judge.config.shape)
    return torch.cat(taken_for), {y: torch.stack(images) if images else none for y, images in kept.items()}


def in_words(judge: FeatureNet) -> str:
    """What the classifier is."""
    accuracy = judge.config.held_out_accuracy
    return "a small classifier" + ("" if accuracy is None else f", {accuracy:.1%} right on held-out images")


def add_classes(rows: Mapping[str, dict[str, Any]], name: str, classes: Classes | None) -> None:
    """The figure of the conditional prior `name`, and of reconstructions, into their rows."""
    if classes is not None:
        put(rows[name], "class_accuracy", classes.facts["samples"])
        put(rows[RECONSTRUCTIONS], "class_accuracy", classes.facts["reconstructions"])


def table_of(facts: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows, one a class."""
    columns = ["label", "name", "samples", "reconstructions", "test_images"]
    return columns, [[found[key] for key in columns] for found in facts["by_class"]]
