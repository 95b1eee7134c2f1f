"""A stage that is expected to take long says so before it starts, with the key that makes it shorter.

A few images or latents are timed, in numbers that grow until they tell; from them follows all of the stage, as in
`stage=plan`, but within seconds. What is too little to take long is recognised by the first of them. Nothing of the
stage changes: models are copies, and torch's generators are put back.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expost.config.schema import Evaluation, Sample, Trainer
from expost.evaluation.images.features import FeatureNet, FeatureNetConfig, num_held_out, training_length
from expost.forecast.timing import FORWARD, GROWTH, in_time, length_of_stage1, linear_seconds, seconds_of
from expost.job import Job
from expost.measure.image_sets import SCATTERED, num_compared
from expost.measure.inference.gaps import EFFORT
from expost.measure.latents import MAX_KNOWN
from expost.parts.assembly import ImageParts
from expost.parts.decoding import block_size
from expost.training.devices import resolved_precision
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import ImageData
from stage1_vae.latents import LatentDataset, Support
from stage1_vae.ranks import ALONE
from stage2_prior.fitting import FitRun, FitSettings
from stage2_prior.held_out import affordable
from stage2_prior.prior import Exactness, GradientPrior, Prior
from stage2_prior.priors.mixture import Mixture

Module = TypeVar("Module", bound=nn.Module)
LONG_SECONDS, MOST_MINUTES = 600.0, 90
LITTLE = 0.25
"""A part that cannot take this share of `LONG_SECONDS` is not timed more exactly."""
ENOUGH_SECONDS = 0.5
EM_ROWS, EM_PASSES = 4096, 3
"""Latents of a fit in little, and passes over them."""
EM_OPERATIONS = 1e9
"""A second, of what is slow in EM; a fit of fewer takes no time worth a trial."""
DRAWN_AT_ONCE = 500
GAPS_AT_ONCE = 512
"""Pairs of chain and image that are moved together, at least, where as many images are asked for."""
SETS = 4
"""Of decoded images: baseline, aggregate, reconstructions, learned."""


@dataclass(frozen=True)
class Expectation:
    """Of a stage: what it takes, and what makes it shorter, in words."""

    seconds: float
    remedy: str


def foretell(job: Job, stage: str, parts: Callable[[], list[Expectation]]) -> None:
    """One line where the `parts` of a stage take longer than ten minutes; rank 0 speaks, with a rank's share."""
    if job.quiet or job.ranks.rank > 0:
        return
    with job.seeded(0):
        expected = parts()
    total = sum(part.seconds for part in expected)
    if total > LONG_SECONDS:
        longest = max(expected, key=lambda part: part.seconds)
        words = f"{total / 60:.0f} min" if total < MOST_MINUTES * 60 else in_time(total)
        job.say(stage, f"is expected to take up to about {words}; to shorten it, {longest.remedy}")


def expected_seconds(work: Callable[[int], object], at_once: int, num: float) -> float:
    """Seconds of `num` things, so many `at_once`: those of a few, which are exact where the answer matters."""
    if num <= 0:
        return 0.0
    if torch.cuda.is_initialized():
        work(1)  # what the device does once
    first = seconds_of(lambda: work(1))
    times = [(1, min(first, seconds_of(lambda: work(1))) if first < ENOUGH_SECONDS else first)]
    while True:
        size, seconds = times[-1]
        is_sure = seconds >= ENOUGH_SECONDS and len(times) > 1
        if is_sure or size >= at_once or seconds / size * num < LITTLE * LONG_SECONDS:
            return linear_seconds(times[-2:], at_once) * num / at_once if size > 1 else seconds * num
        size = min(GROWTH * size, at_once)
        times.append((size, seconds_of(lambda size=size: work(size))))  # type: ignore[misc]


def trial(model: Module) -> Module:
    """A copy of `model` to be tried, in evaluation mode."""
    return copy.deepcopy(model).eval()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """One that takes as long as that of a training, and changes nothing."""
    return torch.optim.Adam(model.parameters(), lr=0.0, fused=True)


def take_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def first_images(parts: ImageParts, num: int) -> Tensor:
    """x [num, C, H, W] of training images, from the first on and around."""
    raw = parts.data.train.batch(torch.arange(num) % len(parts.data.train)).to(parts.device)
    return parts.preprocess(raw, torch.Generator(parts.device).manual_seed(0))


def lower(key: str, value: object) -> str:
    return f"lower {key} (now {value})"


