"""The net whose features all distances are measured in: the data set's own, trained once, or the user's file."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from expost.config.schema import Evaluation
from expost.evaluation.errors import EvaluationError
from expost.evaluation.images import feature_file, features
from expost.parts.assembly import ImageParts
from expost.store.artifacts import Artifact
from expost.store.safe import read_json
from expost.store.tensors import layouts, read_tensors

MAX_FEATURE_IMAGES = 100_000
MAX_FEATURE_PIXELS = 2**28
"""What the feature net is trained on is held in memory: 1 GiB of float32, or 1,365 images of 3 x 256 x 256."""


class Extractor(Protocol):
    """Images to features."""

    @property
    def description(self) -> str: ...
    def extract(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Nets:
    """What looks at the images of one evaluation.

    Attributes:
        features: whose features distances are measured in.
        classifier: that samples of a conditional prior are shown to; None for any other prior.
    """

    features: Artifact
    classifier: Artifact | None = None


def check_feature_file(settings: Evaluation) -> None:
    """Refuse, before any work, a feature file that is not what its checksum says.

    Raises:
        EvaluationError: or cannot be read; or a checksum without a file.
    """
    if settings.features is None and settings.features_sha256 is not None:
        raise EvaluationError("evaluation.features_sha256 is set, and no file is; give evaluation.features=FILE.pt too")
    if settings.features is not None:
        feature_file.checked_sha256(settings.features, settings.features_sha256)


def try_feature_file(settings: Evaluation, parts: ImageParts) -> None:
    """Run the user's net, before any work, on two blank images of the data's shape.

    Raises:
        EvaluationError: it holds no net, or one that cannot read such images or returns no feature vectors.
    """
    if settings.features is not None:
        net = feature_file.FeatureFile(settings.features, settings.features_sha256, parts.device)
        net.extract(torch.zeros(2, *parts.data.shape))


def num_feature_images(shape: tuple[int, ...]) -> int:
    """At most so many images of `shape` (C, H, W) train the net."""
    return min(MAX_FEATURE_IMAGES, MAX_FEATURE_PIXELS // math.prod(shape))


def fill_tensor(blocks: Iterator[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Blocks [b, C, H, W] one after the other in one tensor of `shape`; never all of them twice, as with `cat`."""
    images, start = torch.empty(shape), 0
    for block in blocks:
        images[start : start + len(block)] = block
        start += len(block)
    return images


def load_feature_net(artifact: Artifact, file: Path | None, device: torch.device) -> Extractor:
    """The net of the stage `features` on `device`: the user's `file`, or else the data set's own.

    Raises:
        EvaluationError: the user's file has changed since.
    """
    if file is None:
        return load_own_net(artifact, device)
    stored = read_json(artifact.path, "features.json")
    return feature_file.FeatureFile(file, stored["sha256"], device)


def load_own_net(artifact: Artifact, device: torch.device) -> features.FeatureNet:
    """The data set's own net on `device`."""
    net = features.FeatureNet.from_config(read_json(artifact.path, "features.json"))
    net.load_state_dict(read_tensors(artifact.path, "features.safetensors", layouts(net), None))
    return net.to(device)
