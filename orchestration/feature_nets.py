"""The net whose features all distances are measured in: the data set's own, trained once, or the user's file."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from evaluation import class_accuracy, feature_file, features
from evaluation.errors import EvaluationError
from orchestration.assembly import Parts
from orchestration.build import version
from orchestration.foresight import feature_parts, foretell
from orchestration.progress import counting
from orchestration.safe import layouts, read_json, read_tensors
from orchestration.stages import Run, run_stage
from orchestration.store import Artifact
from orchestration.tracking import Tracker
from orchestration.trained import cleaned
from stage1_vae.data.images import spread

FEATURE_SEED = 0
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
        judge: the classifier that samples of a conditional prior are shown to; None for any other prior.
    """

    features: Artifact
    judge: Artifact | None = None

    @property
    def ingredients(self) -> dict[str, Any]:
        """Their part in the key of the evaluation."""
        judged = {} if self.judge is None else {"judge": self.judge.key, "classes": class_accuracy.VERSION}
        return {"features": self.features.key, **judged}


def check_feature_file(run: Run) -> None:
    """Refuse, before any work, a feature file that is not what its checksum says.

    Raises:
        EvaluationError: or cannot be read; or a checksum without a file.
    """
    settings = run.config.evaluation
    if settings.features is None and settings.features_sha256 is not None:
        raise EvaluationError("evaluation.features_sha256 is set, and no file is; give evaluation.features=FILE.pt too")
    if settings.features is not None:
        feature_file.checked_sha256(settings.features, settings.features_sha256)


def try_feature_file(run: Run, parts: Parts) -> None:
    """Run the user's net, before any work, on two blank images of the data's shape.

    Raises:
        EvaluationError: it holds no net, or one that cannot read such images or returns no feature vectors.
    """
    settings = run.config.evaluation
    if settings.features is not None:
        net = feature_file.FeatureFile(settings.features, settings.features_sha256, run.device)
        net.extract(torch.zeros(2, *parts.data.shape))


def feature_net(run: Run, parts: Parts) -> Artifact:
    """The data set's own net; for the user's file a note of which one it was."""
    return own_net(run, parts) if run.config.evaluation.features is None else _noted_file(run)


def nets_of(run: Run, parts: Parts) -> Nets:
    """The nets of one evaluation. The judge is the data set's own: a file of the user has no classes."""
    found = feature_net(run, parts)
    if not parts.prior.num_classes:
        return Nets(found)
    return Nets(found, found if run.config.evaluation.features is None else own_net(run, parts))


def own_net(run: Run, parts: Parts) -> Artifact:
    """The data set's own net, trained once a data set."""

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        some = spread(parts.data.train, num_feature_images(parts.data.shape))
        foretell(run, "features", lambda: feature_parts(run, parts, len(some)))
        images = filled(cleaned(parts, some), (len(some), *parts.data.shape))
        labels = None if some.labels is None else some.labels.cpu()
        with counting("features", run.shows_progress, tracker.log) as log:
            net = features.make_feature_net(images, labels, parts.data.num_classes, FEATURE_SEED, run.device, log=log)
        save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / "features.safetensors")
        (folder / "features.json").write_text(json.dumps(net.to_config()), encoding="utf-8")
        return {"held_out_accuracy": net.config.held_out_accuracy}

    ingredients = {
        "data": parts.data.fingerprint,
        "source": version(run.config.data),
        "seed": FEATURE_SEED,
        "version": features.FeatureNet.version,
    }
    return run_stage(run, "features", ingredients, make)


def num_feature_images(shape: tuple[int, ...]) -> int:
    """At most so many images of `shape` (C, H, W) train the net."""
    return min(MAX_FEATURE_IMAGES, MAX_FEATURE_PIXELS // math.prod(shape))


def filled(blocks: Iterator[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Blocks [b, C, H, W] one after the other in one tensor of `shape`; never all of them twice, as with `cat`."""
    images, start = torch.empty(shape), 0
    for block in blocks:
        images[start : start + len(block)] = block
        start += len(block)
    return images


def _noted_file(run: Run) -> Artifact:
    settings = run.config.evaluation
    assert settings.features is not None
    path = settings.features
    sha256 = feature_file.checked_sha256(path, settings.features_sha256)
    if not run.plans:
        run.say("features", f"{path}, SHA-256 {sha256}")

    def make(folder: Path, tracker: Tracker) -> Mapping[str, Any]:
        (folder / "features.json").write_text(json.dumps({"name": path.name, "sha256": sha256}), encoding="utf-8")
        return {}

    return run_stage(run, "features", {"sha256": sha256, "version": feature_file.VERSION}, make)


def load_feature_net(artifact: Artifact, run: Run) -> Extractor:
    """The net of `feature_net` on the run's device.

    Raises:
        EvaluationError: the user's file has changed since.
    """
    if run.config.evaluation.features is None:
        return load_own_net(artifact, run)
    stored = read_json(artifact.path, "features.json")
    return feature_file.FeatureFile(run.config.evaluation.features, stored["sha256"], run.device)


def load_own_net(artifact: Artifact, run: Run) -> features.FeatureNet:
    """The net of `own_net` on the run's device."""
    net = features.FeatureNet.from_config(read_json(artifact.path, "features.json"))
    net.load_state_dict(read_tensors(artifact.path, "features.safetensors", layouts(net), None))
    return net.to(run.device)
