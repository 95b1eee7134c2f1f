"""One trained two-stage model as a folder that stands alone: weights, what rebuilds it, a card that says what it is.

The folder is written beside its place, flushed, loaded once the way its user will, and then renamed.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from expost.base.errors import UserError
from expost.config.build import target_class, versions
from expost.config.schema import Export
from expost.export.config import (
    BY_REFERENCE,
    CONFIG,
    FORMAT,
    PREPROCESS,
    PRIOR_ALONE,
    PRIOR_FILE,
    VAE_FILE,
    Node,
    seal,
)
from expost.export.description import made_with, prior_description
from expost.export.hub import SCHEME, check_upload, upload
from expost.export.learned_prior import LearnedPrior, write_prior
from expost.export.model_card import model_card
from expost.export.two_stage import TwoStage
from expost.job import Job
from expost.parts.assembly import ImageParts, LatentParts, Parts
from expost.parts.decoding import pixel_range
from expost.parts.weights import fitted_prior, trained_vae
from expost.stages.report import LONE_BYTES, stored_report
from expost.store.artifacts import Artifact
from expost.store.manifest import file_sha256
from expost.store.safe import read_json
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.likelihoods import FLOAT_LEVELS, Pixels
from stage2_prior.prior import Prior

CARD = "README.md"


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
        artifacts: `prior` and, but of latents, `vae`.
        figures: its evaluation; None: there is none.

    Raises:
        UserError: the folder cannot be written, or the hub does not take it.
    """
    prior = fitted_prior(parts, artifacts["prior"], job.device)
    keys = {name: artifacts[name].key for name in ("vae", "prior") if name in artifacts}
    keys[f"fingerprint of the {'latents' if isinstance(parts, LatentParts) else 'images'}"] = parts.data.fingerprint
    settings = job.config.export
    place = _checked_folder(settings.out)
    try:
        scratch = place.parent / f".{place.name}.{secrets.token_hex(8)}"
        scratch.mkdir()
        try:
            if isinstance(parts, LatentParts):
                write_prior(scratch, prior, described_prior(job, parts))
                write_card(scratch, job, parts, LearnedPrior.load(scratch), keys, figures)
            else:
                images = parts.of_images
                write_model(scratch, job, images, trained_vae(parts, artifacts["vae"], job.device), prior)
                autoencoder = None if images.frozen is None else images.frozen.handed_over
                write_card(scratch, job, parts, TwoStage.load(scratch, autoencoder), keys, figures)
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
    job.say("export", f"{loading(parts, str(place))} loads what is in {place}")
    if settings.hub is not None:
        _put_on_hub(place, settings.hub, job, parts)


def _put_on_hub(place: Path, name: str, job: Job, parts: Parts) -> None:
    private, quiet = job.config.export.private, not job.shows_progress
    try:
        page = upload(
            place, tuple(path.name for path in sorted(place.iterdir())), name, private, f"Export {job.name}", quiet
        )
    except UserError as error:
        raise UserError(f"{error}; {place} is whole, so that `hf upload {name} {place}` is all that is left") from error
    job.say("export", f"{loading(parts, SCHEME + name)} loads what is at {page}")


def loading(parts: Parts, address: str) -> str:
    """What a user types to load it."""
    if isinstance(parts, LatentParts):
        return f'LearnedPrior.load("{address}")'
    return f'TwoStage.load("{address}"{"" if parts.of_images.frozen is None else ", autoencoder=YOURS"})'


def write_model(folder: Path, job: Job, parts: ImageParts, vae: Autoencoder, prior: Prior) -> None:
    """Weights of both stages, as far as they are ours, and what rebuilds them."""
    content = described(job, parts)
    for name, module in ((VAE_FILE, vae), (PRIOR_FILE, prior)):
        save_file({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, folder / name)
    content["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in (VAE_FILE, PRIOR_FILE)
    }
    (folder / CONFIG).write_text(json.dumps(seal(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_card(
    folder: Path,
    job: Job,
    parts: Parts,
    model: TwoStage | LearnedPrior,
    keys: dict[str, str],
    figures: Artifact | None,
) -> None:
    """The README of what lies in the folder."""
    measured = None if figures is None else stored_report(figures)
    settings = job.config.export
    address = "path/to/this/folder" if settings.hub is None else SCHEME + settings.hub
    content = read_json(folder, CONFIG)
    card = model_card(job.name, content, parts, model, keys, measured, loading(parts, address), settings.license)
    (folder / CARD).write_text(card, encoding="utf-8", errors=LONE_BYTES)


def described_prior(job: Job, parts: LatentParts) -> dict[str, Any]:
    """What rebuilds a prior alone, without its weights: the content of `config.json`."""
    config = job.config
    fractions = parts.data.fractions
    return {
        "format": PRIOR_ALONE,
        **prior_description(config.prior, parts.spec),
        "class_names": list(parts.data.class_names),
        "made_with": made_with(parts.data.name),
        **({} if fractions is None else {"fractions": list(fractions)}),
    }


def described(job: Job, parts: ImageParts) -> dict[str, Any]:
    """The same of a model of images."""
    config, preprocess = job.config, parts.preprocess
    low, high = pixel_range(parts.data)
    content = {
        "format": FORMAT if parts.frozen is None else BY_REFERENCE,
        "image_shape": list(parts.data.shape),
        **prior_description(config.prior, parts.spec),
        "preprocess": {
            "levels": preprocess.levels,
            "domain": preprocess.domain.value,
            "binarize": preprocess.binarize,
            "dequantize": preprocess.dequantize,
        },
        "pixel_range": [float(low), float(high)],
        "class_names": list(parts.data.class_names),
        "made_with": made_with(parts.data.name),
    }
    content["versions"] |= versions([PREPROCESS])
    if parts.frozen is not None:
        return {**content, "autoencoder": parts.frozen.reference}
    likelihood: Node = dict(config.likelihood)
    if target_class(likelihood).pixels is Pixels.LEVELS:
        likelihood["levels"] = preprocess.num_levels or FLOAT_LEVELS
    nodes = {"net": config.net, "bottleneck": config.own_vae.bottleneck, "likelihood": likelihood}
    content["versions"] |= versions(list(nodes.values()))
    return {**content, **nodes}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
