"""The features and the evaluation in small: the pipeline's own functions on few samples.

What grows with the square of their number, or with that of the training images, is measured by itself.
"""

import json
import math
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from expost.costs.fork import Facts, at_most
from expost.costs.watch import at, grown, seconds_of, straight
from expost.evaluation import distances
from expost.evaluation.images import features, memorisation
from expost.job import Run
from expost.measure.bounds import MAX_BOUND_PIXELS, measure_bounds
from expost.measure.classes import measure_classes
from expost.measure.evaluate import measure, trained_stages
from expost.measure.feature_nets import Nets, filled, load_feature_net, load_own_net, num_feature_images
from expost.measure.image_sets import look, seen_images
from expost.measure.latents import MAX_DRAWS, dissect
from expost.measure.subject import Floor, Trained, baseline_prior, cleaned, counted_floors
from expost.parts.sampling import block_size
from expost.parts.weights import Histories
from expost.plan.stages import Probing, files_of, some_latents
from expost.stages.features import feature_net
from expost.store.artifacts import Artifact
from expost.training.tracking import Tracker
from stage1_vae.data.images import spread
from stage2_prior.fitting import FitReport

MIN_FEATURE_IMAGES, MAX_FEATURE_IMAGES = 64, 5700
"""The larger is enough for full batches of the feature net's training."""
BLOCK_IMAGES = 500
"""That the feature net is scaled with at once."""
EPOCHS_TIMED = 2
NUM_FEW, NUM_DRAWS, NUM_VECTORS = 160, 500, 500
NUM_LATENTS = 4096
FEW_DRAWN, MANY_DRAWN = 256, 1024
SETS = 5
"""Sets of images beside the reference, but for those of priors by counting; and as many are searched for copies."""


class Enough(Exception):  # noqa: N818  # no error
    """Ends a training that has been watched for long enough."""


def probe_features(probing: Probing) -> Facts:
    """The feature net: two epochs on some images, and the memory of the whole batches that it is scaled with."""
    if probing.job.config.evaluation.features is not None:
        return {"num_images": 0, "seconds": 0.0, "files": {}}
    data, enough = probing.parts.data, probing.enough
    count = min(len(data.train), num_feature_images(data.shape))

    def cleaned_ones(num: int) -> Tensor:
        return filled(cleaned(probing.parts, spread(data.train, num)), (num, *data.shape))

    def make(num: int) -> float:
        images = cleaned_ones(num)
        labels = None if data.train.labels is None else spread(data.train, num).labels
        ends = [time.perf_counter()]

        def log(figures: object, epoch: int) -> None:
            ends.append(time.perf_counter())
            if epoch + 1 == EPOCHS_TIMED:
                raise Enough

        with suppress(Enough):  # it ends so, unless it ends by itself
            features.make_feature_net(images, labels, data.num_classes, 0, probing.job.device, log=log)
        return (ends[-1] if len(ends) > 1 else time.perf_counter()) - ends[0]

    few = min(MIN_FEATURE_IMAGES, count)
    make(few)  # pays for what is there once in a process
    read = grown(lambda num: seconds_of(lambda: cleaned_ones(num)), few, min(count, MAX_FEATURE_IMAGES), enough)
    made = grown(make, few, min(count, MAX_FEATURE_IMAGES), enough, least=2)  # a small batch is slow an image
    seconds, epochs, steps = at(read, count), 0, 0
    if data.num_classes > 1:
        lengths = [features.training_length(num - features.num_held_out(num)) for num, _ in made]
        a_step = [(size, each / (EPOCHS_TIMED * n)) for (_, each), (_, n, size) in zip(made, lengths, strict=True)]
        epochs, batches, batch_size = features.training_length(count - features.num_held_out(count))
        steps = epochs * batches
        seconds += steps * at(a_step, batch_size)
    else:
        seconds += at(made, min(count, features.MAX_CALIBRATION))
    held = max(made[-1][0], min(count, BLOCK_IMAGES))
    with at_most(2 * enough):  # the net is scaled with full blocks, whose first layers take the most
        untrained_net(probing).to(probing.job.device).extract(torch.rand(min(count, BLOCK_IMAGES), *data.shape))
    return {
        "num_images": count,
        "seconds": seconds,
        "more_bytes": (count - held) * math.prod(data.shape) * 4,
        "epochs": epochs,
        "steps": steps,
        "files": files_of(untrained(probing)),
    }