def stage1_parts(trainer: Trainer, parts: ImageParts) -> list[Expectation]:
    """Steps and validations of stage 1."""
    steps, _, validations = length_of_stage1(trainer, len(parts.data.train))
    size = min(trainer.batch_size, len(parts.data.train)) // trainer.num_ranks
    rows = steps * size + FORWARD * validations * len(parts.data.val) / trainer.num_ranks
    half = resolved_precision(trainer) == "bf16"
    vae, objective = trial(parts.vae), parts.objective
    assert objective is not None  # it is trained
    optimizer = optimizer_of(vae)

    def work(num: int) -> None:
        x = first_images(parts, num)
        with torch.autocast(parts.device.type, torch.bfloat16, enabled=half):
            loss = objective(vae, x, 0).loss
        take_step(loss, optimizer)

    key = "max_steps" if steps == trainer.max_steps else "max_epochs"
    return [Expectation(expected_seconds(work, max(1, size), rows), lower(f"trainer.{key}", getattr(trainer, key)))]


def encode_parts(trainer: Trainer, parts: ImageParts, vae: Autoencoder) -> list[Expectation]:
    """One pass over all images; several ranks share it."""
    num = sum(len(split) for split in (parts.data.train, parts.data.val, parts.data.test))
    block = block_size(parts.data.shape)
    with torch.no_grad():
        seconds = expected_seconds(lambda num: vae.encode(first_images(parts, num)), block, num)
    return [Expectation(seconds / trainer.num_ranks, f"raise trainer.devices (now {trainer.devices})")]


def prior_parts(prior: Prior, train: LatentDataset, val: LatentDataset, lent: FitRun) -> list[Expectation]:
    """All steps, or iterations, that the configuration allows; a fit in closed form takes none.

    Args:
        prior: unfitted.
        train, val: what it will be fitted to.
        lent: to its fit.
    """
    if prior.needs_encoder:
        return []  # which a trial of the prior alone has not
    model = trial(prior)
    if any(isinstance(module, GradientPrior) for module in model.modules()):
        return _by_gradient(model, train, val, lent)
    mixture = next((module for module in model.modules() if isinstance(module, Mixture)), None)
    if mixture is None:
        return []
    passes = mixture.max_iter * mixture.num_restarts
    if passes * len(train) * mixture.scale.numel() < EM_OPERATIONS * LITTLE * LONG_SECONDS:
        return []
    remedy = lower("prior.max_iter", mixture.max_iter)
    return [Expectation(passes * seconds_a_pass(mixture, train, lent) / lent.ranks.world, remedy)]


def seconds_a_pass(mixture: Mixture, train: LatentDataset, lent: FitRun) -> float:
    """Of EM over all of `train`, by a fit of `mixture`, a copy, to few of them; where it models maps laid out, or some
    of the dimensions, to as many numbers of each."""
    num, dims = min(len(train), max(EM_ROWS, 2 * mixture.num_components)), mixture.spec.num_dims
    first = {name: np.asarray(values[:num]).reshape(num, -1)[:, :dims] for name, values in train.params.items()}
    few = LatentDataset(mixture.spec, train.family, first)
    mixture.max_iter, mixture.num_restarts, mixture.tol = EM_PASSES, 1, 0.0
    ends: list[float] = []
    alone = replace(lent, log=lambda *_: ends.append(time.perf_counter()), ranks=ALONE)  # the other ranks wait
    mixture.fit(few, few, alone)
    return (ends[-1] - ends[0]) / max(1, len(ends) - 1) * len(train) / num


def _by_gradient(prior: Prior, train: LatentDataset, val: LatentDataset, lent: FitRun) -> list[Expectation]:
    settings, dims = FitSettings(**lent.settings), train.spec.num_dims
    labels, of_each = train.labels, [len(train)]
    if prior.min_images_a_class and labels is not None:
        of_each = [int(count) for count in torch.bincount(labels) if count]
    courses = [settings.course(num, dims) for num in of_each]
    num_val = len(val) if val.is_certain else max(len(val), settings.val_draws)
    rows = float(sum(course.steps * course.epochs * course.batch_size for course in courses))
    rows += FORWARD * sum(course.epochs * min(num_val, course.held_out or num_val) for course in courses)
    half, optimizer = settings.precision == "bf16-mixed", optimizer_of(prior)
    prior.train()  # held-out losses may take more passes; no prior has statistics that a batch of one lacks

    def work(num: int) -> None:
        y = None
        if labels is not None and prior.num_classes:
            y = labels[torch.arange(num) % len(train)].to(lent.device)
        with torch.autocast(lent.device.type, torch.bfloat16, enabled=half):
            loss = prior.loss(draw_latents(train, num, lent.device), y).mean()
        take_step(loss, optimizer)

    seconds = expected_seconds(work, max(course.batch_size for course in courses), rows / lent.ranks.world)
    if settings.max_seconds is not None:
        seconds = min(seconds, settings.max_seconds * len(courses))
    epochs = max(course.epochs for course in courses)
    steps_bind = settings.max_steps is not None and epochs < settings.max_epochs
    key = "max_steps" if steps_bind else "max_epochs"
    return [Expectation(seconds, lower(f"prior.fit.{key}", getattr(settings, key)))]


