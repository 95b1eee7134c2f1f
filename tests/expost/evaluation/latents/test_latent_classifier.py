"""The classifier of latents: right where classes differ, by chance where they do not."""

import pytest
import torch

from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.classifier import MOST_INPUTS, LatentClassifier, inputs_of


def test_classes_of_vectors_are_told_apart_and_held_out_latents_say_how_well() -> None:
    torch.manual_seed(0)
    labels = torch.arange(1500) % 3 * 2  # classes need not follow each other
    z = torch.randn(1500, 4) + 4 * torch.nn.functional.one_hot(labels, 5)[:, [0, 2, 4, 1]].float()
    classifier = LatentClassifier.train(z[:1000], labels[:1000])
    assert classifier.held_out_accuracy > 0.9
    assert (classifier.classify(z[1000:]) == labels[1000:]).double().mean() > 0.9
    blind = LatentClassifier.train(torch.randn(1000, 4), labels[:1000])
    assert blind.held_out_accuracy < 0.45 and "right on held-out" in blind.description


@pytest.mark.parametrize(("places", "size"), [(6, 10), (64, 4096)])
def test_codes_have_no_order_and_their_inputs_are_bounded(places: int, size: int) -> None:
    torch.manual_seed(0)
    labels = torch.arange(600) % 2
    z = torch.randint(0, size, (600, places))
    z[:, :3] = torch.where(labels[:, None] == 1, 2 * (z[:, :3] // 2) % 8, 2 * (z[:, :3] // 2) % 8 + 1)  # even or odd
    classifier = LatentClassifier.train(z, labels, num_codes=size)
    assert classifier.held_out_accuracy > 0.9
    inputs = inputs_of(z, size)
    assert inputs.shape[1] == min(places * size, MOST_INPUTS) and inputs.sum() == z.numel()


def test_a_class_may_be_rare() -> None:
    torch.manual_seed(0)
    labels = (torch.arange(200) > 197).long()
    assert LatentClassifier.train(torch.randn(200, 2), labels).held_out_accuracy > 0.9


def test_too_few_latents_or_one_class_are_refused() -> None:
    z = torch.randn(60, 2)
    for latents, labels in ((z[:40], torch.arange(40) % 2), (z, torch.zeros(60, dtype=torch.int64))):
        with pytest.raises(EvaluationError, match="two classes"):
            LatentClassifier.train(latents, labels)
    z[3, 1] = torch.nan
    with pytest.raises(EvaluationError, match="NaN"):
        LatentClassifier.train(z, torch.arange(60) % 2)
