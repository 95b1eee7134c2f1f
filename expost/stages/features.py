"""The stage that trains the data set's own net, once a data set; of the user's file it notes which one it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from expost.config.build import version
from expost.evaluation.images import feature_file, features
from expost.forecast.notice import feature_parts, foretell
from expost.job import Run, run_stage
from expost.measure.feature_nets import Nets, fill_tensor, num_feature_images
from expost.measure.subject import clean_images
from expost.parts.assembly import Parts
from expost.store.artifacts import Artifact
from expost.training.progress import counting
from expost.training.tracking import Tracker
from stage1_vae.data.images import spread

FEATURE_SEED = 0


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
        images = fill_tensor(clean_images(parts, some), (len(some), *parts.data.shape))
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