def draw_latents(latents: LatentDataset, num: int, device: torch.device) -> Tensor:
    """z [num, *latent] of the first posteriors, and around."""
    return latents.draw(torch.arange(num) % len(latents)).to(device)


def sample_parts(
    settings: Sample, shape: tuple[int, ...], vae: Autoencoder, draw: Callable[[int], Tensor]
) -> list[Expectation]:
    """Drawing and decoding all images of `shape` that are asked for, in full blocks."""
    block = block_size(shape)
    num = block * math.ceil(settings.num / block)
    with torch.no_grad():
        seconds = expected_seconds(lambda num: vae.decode(draw(num)).mean, block, num)
    return [Expectation(seconds, lower("sample.num", settings.num))]


def feature_parts(parts: ImageParts, num: int) -> list[Expectation]:
    """Training the classifier on `num` images; random features take one pass of few of them."""
    data = parts.data
    if data.num_classes < 2:
        return []
    epochs, batches, size = training_length(max(1, num - num_held_out(num)))
    net = (
        FeatureNet(FeatureNetConfig(data.shape, data.num_classes, 0, of_vectors=not data.are_pictures))
        .to(parts.device)
        .eval()
    )
    optimizer = optimizer_of(net)

    def work(num: int) -> None:
        logits = net.logits(first_images(parts, num))
        take_step(F.cross_entropy(logits, torch.zeros(num, dtype=torch.int64, device=parts.device)), optimizer)

    seconds = expected_seconds(work, size, epochs * batches * size)
    return [Expectation(seconds, "give a trained net, evaluation.features=FILE.pt")]


def evaluation_parts(
    settings: Evaluation, parts: ImageParts, vae: Autoencoder, prior: Prior, train: LatentDataset
) -> list[Expectation]:
    """Samples, bounds and annealing; all else is little beside them, but for training images by the million."""
    data = parts.data
    num, bounded = num_compared(data, settings.num_samples), min(settings.num_bound_images, len(data.test))
    draws = bounded * (1 if train.is_certain else settings.importance_samples)
    decoded = draws + SETS * num

    def decode(num: int) -> None:
        vae.decode(draw_latents(train, num, parts.device)).mean.cpu()

    def rate(num: int) -> None:
        prior.log_prob(draw_latents(train, num, parts.device))

    with torch.no_grad():
        an_image = expected_seconds(decode, block_size(data.shape), decoded) / decoded
        samples = expected_seconds(prior.sample, DRAWN_AT_ONCE, num_drawn(settings.num_samples, data, prior, train))
        taken_apart = 2 * affordable(min(len(data.test), settings.num_samples), prior)
        density, rated = 0.0, draws + taken_apart
        if prior.log_prob_is is not Exactness.NONE:
            density = expected_seconds(rate, DRAWN_AT_ONCE, rated) / rated
    samples += SETS * num * an_image + taken_apart * density
    expected = [
        Expectation(samples, lower("evaluation.num_samples", settings.num_samples)),
        Expectation(draws * (an_image + density), lower("evaluation.num_bound_images", settings.num_bound_images)),
    ]
    if (asked := settings.annealing) is not None:
        images = asked.num_images + 2 * asked.bdmc_images
        gradients = images * asked.num_chains * asked.num_steps * asked.leapfrog_steps
        of_one = 3 * (an_image + density)
        expected.append(Expectation(2 * gradients * of_one, lower("evaluation.annealing.num_images", asked.num_images)))
    if num := min(settings.gaps, len(data.test)):
        seconds = gradient_seconds(parts, vae, prior, train, 2 * num * EFFORT.gradients)
        expected.append(Expectation(seconds, lower("evaluation.gaps", settings.gaps)))
    return expected


def gradient_seconds(parts: ImageParts, vae: Autoencoder, prior: Prior, train: LatentDataset, num: int) -> float:
    """Of the gradient of log p(x, z) by `num` latents; as long where there is none."""

    def climb(num: int) -> None:
        z = draw_latents(train, num, parts.device).requires_grad_()
        value = vae.decode(z).mean.sum()
        if prior.log_prob_is is Exactness.EXACT:
            value = value + prior.log_prob(z).sum()
        if value.requires_grad:
            torch.autograd.grad(value, z, allow_unused=True)

    return expected_seconds(climb, GAPS_AT_ONCE, num)


def num_drawn(limit: int, data: ImageData, prior: Prior, train: LatentDataset) -> int:
    """Samples of the learned prior where at most `limit` are asked for."""
    num = num_compared(data, limit)
    total = max(num, min(SCATTERED, limit, len(train)))
    total += num if prior.num_classes else 0
    if train.spec.support is not Support.CODES:  # against those of test images
        held_out = min(limit, len(data.test))
        total += held_out + (0 if train.is_certain else 3 * min(held_out, MAX_KNOWN))
    return total
