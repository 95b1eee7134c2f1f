"""Samples of a conditional prior without a decoder, class by class, as a classifier of latents sees them.

The classifier learns from training latents and their labels. Equally many samples are drawn of each class, as
`sample.label` draws them, without any knob. The floor is chance; the ceiling are test latents.
"""

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.images.class_accuracy import class_accuracy
from expost.evaluation.latents.features import LatentFeatures
from expost.evaluation.sections import Classes, ClassShares
from expost.measure.labelled.classes import ConditionalSamples
from expost.measure.latent_sets import draw_blocks, num_latents
from expost.measure.subject import Subject
from stage1_vae.latents import LatentDataset, Support
from stage1_vae.rows import spread_rows


def measure_latent_classes(
    subject: Subject, vectors: LatentFeatures | None, limit: int, notes: list[str]
) -> ConditionalSamples | None:
    """Draw and classify samples of every class; None, with a note, where that is not possible.

    Args:
        subject: with a conditional prior, sampled from torch's global generator.
        vectors: how latents become vectors; None: they are codes.
        limit: latents that the report's figures are measured on at most; as many samples, rounded to whole classes.
        notes: takes what is missing, in words.
    """
    from expost.evaluation.latents.classifier import MOST_LATENTS, LatentClassifier  # scikit-learn is slow to import

    train, test, spec = subject.train, subject.test, subject.train.spec
    of_codes = spec.support is Support.CODES
    if train.labels is None or (vectors is None and not of_codes):
        notes.append("training latents that never vary, or have no labels, show no class")
        return None

    def see(z: Tensor) -> Tensor:
        return z.flatten(1) if vectors is None else vectors.extract(z)

    def see_rows(latents: LatentDataset, rows: Tensor) -> Tensor:
        return torch.cat([see(z) for z in draw_blocks(latents, rows)])

    present, num = torch.unique(train.labels), num_latents(subject, limit)
    labels = present.repeat(max(1, num // len(present)))  # every class in turn
    rows = spread_rows(len(train), MOST_LATENTS)
    sizes = max(spec.num_codes) if of_codes else None
    try:
        classifier = LatentClassifier.train(see_rows(train, rows), train.labels[rows], sizes)
    except EvaluationError as error:
        notes.append(f"no class was judged: {error}")
        return None
    drawn = see(subject.draw(subject.prior, len(labels), labels))
    if not torch.isfinite(drawn).all():
        notes.append("some conditional samples are NaN or infinite, so no class was judged")
        return None
    samples, real = class_accuracy(classifier.classify(drawn), labels, present), None
    assert samples is not None
    if test.labels is None:
        notes.append("the test latents have no labels, so the class accuracy of samples has no ceiling")
    else:
        rows = spread_rows(len(test), num)
        real = class_accuracy(classifier.classify(see_rows(test, rows)), test.labels[rows], present)
    names = subject.parts.data.class_names
    facts = Classes(
        num_a_class=len(labels) // len(present),
        chance=1 / len(present),
        judge=classifier.description,
        samples=samples.mean,
        reconstructions=None,
        test_images=None if real is None else real.mean,
        by_class=tuple(
            ClassShares(y, names[y], samples.by_class.get(y), None, None if real is None else real.by_class.get(y))
            for y in present.tolist()
        ),
    )
    return ConditionalSamples(facts, [])
