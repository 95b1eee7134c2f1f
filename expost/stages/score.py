"""Scores of single images or latents that somebody has, beside those of test images, which say what is usual.

The figures of test images and of what was given are artifacts; the table and the pictures, which tell the names of
files too, are written into the run's folder each time.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from expost.base.errors import UserError
from expost.config.schema import Config
from expost.evaluation.nouns import IMAGES, LATENTS
from expost.evaluation.scores.table import COLUMNS, Scores, Standing, write_csv
from expost.job import Job
from expost.measure.feature_nets import load_feature_net
from expost.measure.score import (
    VERSION,
    bound_refusal,
    features_of,
    few_enough,
    image_costs,
    image_scores,
    latent_costs,
    latent_scores,
    nearest_images,
    nearest_latents,
)
from expost.parts.assembly import ImageParts, LatentParts, Parts
from expost.stages.delivery import endangers, new_file
from expost.stages.making import Making, Stage
from expost.store.artifacts import Artifact
from expost.store.tensors import read_layouts, read_tensors
from stage1_vae.data.given.data import Given, GivenImages, GivenLatents
from stage1_vae.data.images import ImageSet, subset
from stage1_vae.rows import spread_rows

FIGURES, TRAINING = "scores.safetensors", "training.safetensors"
CSV = "scores.csv"
UNUSUAL = 99
"""Percent of test images: what is beyond is counted on the terminal."""


def check_score(job: Job) -> None:
    """Refuse a request that cannot be carried out, before any work.

    Raises:
        UserError: nothing is to be scored, or the table cannot be written where it should be.
    """
    settings, data_root = job.config.score, job.config.data.get("root")
    if settings.root is None:
        raise UserError("stage=score: set score.root=FILE or FOLDER, whose images (or latents) are to be scored")
    if (out := settings.out) is None:
        return
    place = out.expanduser().absolute()
    if place.suffix.lower() != ".csv":
        raise UserError(f"score.out={out}: scores are a table; give FILE.csv")
    for key, root in (("score.root", settings.root), ("data.root", data_root)):
        if root and endangers(place, Path(root).expanduser().absolute()):
            raise UserError(f"score.out={out} lies where {key}={root} is read from; give another place")
    if os.path.lexists(place) and not _is_ours(place):
        raise UserError(f"score.out={out} is there already and holds no scores; give another name")
    if not place.parent.is_dir():
        raise UserError(f"score.out={out}: the folder {place.parent} does not exist; create it or choose another")
    try:
        new_file(place.parent).unlink()
    except OSError as error:
        raise UserError(f"score.out={out}: cannot write to {place.parent}: {error.strerror}; choose another") from error


def _is_ours(place: Path) -> bool:
    """Whether it is a table of scores."""
    header = ",".join(COLUMNS).encode()
    try:
        with place.open("rb") as file:
            return file.read(len(header)) == header
    except OSError:
        return False


def needs(config: Config, parts: Parts) -> tuple[str, ...]:
    return ("latents", "prior") if isinstance(parts, LatentParts) else ("vae", "prior", "features")


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change the scores of test images."""
    settings = job.config.evaluation
    return {
        **{name: keys[name] for name in needs(job.config, parts)},
        "num": settings.num_bound_images,
        "importance_samples": job.config.score.importance_samples or settings.importance_samples,
        "seed": job.config.seeds.sample,
        "version": VERSION,
    }


def score_tests(making: Making) -> Mapping[str, Any]:
    """`scores.safetensors` of test images or latents; of images, features of all training images beside them."""
    job, parts, num = making.job, making.parts, making.job.config.evaluation.num_bound_images
    if isinstance(parts, ImageParts):
        net = load_feature_net(making.inputs["features"], job.config.evaluation.features, job.device)
        training = features_of(parts, net, parts.data.train)
        save_file({"features": training.contiguous()}, making.folder / TRAINING)
        scores = _score_images(making, subset(parts.data.test, num), training)
    else:
        test = making.latents("test")
        with job.seeded(job.config.seeds.sample):
            rows = spread_rows(len(test), num)
            costs = latent_costs(job, parts, making.prior, test, rows)
        train = making.latents("train")
        scores = latent_scores(costs, nearest_latents(job, train, test, few_enough(train, rows)))
    save_file(scores.tensors(), making.folder / FIGURES)
    return {}


def _score_images(making: Making, images: ImageSet, training: Tensor) -> Scores:
    job, parts = making.job, making.parts.of_images
    net = load_feature_net(making.inputs["features"], job.config.evaluation.features, job.device)
    with job.seeded(job.config.seeds.sample):
        costs = image_costs(job, parts, making.vae, making.prior, images)
    return image_scores(costs, parts, nearest_images(job, features_of(parts, net, images), training))


def score_given(making: Making) -> Mapping[str, Any]:
    """`scores.safetensors` of what the user gave."""
    job, parts, given = making.job, making.parts, making.parts.given
    if isinstance(given, GivenImages):
        training = _tensors(making.inputs["reference"], TRAINING)["features"]
        scores = _score_images(making, given.images, training)
    elif isinstance(given, GivenLatents):
        rows = torch.arange(len(given.latents))
        with job.seeded(job.config.seeds.sample):
            costs = latent_costs(job, parts, making.prior, given.latents, rows)
        scores = latent_scores(costs, nearest_latents(job, making.latents("train"), given.latents, rows))
    else:
        raise TypeError("nothing was given to be scored")
    given.check_unchanged()
    save_file(scores.tensors(), making.folder / FIGURES)
    return {}


