"""A stage that is expected to take long says so before it starts, with the key that makes it shorter.

A few images or latents are timed, in numbers that grow until they tell; from them follows all of the stage, as in
`stage=plan`, but within seconds. What is too little to take long is recognised by the first of them. Nothing of the
stage changes: models are copies, and torch's generators are put back.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expost.config.schema import Sample
from expost.evaluation.images.features import FeatureNet, FeatureNetConfig, num_held_out, training_length
from expost.forecast.timing import FORWARD, GROWTH, in_time, length_of_stage1, linear_seconds, seconds_of
from expost.job import Run
from expost.measure.image_sets import SCATTERED, num_compared
from expost.measure.latents import MAX_KNOWN
from expost.parts.assembly import Parts, resolved_fit
from expost.parts.sampling import block_size
from expost.training.devices import resolved_precision
from expost.training.tracking import Tracker
from stage1_vae.latents import LatentDataset, Support
from stage1_vae.vae import VAE
from stage2_prior.fit_settings import FitSettings
from stage2_prior.fitting import FitRun
from stage2_prior.held_out import affordable
from stage2_prior.prior import Exactness, Prior
from stage2_prior.priors.mixture import Mixture
from stage2_prior.wrappers.per_class import PerClass

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
SETS = 4
"""Of decoded images: baseline, aggregate, reconstructions, learned."""


@dataclass(frozen=True)
class Part:
    """Of a stage: what it takes, and what makes it shorter, in words."""

    seconds: float
    remedy: str


def foretell(run: Run, stage: str, parts: Callable[[], list[Part]]) -> None:
    """One line where the `parts` of a stage take longer than ten minutes; rank 0 speaks, with a rank's share."""
    if run.quiet or run.ranks.rank > 0:
        return
    with run.seeded(0):
        found = parts()
    total = sum(part.seconds for part in found)
    if total > LONG_SECONDS:
        longest = max(found, key=lambda part: part.seconds)
        words = f"{total / 60:.0f} min" if total < MOST_MINUTES * 60 else in_time(total)
        run.say(stage, f"is expected to take up to about {words}; to shorten it, {longest.remedy}")


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


def some_images(run: Run, parts: Parts, num: int) -> Tensor:
    """x [num, C, H, W] of training images, from the first on and around."""
    raw = parts.data.train.batch(torch.arange(num) % len(parts.data.train)).to(run.device)
    return parts.preprocess(raw, torch.Generator(run.device).manual_seed(0))


def stage1_parts(run: Run, parts: Parts) -> list[Part]:
    """Steps and validations of stage 1."""
    trainer = run.config.trainer
    steps, _, validations = length_of_stage1(trainer, len(parts.data.train))
    size = min(trainer.batch_size, len(parts.data.train)) // trainer.num_ranks
    rows = steps * size + FORWARD * validations * len(parts.data.val) / trainer.num_ranks
    half = resolved_precision(trainer) == "bf16"
    vae = trial(parts.vae)
    optimizer = optimizer_of(vae)

    def work(num: int) -> None:
        x = some_images(run, parts, num)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=half):
            loss = parts.objective(vae, x, 0).loss
        take_step(loss, optimizer)

    key = "max_steps" if steps == trainer.max_steps else "max_epochs"
    return [Part(expected_seconds(work, max(1, size), rows), lower(f"trainer.{key}", getattr(trainer, key)))]


def lower(key: str, value: object) -> str:
    return f"lower {key} (now {value})"


def encode_parts(run: Run, parts: Parts, vae: VAE) -> list[Part]:
    """One pass over all images; several ranks share it."""
    num = sum(len(split) for split in (parts.data.train, parts.data.val, parts.data.test))
    copied, block = trial(vae), block_size(parts.data.shape)
    with torch.no_grad():
        seconds = expected_seconds(lambda num: copied.encode(some_images(run, parts, num)), block, num)
    trainer = run.config.trainer
    return [Part(seconds / trainer.num_ranks, f"raise trainer.devices (now {trainer.devices})")]


def prior_parts(run: Run, prior: Prior, train: LatentDataset, val: LatentDataset) -> list[Part]:
    """All steps, or iterations, that the configuration allows; a fit in closed form takes none."""
    node, ranks = run.config.prior, run.config.trainer.num_ranks if prior.fits_in_ranks else 1
    copied = trial(prior)
    one = next((each for each in copied.modules() if isinstance(each, PerClass)), None)
    if "fit" in node:
        return _by_gradient(run, copied, one, train, val, ranks)
    if "max_iter" not in node:
        return []
    mixture = next((each for each in copied.modules() if isinstance(each, Mixture)), None)
    if mixture is None:
        return []
    passes = mixture.max_iter * mixture.num_restarts
    if passes * len(train) * mixture.scale.numel() < EM_OPERATIONS * LITTLE * LONG_SECONDS:
        return []
    remedy = lower("prior.max_iter", mixture.max_iter)
    return [Part(passes * seconds_a_pass(run, mixture, train) / ranks, remedy)]


def seconds_a_pass(run: Run, mixture: Mixture, train: LatentDataset) -> float:
    """Of EM over all of `train`, by a fit of `mixture`, a copy, to few of them."""
    num = min(len(train), max(EM_ROWS, 2 * mixture.num_components))
    few = LatentDataset(train.spec, train.family, {name: values[:num] for name, values in train.params.items()})
    mixture.max_iter, mixture.num_restarts, mixture.tol = EM_PASSES, 1, 0.0
    ends: list[float] = []
    lent = FitRun(run.device, 0, lambda *_: ends.append(time.perf_counter()), run.lightning_fit(Tracker()))
    mixture.fit(few, few, lent)
    return (ends[-1] - ends[0]) / max(1, len(ends) - 1) * len(train) / num