def untrained_net(probing: Probing) -> features.FeatureNet:
    data = probing.parts.data
    accuracy = 0.5 if data.num_classes else None
    return features.FeatureNet(features.FeatureNetConfig(data.shape, data.num_classes, 0, accuracy))


def untrained(probing: Probing) -> Artifact:
    """The feature net with random weights, written as the trained one will be."""
    folder = probing.scratch / "features"
    folder.mkdir(exist_ok=True)
    net = untrained_net(probing)
    save_file(net.state_dict(), folder / "features.safetensors")
    (folder / "features.json").write_text(json.dumps(net.to_config()), encoding="utf-8")
    return Artifact("features", "0" * 20, folder)


def probe_evaluation(probing: Probing) -> Facts:
    """A small evaluation of untrained stages, and by itself each part of it that grows."""
    net_artifact = untrained(probing)
    if probing.job.config.evaluation.features is not None:
        net_artifact = feature_net(probing.place("features"), probing.parts)
    net = load_feature_net(net_artifact, probing.job)
    settings, data, enough = probing.job.config.evaluation, probing.parts.data, probing.enough
    rows = max(1, min(8192, MAX_BOUND_PIXELS // math.prod(data.shape)))
    num_bounds, block = max(1, rows // settings.importance_samples), block_size(data.shape)
    whole = evaluate(probing, net_artifact, min(NUM_FEW, block), num_bounds)
    num = min(settings.num_samples, len(data.test), len(data.train))
    vectors = torch.rand(num, len(net.extract(torch.zeros(2, *data.shape))[0]))
    trained = small_trained(probing)
    sets = SETS + len(trained.floors)
    judge = load_own_net(untrained(probing), probing.job) if trained.prior.num_classes else None

    def samples(num: int) -> float:
        seconds = seconds_of(lambda: seen_images(trained, net, num))
        return seconds if judge is None else seconds + seconds_of(lambda: measure_classes(trained, judge, num, []))

    def bounds(num: int) -> float:
        return seconds_of(lambda: measure_bounds(trained, asked(probing, num_bound_images=num)))

    def read(num: int) -> float:
        return seconds_of(lambda: look(net, cleaned(probing.parts, spread(data.train, num))))

    def counted(num: int) -> float:
        return seconds_of(lambda: floors_of(probing, num))

    def dissected(num: int) -> float:
        return seconds_of(lambda: dissect(trained, asked(probing, num_samples=num), "learned"))

    return whole | {
        "num_samples": num,
        "samples": grown(samples, min(NUM_FEW, block), min(num, len(trained.test)), enough),
        "bounds": grown(bounds, num_bounds, min(settings.num_bound_images, len(trained.test)), enough),
        "reading": grown(read, min(NUM_FEW, block), len(data.train), enough),
        "surgery": grown(dissected, NUM_DRAWS, min(MAX_DRAWS, len(trained.train), len(trained.test), num), enough),
        "few_latents": {"train": len(trained.train), "test": len(trained.test)},
        **aggregate(probing),
        "floors": grown(counted, NUM_LATENTS, len(data.train), enough) if trained.floors else [],
        "distances": grown(partial(distances_of, vectors, settings.neighbours, sets), NUM_VECTORS, num, enough),
        "seconds_of_search": sets * search(vectors, len(data.train), enough),
    }


def asked(probing: Probing, **changes: Any) -> Run:
    """The job, which asks for another evaluation."""
    evaluation = probing.job.config.evaluation.model_copy(update=changes)
    return replace(probing.job, config=probing.job.config.model_copy(update={"evaluation": evaluation}))


def small_trained(probing: Probing) -> Trained:
    """Untrained stages on few latents: what grows with their number is measured by itself."""
    job, parts = probing.job, probing.parts
    train, test = (some_latents(probing, split, NUM_LATENTS) for split in ("train", "test"))
    baseline = baseline_prior(parts.vae.spec).to(job.device)
    data = replace(parts.data, test=spread(parts.data.test, len(test)))
    few = replace(parts, data=data)
    floors = floors_of(probing, NUM_LATENTS)
    return Trained(parts.vae.eval(), parts.prior.eval(), baseline, train, test, few, job.device, floors)


def floors_of(probing: Probing, num: int) -> dict[str, Floor]:
    """Of codes and bits: priors by counting of so many latents."""
    train, val = (some_latents(probing, split, num) for split in ("train", "val"))
    return counted_floors(train, val, probing.job, probing.job.launch.choices.get("prior", "learned"))


def evaluate(probing: Probing, net: Artifact, num: int, num_bounds: int) -> Facts:
    """Seconds of the parts of an evaluation that do not grow, and the bytes of what it wrote."""
    annealing = probing.job.config.evaluation.annealing
    small: dict[str, Any] = {"num_samples": num, "num_bound_images": num_bounds}
    if annealing is not None:
        bdmc = 2 if annealing.bdmc_images else 0
        small["annealing"] = annealing.model_copy(update={"num_images": 2, "bdmc_images": bdmc})
    trained, data = small_trained(probing), probing.parts.data
    few = replace(data, train=spread(data.train, num), test=spread(data.test, max(num, num_bounds)))
    parts = replace(probing.parts, data=few)
    folder = probing.scratch / "evaluation"
    folder.mkdir()
    curve = [{"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0} for epoch in range(10)]
    histories = Histories(curve, FitReport(1.0, None, None))
    quiet = asked(probing, **small)
    with quiet.seeded(0):
        latents = (trained.train, some_latents(probing, "val", NUM_LATENTS), trained.test)
        nets = Nets(net, untrained(probing) if parts.prior.num_classes else None)
        models = trained.vae, trained.prior
        measure(quiet, trained_stages(quiet, parts, *models, latents), nets, histories, folder, Tracker())
    seconds = json.loads((folder / "figures.json").read_text(encoding="utf-8"))["seconds"]
    return {
        "annealing": seconds["annealing"],
        "pictures": seconds["pictures"],
        "files": files_of(Artifact("evaluation", "", folder)),
    }


def aggregate(probing: Probing) -> Facts:
    """Seconds of the aggregate's density a draw and a latent, and a latent whatever the draws; 0 for point masses."""
    whole = some_latents(probing, "train", len(probing.parts.data.train))
    if whole.is_point_mass:
        return {"seconds_a_pair": 0.0, "seconds_a_latent": 0.0}
    draws = whole.draw(torch.arange(MANY_DRAWN) % len(whole)).to(probing.job.device).double()

    def density(num: int) -> float:
        latents = some_latents(probing, "train", num)
        return seconds_of(lambda: latents.log_aggregate(draws[:FEW_DRAWN]))

    num, few = grown(density, NUM_LATENTS, len(whole), probing.enough / 2)[-1]
    latents = some_latents(probing, "train", num)
    many = seconds_of(lambda: latents.log_aggregate(draws))
    a_latent, a_pair = straight([(FEW_DRAWN, few / num), (MANY_DRAWN, many / num)])
    return {"seconds_a_pair": a_pair, "seconds_a_latent": a_latent}


def distances_of(vectors: Tensor, neighbours: int, sets: int, num: int) -> float:
    """Seconds of all distances of `sets` as large as the first `num` of `vectors`; 0 where there are too few."""
    some = vectors[:num]
    if len(some) < max(2 * some.shape[1], neighbours + 1):
        return 0.0
    references: list[distances.Reference] = []
    once = seconds_of(lambda: references.append(distances.Reference.of(some, neighbours)))
    return once + sets * seconds_of(lambda: distances.distances(references[0], torch.rand_like(some)))


def search(vectors: Tensor, num_training: int, enough: float) -> float:
    """Seconds in which one set as large as `vectors` [M, D] is searched for copies of so many training images."""
    training = torch.rand(num_training, vectors.shape[1])

    def nearest(num: int) -> float:
        return seconds_of(lambda: memorisation.nearest(vectors[:num], training))

    once = nearest(1)
    chunk = min(len(vectors), max(1, memorisation.SCORES_AT_ONCE // num_training))
    return once + at(grown(lambda num: max(1e-9, nearest(num) - once), chunk, len(vectors), enough), len(vectors))
