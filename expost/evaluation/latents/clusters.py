"""Are the components of a mixture classes? Images are sorted into components by their responsibilities, and the class
that each component stands for is found afterwards.

- One to one: components are matched to classes so that most images are right (Kuhn, "The Hungarian Method for the
  Assignment Problem", 1955); images of a component that is left over are wrong, so more components than classes cost
  accuracy, and fewer than classes cannot reach 1. The published convention, which is kept here, finds the matching on
  the very images that it is scored on (Xie, Girshick & Farhadi, "Unsupervised Deep Embedding for Clustering Analysis",
  2016, equation 10). Where a VAE was trained with labels, component k is class k and nothing is matched.
- Many to one: every component stands for the class that most of its images have. This is the purity; it rises with the
  number of components whatever they are.
- The mutual information of component and class over the mean of their entropies, which needs no matching (Strehl &
  Ghosh, "Cluster Ensembles", 2002, with the arithmetic mean).
"""

import math

import torch
from torch import Tensor

from expost.evaluation.sections import Clusters, Estimate

VERSION = 1
"""Part of the key of an evaluation whose VAE was trained to have clusters; raised whenever what it says changes."""


def match(counts: Tensor) -> Tensor:
    """The class of each component, int64 [K], -1 for one that is left over, of images counted by both, [K, C]."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    components, classes = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    matched = torch.full((len(counts),), -1)
    matched[torch.from_numpy(components)] = torch.from_numpy(classes)
    return matched


def count(component: Tensor, labels: Tensor, num_components: int, num_classes: int) -> Tensor:
    """Images by component and class, int64 [K, C], of the component [N] and the label [N] of each."""
    cells = torch.bincount(component * num_classes + labels, minlength=num_components * num_classes)
    return cells.view(num_components, num_classes)


def describe_clusters(counts: Tensor, classes_known: bool = False) -> Clusters:
    """What images counted by component and class [K, C] show; `classes_known`: component k is class k."""
    num = int(counts.sum())
    matched = torch.arange(len(counts)) if classes_known else match(counts)
    right = sum(int(counts[k, y]) for k, y in enumerate(matched.tolist()) if 0 <= y < counts.shape[1])
    return Clusters(
        num_components=len(counts),
        num_classes=counts.shape[1],
        num_images=num,
        classes_known=classes_known,
        accuracy=share_of(right, num),
        purity=share_of(int(counts.amax(1).sum()), num),
        nmi=normalised_information(counts),
        matched=tuple(matched.tolist()),
        counts=tuple(tuple(row) for row in counts.tolist()),
    )


def share_of(right: int, num: int) -> Estimate:
    """A share of independent images, and its standard error; as of one image more of each outcome, so that few images
    that are all right do not make it nothing."""
    likely = (right + 1) / (num + 2)
    return Estimate(right / num, math.sqrt(likely * (1 - likely) / num))


def normalised_information(counts: Tensor) -> float:
    """I(component; class) / mean of both entropies, 0 to 1; 0 where neither varies."""
    joint = counts.double() / counts.sum()
    entropies = [-torch.xlogy(p, p).sum().item() for p in (joint.sum(1), joint.sum(0), joint.flatten())]
    mean = (entropies[0] + entropies[1]) / 2
    return max(0.0, entropies[0] + entropies[1] - entropies[2]) / mean if mean > 0 else 0.0