def _by_gradient(
    run: Run, prior: Prior, one: PerClass | None, train: LatentDataset, val: LatentDataset, ranks: int
) -> list[Part]:
    settings, dims = FitSettings(**resolved_fit(run)), train.spec.num_dims
    labels, of_each = train.labels, [len(train)]
    if one is not None and labels is not None:
        of_each = [int(count) for count in torch.bincount(labels) if count]
    courses = [settings.course(num, dims) for num in of_each]
    num_val = len(val) if val.is_certain else max(len(val), settings.val_draws)
    rows = float(sum(course.steps * course.epochs * course.batch_size for course in courses))
    rows += FORWARD * sum(course.epochs * min(num_val, course.held_out or num_val) for course in courses)
    half, optimizer = settings.precision == "bf16-mixed", optimizer_of(prior)

    def work(num: int) -> None:
        y = None if labels is None or not prior.num_classes else labels[torch.arange(num) % len(train)].to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=half):
            loss = prior.loss(drawn(train, num, run), y).mean()
        take_step(loss, optimizer)

    seconds = expected_seconds(work, max(course.batch_size for course in courses), rows / ranks)
    if settings.max_seconds is not None:
        seconds = min(seconds, settings.max_seconds * len(courses))
    epochs = max(course.epochs for course in courses)
    steps_bind = settings.max_steps is not None and epochs < settings.max_epochs
    key = "max_steps" if steps_bind else "max_epochs"
    return [Part(seconds, lower(f"prior.fit.{key}", getattr(settings, key)))]


def drawn(latents: LatentDataset, num: int, run: Run) -> Tensor:
    """z [num, *latent] of the first posteriors, and around."""
    return latents.draw(torch.arange(num) % len(latents)).to(run.device)


def sample_parts(run: Run, parts: Parts, vae: VAE, draw: Callable[[int], Tensor], settings: Sample) -> list[Part]:
    """Drawing and decoding all images that are asked for, in full blocks."""
    block = block_size(parts.data.shape)
    num = block * math.ceil(settings.num / block)
    with torch.no_grad():
        seconds = expected_seconds(lambda num: vae.decode(draw(num)).mean, block, num)
    return [Part(seconds, lower("sample.num", settings.num))]


def feature_parts(run: Run, parts: Parts, num: int) -> list[Part]:
    """Training the classifier on `num` images; random features take one pass of few of them."""
    data = parts.data
    if data.num_classes < 2:
        return []
    epochs, batches, size = training_length(max(1, num - num_held_out(num)))
    net = FeatureNet(FeatureNetConfig(data.shape, data.num_classes, 0)).to(run.device).eval()
    optimizer = optimizer_of(net)

    def work(num: int) -> None:
        logits = net.logits(some_images(run, parts, num))
        take_step(F.cross_entropy(logits, torch.zeros(num, dtype=torch.int64, device=run.device)), optimizer)

    seconds = expected_seconds(work, size, epochs * batches * size)
    return [Part(seconds, "give a trained net, evaluation.features=FILE.pt")]


def evaluation_parts(run: Run, parts: Parts, vae: VAE, prior: Prior, train: LatentDataset) -> list[Part]:
    """Samples, bounds and annealing; all else is little beside them, but for training images by the million."""
    settings, data = run.config.evaluation, parts.data
    num, bounded = num_compared(data, settings.num_samples), min(settings.num_bound_images, len(data.test))
    draws = 1 if train.is_certain else settings.importance_samples
    block = block_size(data.shape)

    def decode(num: int) -> None:
        vae.decode(drawn(train, num, run)).mean.cpu()

    with torch.no_grad():
        an_image = expected_seconds(decode, block, bounded * draws + SETS * num) / (bounded * draws + SETS * num)
        samples = expected_seconds(prior.sample, DRAWN_AT_ONCE, num_drawn(run, parts, prior, train))
        density = 0.0
        taken_apart = 2 * affordable(min(len(data.test), settings.num_samples), prior)
        if prior.log_prob_is is not Exactness.NONE:
            rows = bounded * draws + taken_apart
            density = expected_seconds(lambda num: prior.log_prob(drawn(train, num, run)), DRAWN_AT_ONCE, rows) / rows
    found = [
        Part(
            samples + SETS * num * an_image + taken_apart * density,
            lower("evaluation.num_samples", settings.num_samples),
        ),
        Part(bounded * draws * (an_image + density), lower("evaluation.num_bound_images", settings.num_bound_images)),
    ]
    if (asked := settings.annealing) is not None:
        images = asked.num_images + 2 * asked.bdmc_images
        gradients = images * asked.num_chains * asked.num_steps * asked.leapfrog_steps
        of_one = 3 * (an_image + density)
        found.append(Part(2 * gradients * of_one, lower("evaluation.annealing.num_images", asked.num_images)))
    return found


def num_drawn(run: Run, parts: Parts, prior: Prior, train: LatentDataset) -> int:
    """Samples of the learned prior."""
    limit = run.config.evaluation.num_samples
    num = num_compared(parts.data, limit)
    total = max(num, min(SCATTERED, limit, len(train)))
    total += num if prior.num_classes else 0
    if train.spec.support is not Support.CODES:  # against those of test images
        held_out = min(limit, len(parts.data.test))
        total += held_out + (0 if train.is_certain else 3 * min(held_out, MAX_KNOWN))
    return total
