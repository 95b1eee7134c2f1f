"""Do samples that were asked of a class show that class? A classifier of real images says.

The accuracy is the mean over classes of the share that the classifier takes for what they are, so that every class
counts alike however many images it has. Samples that have nothing to do with their label reach one over the number of
classes, whatever the classifier. It sees classes and not quality: one perfect image a class would reach the top, so it
stands beside distances and never instead of them (Ravuri & Vinyals, "Classification Accuracy Score for Conditional
Generative Models", 2019, section 2).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

VERSION = 1
"""Part of the key of the evaluation of a conditional prior; raised whenever what it says of classes changes."""


@dataclass(frozen=True)
class ClassAccuracy:
    """Of images whose class is known.

    Attributes:
        value: mean over classes of the share that was taken for that class, in [0, 1].
        standard_error: of that mean, over images.
        num: images.
        by_class: class -> its share; classes that no image is of are missing.
    """

    value: float
    standard_error: float
    num: int
    by_class: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """`value`, `standard_error`, `num`."""
        return {"value": self.value, "standard_error": self.standard_error, "num": self.num}


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
    return ClassAccuracy(shares.mean().item(), error, len(labels), by_class)


def classes_followed(
    classes: Mapping[str, Any] | None, name: str, fitting: Mapping[str, Any] | None = None
) -> str | None:
    """The verdict on samples of the conditional prior `name`; None where there are none.

    A prior is held to what can be seen: not where the classifier takes real test images for their class no more often
    than by chance, nor where reconstructions of them have lost it already.

    Args:
        classes: of `expost.measure.classes`.
        name: of the prior.
        fitting: of `expost.measure.remedies`.
    """
    if not classes:
        return None
    mine, chance = classes["samples"], classes["chance"]
    real, decoded = classes["test_images"], classes["reconstructions"]
    if not _above(mine, chance) or (real is not None and not _above(real, chance)):
        return _not_followed(name, classes, "train it longer" if fitting is None else fitting["remedy"])
    beside = [
        f"{what} {_share(found)}"
        for found, what in ((decoded, "reconstructions of test images"), (real, "test images"))
        if found is not None
    ]
    return (
        f"Of {mine['num']:,} samples of {name}, equally many a class, a classifier takes {_share(mine)} for the class "
        f"that was asked for ({', '.join([f'chance {chance:.1%}', *beside])})."
    )


def _not_followed(name: str, classes: Mapping[str, Any], remedy: str) -> str:
    """Why samples do not show their class: the classifier, stage 1, noise, or in the end the prior."""
    mine, chance = classes["samples"], classes["chance"]
    real, decoded = classes["test_images"], classes["reconstructions"]
    untold = f"Whether samples of {name} follow their label cannot be told: a classifier takes {_share(mine)} of them"
    if real is not None and not _above(real, chance):
        return (
            f"{untold} for the class that was asked for, and {_share(real)} of real test images for theirs, no more "
            f"than by chance ({chance:.1%})."
        )
    if decoded is not None and not _above(decoded, chance):
        return (
            f"Samples of {name} do not show their class, and neither do reconstructions of test images: {_share(mine)} "
            f"and {_share(decoded)} are taken for it, by chance {chance:.1%}; it is lost in stage 1, and no prior "
            "brings it back."
        )
    if decoded is not None and not _further(decoded, mine):
        return (
            f"{untold} for the class that was asked for (by chance {chance:.1%}), and {_share(decoded)} of the "
            "reconstructions of test images for theirs, a difference inside the noise."
        )
    return (
        f"FAILED: samples of {name} do not follow their label: a classifier takes {_share(mine)} of them for the class "
        f"that was asked for, and would take {chance:.1%} by chance; {remedy}."
    )


def _above(found: Mapping[str, float], chance: float) -> bool:
    """Whether a share is above chance by more than its noise."""
    return found["value"] - chance > 2 * found["standard_error"]


def _further(found: Mapping[str, float], mine: Mapping[str, float]) -> bool:
    """Whether one share is above another by more than the noise of both."""
    return found["value"] - mine["value"] > 2 * math.hypot(found["standard_error"], mine["standard_error"])


def _share(found: Mapping[str, float]) -> str:
    return f"{found['value']:.1%} ± {found['standard_error']:.1%}"


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
