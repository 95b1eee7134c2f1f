"""One trained two-stage model as a folder that stands alone: weights, what rebuilds it, a card that says what it is.

The folder is written beside its place, flushed, loaded once the way its user will, and then renamed.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from expost.base.errors import UserError
from expost.config.build import target_class, versions
from expost.config.schema import Export
from expost.export.config import CONFIG, FORMAT, LABELS, PREPROCESS, PRIOR_FILE, VAE_FILE, Node, seal
from expost.export.hub import SCHEME, check_upload, upload
from expost.export.model_card import model_card
from expost.export.two_stage import TwoStage
from expost.job import Job
from expost.parts.assembly import ImageParts, Parts
from expost.parts.decoding import pixel_range
from expost.parts.priors import constructor_node, without, wrapper_nodes
from expost.parts.weights import fitted_prior, trained_vae
from expost.stages.report import LONE_BYTES, stored_report
from expost.store.artifacts import Artifact
from expost.store.manifest import file_sha256
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.likelihoods import FLOAT_LEVELS, Pixels
from stage2_prior.labels import LABELS_VERSION
from stage2_prior.prior import Prior

CARD = "README.md"
FILES = (CARD, CONFIG, VAE_FILE, PRIOR_FILE)


def check_export(settings: Export) -> Path:
    """Where the model goes, refused before any work if it cannot.

    Raises:
        UserError: no folder is given, it holds something already, or it cannot be written; the hub would refuse it.
    """
    place = _checked_folder(settings.out)
    if settings.hub is not None:
        check_upload(settings.hub, settings.private)
    return place


def _checked_folder(out: Path | None) -> Path:
    if out is None or not out.name:
        raise UserError("stage=export needs a folder to write: give export.out=FOLDER")
    place = out.expanduser().absolute()
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise UserError(f"export.out={out} is a file or a link already; give a new folder")
    if place.is_dir() and any(place.iterdir()):
        raise UserError(f"export.out={out} is not empty; empty it or give a new folder")
    if not place.parent.is_dir():
        raise UserError(f"export.out={out}: the folder {place.parent} does not exist; create it or choose another")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise UserError(f"export.out={out}: cannot write to {place.parent}; choose another")
    return place


def export(job: Job, parts: Parts, artifacts: Mapping[str, Artifact], figures: Artifact | None) -> None:
    """Write the model of `job` to `export.out`, and put it on the hub if `export.hub` says where.

    Args:
        job, parts: the job and its data.
        artifacts: `vae` and `prior`.
        figures: its evaluation; None: there is none.

    Raises:
        UserError: the folder cannot be written, or the hub does not take it.
    """
    images = parts.of_images
    vae = trained_vae(parts, artifacts["vae"], job.device)
    prior = fitted_prior(parts, artifacts["prior"], job.device)
    keys = {name: artifacts[name].key for name in ("vae", "prior")}
    keys["fingerprint of the images"] = parts.data.fingerprint
    settings = job.config.export
    place = _checked_folder(settings.out)
    try:
        scratch = place.parent / f".{place.name}.{secrets.token_hex(8)}"
        scratch.mkdir()
        try:
            _write(scratch, job, images, vae, prior, keys, figures)
            TwoStage.load(scratch)
            for path in scratch.iterdir():
                path.chmod(scratch.stat().st_mode & 0o666)  # as the umask says; safetensors makes private files
                _flush(path)
            _flush(scratch)
            os.replace(scratch, place)  # an empty folder gives way, any other refuses
            _flush(place.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors puts a full disk into words
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"export.out={place}: {reason}; make room or choose another") from error
    job.say("export", f"TwoStage.load({str(place)!r}) loads what is in {place}")
    if settings.hub is not None:
        _put_on_hub(place, settings.hub, job)


def _put_on_hub(place: Path, name: str, job: Job) -> None:
    private, quiet = job.config.export.private, not job.shows_progress
    try:
        page = upload(place, FILES, name, private, f"Export {job.name}", quiet)
    except UserError as error:
        raise UserError(f"{error}; {place} is whole, so that `hf upload {name} {place}` is all that is left") from error
    job.say("export", f"TwoStage.load({SCHEME + name!r}) loads what is at {page}")


def _write(
    folder: Path,
    job: Job,
    parts: ImageParts,
    vae: Autoencoder,
    prior: Prior,
    keys: dict[str, str],
    figures: Artifact | None,
) -> None:
    for name, module in ((VAE_FILE, vae), (PRIOR_FILE, prior)):
        save_file({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, folder / name)
    content = described(job, parts)
    content["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in (VAE_FILE, PRIOR_FILE)
    }
    (folder / CONFIG).write_text(json.dumps(seal(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    measured = None if figures is None else stored_report(figures)
    model = TwoStage(vae, prior, parts.preprocess, pixel_range(parts.data), parts.data.class_names)
    settings = job.config.export
    address = {} if settings.hub is None else {"address": SCHEME + settings.hub}
    card = model_card(job.name, content, parts, model, keys, measured, license=settings.license, **address)
    (folder / CARD).write_text(card, encoding="utf-8", errors=LONE_BYTES)


def described(job: Job, parts: ImageParts) -> dict[str, Any]:
    """What rebuilds the model, without its weights: the content of `config.json`."""
    config, preprocess = job.config, parts.preprocess
    likelihood: Node = dict(config.likelihood)
    if target_class(likelihood).pixels is Pixels.LEVELS:
        likelihood["levels"] = preprocess.num_levels or FLOAT_LEVELS
    prior, wrappers = constructor_node(config.prior), wrapper_nodes(config.prior, parts.vae.spec)
    keywords = [without(node, ("_target_",)) for node in wrappers]
    labels = {LABELS: LABELS_VERSION} if prior.get("conditional") else {}
    low, high = pixel_range(parts.data)
    return {
        "format": FORMAT,
        "image_shape": list(parts.data.shape),
        "net": config.net,
        "bottleneck": config.own_vae.bottleneck,
        "likelihood": likelihood,
        "prior": prior,
        "wrap": [node["_target_"] for node in wrappers],
        **({"wrap_keywords": keywords} if any(keywords) else {}),
        "latent": parts.vae.spec.to_json(),
        "preprocess": {
            "levels": preprocess.levels,
            "domain": preprocess.domain.value,
            "binarize": preprocess.binarize,
            "dequantize": preprocess.dequantize,
        },
        "pixel_range": [float(low), float(high)],
        "class_names": list(parts.data.class_names),
        "versions": versions([config.net, config.own_vae.bottleneck, likelihood, prior, PREPROCESS, *wrappers])
        | labels,
        "made_with": {"expost": _own_version(), "torch": torch.__version__, "data": parts.data.name},
    }


def _own_version() -> str:
    try:
        return f"expost {version('expost')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "expost, not installed"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