def given_ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change the scores of what the user gave."""
    assert parts.given is not None
    return {name: keys[name] for name in (*needs(job.config, parts), "reference")} | {"given": parts.given.fingerprint}


REFERENCE = Stage(
    name="reference", typed="score", needs=needs, ingredients=ingredients, make=score_tests, reads_images=True
)
"""Scores of test images or latents."""
STAGE = Stage(
    name="scores",
    typed="score",
    needs=lambda config, parts: (*needs(config, parts), "reference"),
    ingredients=given_ingredients,
    make=score_given,
    reads_images=True,
)


def _tensors(artifact: Artifact, name: str) -> dict[str, Tensor]:
    return read_tensors(artifact.path, name, read_layouts(artifact.path, name), None)


def deliver_scores(job: Job, parts: Parts, artifacts: Mapping[str, Artifact]) -> None:
    """The table where the user wants it, and pictures and a page in the run's folder.

    Raises:
        UserError: they cannot be written.
    """
    from expost.stages.score_page import Scored, write_page  # matplotlib is slow to import: only who draws

    given = parts.given
    assert given is not None
    scores, test = (Scores(**_tensors(artifacts[name], FIGURES)) for name in ("scores", "reference"))
    standing, out = Standing.of(scores, test), job.config.score.out
    target = job.folder / CSV if out is None else out.expanduser().absolute()
    num = len(next(iter(scores.tensors().values())))
    dims = (parts.num_pixels, parts.kind.dequantized_levels or 1) if isinstance(parts, ImageParts) else None
    try:
        scratch = new_file(target.parent)
        try:
            write_csv(scratch, scores, standing, num, given.place, training_names(job, parts), dims)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
        config_yaml = yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False)
        (job.folder / "config.yaml").write_text(config_yaml, encoding="utf-8")
        scored = Scored(parts, given, scores, test, standing, sentences(parts, given, scores, test, standing))
        page = write_page(scored, job.config.score.num_pictured, config_yaml, job.folder)
    except OSError as error:
        raise UserError(f"cannot write {target} or {job.folder}: {error.strerror}; make room") from error
    for sentence in scored.sentences:
        job.say("scores", sentence)
    job.say("scores", f"{num:,} row{'s' * (num != 1)}: {target}")
    job.say("page", str(page))


def training_names(job: Job, parts: Parts) -> Callable[[int], str]:
    """Training row -> the file that it was read from, below `data.root`; "" where there is no file an image."""
    if not isinstance(parts, ImageParts) or not (places := parts.data.train.places):
        return lambda row: ""
    root = Path(str(job.config.data.get("root"))).expanduser().absolute()
    return lambda row: str(places[row]).removeprefix(f"{root}{os.sep}")


def sentences(parts: Parts, given: Given, scores: Scores, test: Scores, standing: Standing) -> list[str]:
    """What is to be said of all of them; of one alone, all of it."""
    words, values = scores.ranking
    nouns = IMAGES if isinstance(parts, ImageParts) else LATENTS
    usual, rank, near = test.ranking[1].median().item(), standing.ranked, standing.nearer
    said = [
        f"{'median ' * (len(values) > 1)}{words} {values.median().item():.5g} nats; of test {nouns.many} {usual:.5g}"
    ]
    if rank is not None and len(values) == 1:
        said.append(f"{rank.item():.3g} % of test {nouns.many} are likelier")
    elif rank is not None:
        num = int((rank >= UNUSUAL).sum())
        said.append(f"{num:,} of {len(values):,} less likely than {UNUSUAL} % of test {nouns.many}")
    if near is None or scores.nearest is None:
        what = f"features of {nouns.many}" if nouns is IMAGES else nouns.many
        said.append(f"no nearest training {nouns.one}: there are no distances, for {what} never vary or are not finite")
    elif len(values) == 1:
        said.append(
            f"{near.item():.3g} % of test {nouns.many} are nearer to a training {nouns.one}; the nearest of this is "
            f"{scores.nearest.item():,}, counted from 0"
        )
    else:
        num = int((near >= UNUSUAL).sum())
        said.append(f"{num:,} farther from the training {nouns.many} than {UNUSUAL} % of test {nouns.many}")
    if isinstance(parts, ImageParts) and parts.data.units is not None:
        volume = parts.data.units.log_volume
        said.append(f"log p(x) is of standardised columns; of the numbers in the file it is {volume:.4g} nats less")
    return [*said, reason] if (reason := bound_refusal(parts, scores)) else said


def given_line(parts: Parts) -> str:
    """What was read, in one line."""
    given = parts.given
    assert given is not None
    shape: tuple[int, ...]
    if isinstance(given, GivenImages):
        num, shape, noun = len(given.images), parts.of_images.data.shape, "image"
    elif isinstance(given, GivenLatents):
        num, shape, noun = len(given.latents), given.latents.spec.shape, "latent"
    low, high = given.value_range
    parts_of_line = [
        f"{given.name}: {num:,} {noun}{'s' * (num != 1)}, {'x'.join(map(str, shape))}; {low:.6g} to {high:.6g} seen"
    ]
    parts_of_line += [f"read as {'; '.join(given.guesses)}"] if given.guesses else []
    parts_of_line += [f"left out {'; '.join(given.left_out)}"] if given.left_out else []
    return " ".join("; ".join(parts_of_line).split())
