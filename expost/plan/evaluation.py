"""The features and the evaluation in small: the parts of an evaluation, by their names, of untrained stages.

What grows with the number of draws times that of latents, or with that of the training images, is measured by itself.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from expost.evaluation.bounds import rows_at_once
from expost.evaluation.exploration.content import CONTENT, MOST_DRAWS, MOST_SPRITE_BYTES, POINTS, num_points
from expost.evaluation.images import features, memorisation
from expost.evaluation.sections import Surgery
from expost.forecast.timing import Times, lengthen, line_through, linear_seconds, seconds_of
from expost.measure.evaluate import PARTS, ImageFindings, measure, trained_stages
from expost.measure.feature_nets import Nets, fill_tensor, load_feature_net, load_own_net, num_feature_images
from expost.measure.findings import Findings, Part
from expost.measure.image_sets import FeaturedSet, num_compared
from expost.measure.latents import MAX_DRAWS
from expost.measure.subject import clean_images
from expost.parts.decoding import block_size
from expost.parts.weights import Histories
from expost.plan.costs import Facts
from expost.plan.probe import Probing, at_most, change, files_of, make
from expost.plan.stages import first_latents, untrained_net
from expost.training.tracking import Tracker
from stage1_vae.data.images import subset
from stage1_vae.data.splits import SPLITS
from stage2_prior.fitting import FitReport

MIN_FEATURE_IMAGES, MAX_FEATURE_IMAGES = 64, 5700
"""The larger is enough for full batches of the feature net's training."""
BLOCK_IMAGES = 500
"""That the feature net is scaled with at once."""
EPOCHS_TIMED = 2
NUM_FEW, NUM_DRAWS, NUM_VECTORS = 160, 500, 500
NUM_LATENTS = 4096
NUM_GAPS = 4
FEW_DRAWN, MANY_DRAWN = 256, 1024
CURVE = [{"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0} for epoch in range(10)]
HISTORIES = Histories(CURVE, FitReport(1.0, None, None))
"""Of stages that were never trained."""


AnyFindings = TypeVar("AnyFindings", bound=Findings)


class Enough(Exception):  # noqa: N818  # no error
    """Ends a training that has been watched for long enough."""


def probe_features(probing: Probing) -> Facts:
    """The feature net: two epochs on some images, and the memory of the whole batches that it is scaled with."""
    if probing.job.config.evaluation.features is not None:
        return {"seconds": 0.0, "work": "evaluation.features is a file", "files": {}}
    data, enough = probing.images.data, probing.enough
    count = min(len(data.train), num_feature_images(data.shape))
    few, most = min(MIN_FEATURE_IMAGES, count), min(MAX_FEATURE_IMAGES, count)
    readings: dict[int, float] = {}

    def train(num: int) -> float:
        started, images_read = time.perf_counter(), subset(data.train, num)
        images = fill_tensor(clean_images(probing.images, images_read), (num, *data.shape))
        ends = [time.perf_counter()]
        readings[num] = ends[0] - started

        def log(figures: object, epoch: int) -> None:
            ends.append(time.perf_counter())
            if epoch + 1 == EPOCHS_TIMED:
                raise Enough

        with suppress(Enough):  # it ends so, unless it ends by itself
            labels, of_vectors = images_read.labels, not data.are_pictures
            features.make_feature_net(images, labels, data.num_classes, 0, probing.job.device, log, of_vectors)
        return (ends[-1] if data.num_classes > 1 else time.perf_counter()) - ends[0]

    train(few)  # pays for what is there once in a process
    times = lengthen(train, few, most, enough, least=2)  # a small batch is slow an image
    seconds = linear_seconds([(num, readings[num]) for num, _ in times], count)
    if data.num_classes > 1:
        lengths = [features.training_length(num - features.num_held_out(num)) for num, _ in times]
        a_step = [(size, took / (EPOCHS_TIMED * n)) for (_, took), (_, n, size) in zip(times, lengths, strict=True)]
        epochs, batches, batch_size = features.training_length(count - features.num_held_out(count))
        seconds += epochs * batches * linear_seconds(a_step, batch_size)
        work = f"{epochs * batches:,} steps, {epochs} epochs of {count:,} images"
    else:
        seconds += linear_seconds(times, min(count, features.MAX_CALIBRATION))
        work = f"random weights, scaled on {count:,} images"
    block, net = min(count, BLOCK_IMAGES), untrained_net(probing)
    with at_most(2 * enough):  # the net is scaled with full blocks, whose first layers take the most
        load_own_net(net, probing.job.device).extract(torch.rand(block, *data.shape))
    more_bytes = (count - max(times[-1][0], block)) * math.prod(data.shape) * 4
    return {"seconds": seconds, "work": work, "more_bytes": more_bytes, "files": files_of(net.path)}


def begin(probing: Probing) -> ImageFindings:
    """An evaluation of untrained stages on few latents, before its first part."""
    job, vae, prior = probing.job, probing.images.vae.eval(), probing.parts.prior.eval()
    latents = [first_latents(probing, split, NUM_LATENTS) for split in SPLITS]
    trained = trained_stages(job, probing.with_few(test=len(latents[-1])), vae, prior, latents)
    net = own_net = untrained_net(probing)
    if job.config.evaluation.features is not None:
        net, _ = make("features", probing.place("features"), probing.parts)
    folder = probing.scratch / "evaluation"
    folder.mkdir()
    extractor = load_feature_net(net, job.config.evaluation.features, job.device)
    nets = Nets(net, own_net if prior.num_classes else None)
    return ImageFindings(job, trained, HISTORIES, folder, nets=nets, net=extractor)


def probe_evaluation(probing: Probing) -> Facts:
    """A small evaluation of untrained stages, and by itself each part of it that grows."""
    settings, data = probing.job.config.evaluation, probing.images.data
    num, num_train = num_compared(data, settings.num_samples), len(data.train)
    num_bounds, num_draws = min(settings.num_bound_images, len(data.test)), min(MAX_DRAWS, num)
    rows = rows_at_once(data.shape)
    few, few_bounds = min(NUM_FEW, block_size(data.shape)), max(1, rows // settings.importance_samples)
    findings = begin(probing)
    train, test = findings.trained.train, findings.trained.test
    facts, images = measure_few(findings, few, few_bounds, num)

    def draw(num: int) -> ImageFindings:
        return change_findings(findings, num_samples=num)

    def bound(num: int) -> ImageFindings:
        return change_findings(findings, num_bound_images=num)

    growing: dict[str, tuple[int, int, int, Callable[[int], ImageFindings]]] = {
        # part: its length in the run, the first and the longest here, and an evaluation of such a length
        "samples and features": (num, few, min(num, len(test)), draw),
        "distances": (num, NUM_VECTORS, num, lambda num: with_features(findings, images, num, few)),
        "nearest training images": (num_train, few, num_train, partial(with_features, findings, images, num)),
        "bounds": (num_bounds, few_bounds, min(num_bounds, len(test)), bound),
        "surgery": (num_draws, NUM_DRAWS, min(num_draws, len(train), len(test)), draw),
        "exploration": (
            num_points(num) // num_points(1),
            few,
            min(num, MOST_DRAWS, len(test)),
            lambda num: with_draws(findings, images, num),
        ),
    }
    if findings.nets.classifier is not None:
        growing["classes"] = growing["samples and features"]
    if num_gaps := min(settings.gaps, len(data.test)):
        most = min(num_gaps, len(test))
        growing["gaps"] = (num_gaps, NUM_GAPS, most, lambda num: change_findings(findings, gaps=num))

    def times_of(part: str) -> Times:
        _, first, most, ask = growing[part]
        least = 2 if part == "gaps" else 1  # most of a few of them is there once
        return lengthen(lambda num: seconds_of_part(PARTS, part, ask(num)), first, most, probing.enough, least)

    size = images["reference"].features.shape[1]
    with at_most(2 * probing.enough):  # the memory of a search through all training images
        memorisation.nearest(torch.rand(num, size), torch.rand(num_train, size))
    return {
        **facts,
        **aggregate_seconds(probing),
        "num_samples": num,
        "num_bounds": num_bounds,
        "times": {part: times_of(part) for part in growing},
        "lengths": {part: length for part, (length, *_) in growing.items()},
        "few_latents": {"train": len(train), "test": len(test)},
        "annealing_settings": settings.annealing and settings.annealing.model_dump(),
    }


def change_findings(findings: AnyFindings, **values: Any) -> AnyFindings:
    """Another evaluation, before its first part, that asks for other `values`."""
    return replace(findings, job=change(findings.job, "evaluation", **values))


def with_features(
    findings: ImageFindings, images: Mapping[str, FeaturedSet], num: int, num_train: int
) -> ImageFindings:
    """An evaluation whose sets of `num` images were looked at: noise instead of the features of `images`."""
    trained, data = findings.trained, findings.trained.parts.data
    parts = replace(trained.parts, data=replace(data, train=subset(data.train, num_train)))
    looked_at = replace(findings, trained=replace(trained, parts=parts))
    looked_at.images = {
        row: replace(few, features=torch.rand(num, few.features.shape[1])) for row, few in images.items()
    }
    return looked_at


def with_draws(findings: ImageFindings, images: Mapping[str, FeaturedSet], num: int) -> ImageFindings:
    """An evaluation whose sets have `num` latents: those of `images` again and again."""
    drawn = change_findings(findings, num_samples=num)
    drawn.images = {
        row: replace(few, latents=few.latents[torch.arange(num) % len(few.latents)])
        for row, few in images.items()
        if len(few.latents)
    }
    drawn.surgery = Surgery()
    return drawn


def seconds_of_part(parts: Mapping[str, Part], name: str, findings: Findings) -> float:
    parts[name].carry_out(findings)
    return findings.seconds[name]


def measure_few(
    findings: ImageFindings, num: int, num_bounds: int, num_run: int
) -> tuple[Facts, Mapping[str, FeaturedSet]]:
    """An evaluation of `num` images: seconds of the parts that do not grow, bytes of what one of `num_run` writes, and
    its images."""
    annealing = findings.job.config.evaluation.annealing
    if annealing is not None:
        annealing = annealing.model_copy(update={"num_images": 2, "bdmc_images": 2 if annealing.bdmc_images else 0})
    few = change_findings(findings, num_samples=num, num_bound_images=num_bounds, annealing=annealing, gaps=0)
    few = with_features(few, {}, num, num)
    measure(few.job, few.trained, few.nets, few.histories, few.folder, Tracker())
    PARTS["samples and features"].carry_out(few)
    seconds = json.loads((few.folder / "figures.json").read_text(encoding="utf-8"))["seconds"]
    return {name: seconds[name] for name in ("annealing", "pictures")} | {
        "files": grown_files(files_of(few.folder), num, num_run)
    }, few.images


def grown_files(files: Mapping[str, int], num: int, num_run: int) -> dict[str, int]:
    """Bytes of each file of an evaluation of `num_run` samples, from those of one of `num`: points take their room."""
    more = num_points(num_run) / num_points(num)
    grown = {name: round(size * more) for name, size in files.items() if name in (CONTENT, POINTS)}
    if POINTS in grown:
        grown[POINTS] = min(grown[POINTS], MOST_SPRITE_BYTES)
    return {**files, **grown}


def aggregate_seconds(probing: Probing) -> Facts:
    """Seconds of the aggregate's density a draw and a latent, and a latent whatever the draws; 0 without one."""
    whole = first_latents(probing, "train", len(probing.parts.data.train))
    if not whole.has_density:
        return {"seconds_a_pair": 0.0, "seconds_a_latent": 0.0}
    draws = whole.draw(torch.arange(MANY_DRAWN) % len(whole)).to(probing.job.device).double()

    def density(num: int, num_drawn: int = FEW_DRAWN) -> float:
        latents = first_latents(probing, "train", num)
        return seconds_of(lambda: latents.log_aggregate(draws[:num_drawn]))

    num, few = lengthen(density, NUM_LATENTS, len(whole), probing.enough / 2)[-1]
    a_latent, a_pair = line_through([(FEW_DRAWN, few / num), (MANY_DRAWN, density(num, MANY_DRAWN) / num)])
    return {"seconds_a_pair": a_pair, "seconds_a_latent": a_latent}
