"""Samples of a conditional prior, class by class, as the classifier of the data set's own labels sees them.

Equally many are drawn of each class of the training images, as `sample.label` draws them, without any knob. The floor
is chance; the ceilings are the test images that the report's other figures are measured on, and their reconstructions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expost.evaluation.images.class_accuracy import ClassAccuracy, ClassRow, class_accuracy
from expost.evaluation.images.features import FeatureNet
from expost.evaluation.report import Row
from expost.evaluation.row_names import RECONSTRUCTIONS
from expost.evaluation.sections import Classes, ClassShares
from expost.measure.image_sets import num_compared, reference_rows
from expost.measure.subject import ImageSubject, clean_images
from stage1_vae.data.images import subset
from stage1_vae.rows import spread_rows

MOST_PICTURED, SAMPLES_PICTURED, IMAGES_PICTURED = 20, 10, 4
"""Classes, and of each of them samples and test images."""


@dataclass(frozen=True)
class ConditionalSamples:
    """What was measured of a conditional prior: `facts` for the report, and the `rows` of the picture, of many classes
    some, evenly spread."""

    facts: Classes
    rows: list[ClassRow]


def measure_classes(
    subject: ImageSubject, classifier: FeatureNet, limit: int, notes: list[str]
) -> ConditionalSamples | None:
    """Draw, decode and classify samples of every class; None, with a note, where that is not possible.

    Args:
        subject: with a conditional prior, sampled from torch's global generator.
        classifier: the data set's own net.
        limit: images that the report's figures are measured on at most; as many samples, rounded to whole classes.
        notes: takes what is missing, in words.
    """
    known = subject.parts.data.train.labels
    if known is None or classifier.config.num_classes == 0:
        notes.append("the training images are all of one class: there is no classifier to judge conditional samples")
        return None
    present = torch.unique(known.cpu())
    num = num_compared(subject.parts.data, limit)
    labels = present.repeat(max(1, num // len(present)))  # every class in turn: the first few hold all of them
    z = subject.draw(subject.prior, len(labels), labels)
    if z.is_floating_point() and not torch.isfinite(z).all():
        notes.append("some conditional samples are NaN or infinite, so no class was judged")
        return None
    pictured = present[spread_rows(len(present), MOST_PICTURED)]
    taken_for, drawn = classify(classifier, subject.decode(z), labels, pictured, SAMPLES_PICTURED)
    samples = class_accuracy(taken_for, labels, present)
    assert samples is not None
    names = subject.parts.data.class_names
    reconstructions, test_images, real = classify_test_images(subject, classifier, num, present, pictured)
    if real is None:
        notes.append("the test images have no labels, so the class accuracy of samples has no ceiling")
        real = {y: torch.zeros(0, *classifier.config.shape) for y in pictured.tolist()}
    by_class = [{} if kind is None else kind.by_class for kind in (samples, reconstructions, test_images)]
    facts = Classes(
        num_a_class=len(labels) // len(present),
        chance=1 / len(present),
        judge=describe(classifier),
        samples=samples.mean,
        reconstructions=None if reconstructions is None else reconstructions.mean,
        test_images=None if test_images is None else test_images.mean,
        by_class=tuple(ClassShares(y, names[y], *(shares.get(y) for shares in by_class)) for y in present.tolist()),
    )
    rows = [ClassRow(names[y], samples.by_class[y], drawn[y], real[y]) for y in pictured.tolist()]
    return ConditionalSamples(facts, rows)


def classify_test_images(
    subject: ImageSubject, classifier: FeatureNet, num: int, present: Tensor, pictured: Tensor
) -> tuple[ClassAccuracy | None, ClassAccuracy | None, dict[int, Tensor] | None]:
    """What the classifier takes reconstructions and test images for, and some images of each `pictured` class; nothing
    where test images have no labels."""
    shown = subset(subject.parts.data.test, num)
    if shown.labels is None:
        return None, None, None
    labels = shown.labels.cpu()  # [num]
    taken_for, real = classify(classifier, clean_images(subject.parts, shown), labels, pictured, IMAGES_PICTURED)
    decoded = subject.decode(subject.test.draw(reference_rows(subject.parts.data, num)))
    again, _ = classify(classifier, decoded, labels, pictured[:0], 0)
    return class_accuracy(again, labels, present), class_accuracy(taken_for, labels, present), real


def classify(
    classifier: FeatureNet, blocks: Iterator[Tensor], labels: Tensor, pictured: Tensor, few: int
) -> tuple[Tensor, dict[int, Tensor]]:
    """What each image of a stream is taken for, [N], and the first `few` images of each `pictured` class.

    `blocks` [b, C, H, W] in [0, 1]; `labels` [N] int64: the class of each.
    """
    taken_for: list[Tensor] = []
    first: dict[int, list[Tensor]] = {y: [] for y in pictured.tolist()}
    for block in blocks:
        taken_for.append(classifier.classify(block))
        of_block, labels = labels.tensor_split([len(block)])
        for y, images in first.items():
            images += block[of_block == y][: few - len(images)].unbind()
    none = torch.zeros(0, *classifier.config.shape)
    return torch.cat(taken_for), {y: torch.stack(images) if images else none for y, images in first.items()}


def describe(classifier: FeatureNet) -> str:
    """What the classifier is."""
    accuracy = classifier.config.held_out_accuracy
    return "a small classifier" + ("" if accuracy is None else f", {accuracy:.1%} right on held-out images")


def add_classes(rows: dict[str, Row], name: str, classes: Classes | None) -> None:
    """The figure of the conditional prior `name`, and of reconstructions, into their rows."""
    if classes is not None:
        rows[name] = rows[name].with_estimate("class_accuracy", classes.samples)
        if RECONSTRUCTIONS in rows:
            rows[RECONSTRUCTIONS] = rows[RECONSTRUCTIONS].with_estimate("class_accuracy", classes.reconstructions)


def class_table(classes: Classes) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows, one a class."""
    columns = ["label", "name", "samples", "reconstructions", "test_images"]
    return columns, [[getattr(shares, key) for key in columns] for shares in classes.by_class]
