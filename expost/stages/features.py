"""The nets that look at images: the data set's own, trained once a data set, or a file of the user's, noted here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from expost.config.build import version
from expost.config.schema import Config
from expost.evaluation.images import feature_file, features
from expost.forecast.notice import Expectation, feature_parts
from expost.job import Job
from expost.measure.feature_nets import fill_tensor, num_feature_images
from expost.measure.subject import clean_images
from expost.parts.assembly import Parts
from expost.stages.making import Making, Stage
from expost.training.progress import counting
from stage1_vae.data.images import subset

FEATURE_SEED = 0


def own_ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change the data set's own net."""
    found = {
        "data": parts.data.fingerprint,
        "source": version(job.config.data),
        "seed": FEATURE_SEED,
        "version": features.FeatureNet.version,
    }
    return found if parts.of_images.data.are_pictures else found | {"of": "vectors"}


def train_net(making: Making) -> Mapping[str, Any]:
    """`features.safetensors` of the data set's own net, and what rebuilds it, `features.json`."""
    job, parts = making.job, making.parts.of_images
    data = parts.data
    few = subset(data.train, num_feature_images(data.shape))
    images = fill_tensor(clean_images(parts, few), (len(few), *data.shape))
    labels = None if few.labels is None else few.labels.cpu()
    with counting("features", job.shows_progress, making.tracker.log) as log:
        net = features.make_feature_net(
            images, labels, data.num_classes, FEATURE_SEED, job.device, log=log, of_vectors=not data.are_pictures
        )
    write_net(net, making.folder)
    return {"held_out_accuracy": net.config.held_out_accuracy}


def write_net(net: features.FeatureNet, folder: Path) -> None:
    save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / "features.safetensors")
    (folder / "features.json").write_text(json.dumps(net.to_config()), encoding="utf-8")


def expected_of_training(making: Making) -> list[Expectation]:
    parts = making.parts.of_images
    train, shape = parts.data.train, parts.data.shape
    return feature_parts(parts, min(len(train), num_feature_images(shape)))


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Of a user's file its hash, looked at once: what is noted and said later is what the key speaks of.

    Raises:
        EvaluationError: the file cannot be read, or is not what its checksum says.
    """
    settings = job.config.evaluation
    if settings.features is None:
        return own_ingredients(job, parts, keys)
    sha256 = feature_file.checked_sha256(settings.features, settings.features_sha256)
    return {"sha256": sha256, "version": feature_file.VERSION}


def train_or_note(making: Making) -> Mapping[str, Any]:
    """Of a file of the user's only its name and hash are kept."""
    config = making.job.config
    if config.evaluation.features is None:
        return train_net(making)
    facts = {"name": config.evaluation.features.name, "sha256": making.ingredients["sha256"]}
    (making.folder / "features.json").write_text(json.dumps(facts), encoding="utf-8")
    return {}


def expected(making: Making) -> list[Expectation]:
    return expected_of_training(making) if making.job.config.evaluation.features is None else []


def announced(config: Config, ingredients: Mapping[str, Any]) -> str | None:
    """Which file it was."""
    path = config.evaluation.features
    return None if path is None else f"{path}, SHA-256 {ingredients['sha256']}"


STAGE = Stage(
    name="features",
    typed="evaluate",
    needs=lambda config, parts: (),
    ingredients=ingredients,
    make=train_or_note,
    expected=expected,
    announced=announced,
    reads_images=True,
)
CLASSIFIER = Stage(
    name="classifier",
    typed="evaluate",
    needs=lambda config, parts: (),
    ingredients=own_ingredients,
    make=train_net,
    expected=expected_of_training,
    folder="features",
    reads_images=True,
)
"""The data set's own net beside a file of the user's, which knows no classes."""
