"""Do samples that were asked of a class show that class? A classifier of real images says.

The accuracy is the mean over classes of the share that the classifier takes for what they are, so that every class
counts alike however many images it has. Samples that have nothing to do with their label reach one over the number of
classes, whatever the classifier. It sees classes and not quality: one perfect image a class would reach the top, so it
stands beside distances and never instead of them (Ravuri & Vinyals, "Classification Accuracy Score for Conditional
Generative Models", 2019, section 2).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.sections import Share

VERSION = 1
"""Part of the key of the evaluation of a conditional prior; raised whenever what it says of classes changes."""


@dataclass(frozen=True)
class ClassAccuracy:
    """Of images whose class is known.

    Attributes:
        mean: over classes, of the share that was taken for that class; its error is that over images.
        by_class: class -> its share; classes that no image is of are missing.
    """

    mean: Share
    by_class: Mapping[int, float]


def class_accuracy(taken_for: Tensor, labels: Tensor, classes: Tensor) -> ClassAccuracy | None:
    """How often images of the class `labels` [N] were `taken_for` [N] it, over `classes`; None where there is no image.

    The error is that of independent images within each class. Each class is given one image more of each outcome for
    it: few images that are all right do not make it nothing.
    """
    counted = torch.isin(labels, classes)
    if not counted.any():
        return None
    taken_for, labels = taken_for[counted], labels[counted]
    num_classes = int(labels.max()) + 1
    nums = torch.bincount(labels, minlength=num_classes).double()  # [classes]
    right = torch.bincount(labels[taken_for == labels], minlength=num_classes).double()
    there = nums > 0
    shares = right[there] / nums[there]
    likely = (right[there] + 1) / (nums[there] + 2)
    error = (likely * (1 - likely) / nums[there]).sum().sqrt().item() / len(shares)
    by_class = dict(zip(there.nonzero().squeeze(1).tolist(), shares.tolist(), strict=True))
    return ClassAccuracy(Share(shares.mean().item(), error, len(labels)), by_class)


@dataclass(frozen=True)
class ClassRow:
    """One class of a picture.

    Attributes:
        name: of the class.
        share: of its samples that a classifier takes for it.
        samples: [n, C, H, W] in [0, 1].
        images: of test images, [m, C, H, W]; there may be none.
    """

    name: str
    share: float
    samples: Tensor
    images: Tensor
