"""The features and the evaluation in small: the pipeline's own functions on few samples.

What grows with the square of their number, or with that of the training images, is done at full size, once.
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

from evaluation import distances, features, memorisation
from orchestration.bounded import MAX_BOUND_PIXELS
from orchestration.dissect import dissect
from orchestration.feature_nets import Extractor, feature_net, filled, load_feature_net, num_feature_images
from orchestration.measure import measure
from orchestration.plan_fork import Facts
from orchestration.plan_stages import Probing, files_of, latents_of, seconds_of
from orchestration.sampling import block_size
from orchestration.seen import look
from orchestration.stages import Run
from orchestration.store import Artifact
from orchestration.tracking import Tracker
from orchestration.trained import Trained, cleaned
from stage1_vae.data.images import spread
from stage1_vae.latents import LatentDataset
from stage2_prior.priors.standard_normal import StandardNormal

NUM_FEATURE_IMAGES = 5700
"""Enough for full batches of the feature net's training."""
MAX_PIXELS = 2**26
NUM_FEW, NUM_MORE = 160, 480
DRAWS_FEW, DRAWS_MORE = 500, 2000
NUM_LATENTS = 5000
NUM_DRAWN = 256
SETS = 5
"""Sets of images beside the reference; and as many are searched for copies."""


class Enough(Exception):  # noqa: N818
    """Ends a training that has been watched for long enough."""


def probe_features(probing: Probing) -> Facts:
    """The feature net: some epochs on some images."""
    if probing.job.config.evaluation.features is not None:
        return {"num_images": 0, "seconds": 0.0, "files": {}}
    data = probing.parts.data
    count = min(len(data.train), num_feature_images(data.shape))
    num = min(count, NUM_FEATURE_IMAGES, max(64, MAX_PIXELS // math.prod(data.shape)))
    some = spread(data.train, num)
    read = [time.perf_counter()]
    images = filled(cleaned(probing.parts, some), (num, *data.shape))
    read.append(time.perf_counter())
    labels = None if some.labels is None else some.labels.cpu()
    ends: list[float] = []

    def log(figures: object, epoch: int) -> None:
        ends.append(time.perf_counter())
        if len(ends) == 2:
            raise Enough

    seconds = 0.0
    with suppress(Enough):
        seconds = seconds_of(
            lambda: features.make_feature_net(images, labels, data.num_classes, 0, probing.job.device, log=log)
        )
    net = untrained(probing)
    if len(ends) > 1:  # a classifier of the labels
        epochs, batches, size = features.training_length(num - features.num_held_out(num))
        an_image = (ends[-1] - ends[0]) / (len(ends) - 1) / (batches * size)
        epochs, batches, size = features.training_length(count - features.num_held_out(count))
        seconds = an_image * epochs * batches * size
    else:
        seconds *= min(count, features.MAX_CALIBRATION) / min(num, features.MAX_CALIBRATION)
        epochs = batches = 0
    return {
        "num_images": count,
        "seconds": seconds + (read[1] - read[0]) * count / num,
        "more_bytes": (count - num) * math.prod(data.shape) * 4,
        "epochs": epochs,
        "steps": epochs * batches,
        "files": files_of(net),
    }


def untrained(probing: Probing) -> Artifact:
    """The feature net with random weights, written as the trained one will be."""
    folder = probing.scratch / "features"
    folder.mkdir(exist_ok=True)
    data = probing.parts.data
    net = features.FeatureNet(
        features.FeatureNetConfig(data.shape, data.num_classes, 0, 0.5 if data.num_classes else None)
    )
    save_file(net.state_dict(), folder / "features.safetensors")
    (folder / "features.json").write_text(json.dumps(net.to_config()))
    return Artifact("features", "0" * 20, folder)


def probe_evaluation(probing: Probing) -> Facts:
    """Two small evaluations of untrained stages on latents in full number, and the large searches by themselves."""
    net_artifact = untrained(probing)
    if probing.job.config.evaluation.features is not None:
        net_artifact = feature_net(probing.place("features"), probing.parts)
    net = load_feature_net(net_artifact, probing.job)
    settings = probing.job.config.evaluation
    rows = max(1, min(8192, MAX_BOUND_PIXELS // math.prod(probing.parts.data.shape)))
    num_bounds, block = max(1, rows // settings.importance_samples), block_size(probing.parts.data.shape)
    few = evaluate(probing, net_artifact, min(NUM_FEW, block), num_bounds)
    more = evaluate(probing, net_artifact, min(NUM_MORE, 3 * block), 2 * num_bounds)
    data = probing.parts.data
    num = min(settings.num_samples, len(data.test), len(data.train))
    vectors = torch.rand(num, len(net.extract(torch.zeros(2, *data.shape))[0]))
    return {
        "few": few,
        "more": more,
        "num_samples": num,
        "surgery": [surgery(probing, DRAWS_FEW), surgery(probing, DRAWS_MORE)],
        "seconds_a_pair": aggregate(probing),
        "seconds_an_image": reading(probing, net),
        "seconds_of_distances": distances_in_full(vectors, settings.neighbours),
        "seconds_of_search": search_in_full(vectors, len(data.train)),
    }


def evaluate(probing: Probing, net: Artifact, num: int, num_bounds: int) -> Facts:
    """Seconds of each part of an evaluation with `num` samples, and the bytes of what it wrote."""
    job, parts = probing.job, probing.parts
    annealing = job.config.evaluation.annealing
    small: dict[str, Any] = {"num_samples": num, "num_bound_images": num_bounds}
    if annealing is not None:
        small["annealing"] = annealing.model_copy(
            update={"num_images": 2, "bdmc_images": 2 if annealing.bdmc_images else 0}
        )
    config = job.config.model_copy(update={"evaluation": job.config.evaluation.model_copy(update=small)})
    data = replace(parts.data, train=spread(parts.data.train, num), test=spread(parts.data.test, max(num, num_bounds)))
    latents = [few_latents(probing, split) for split in ("train", "test")]
    folder = probing.scratch / f"evaluation-{num}"
    folder.mkdir()
    curve = [{"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0} for epoch in range(10)]
    histories: dict[str, Any] = {"vae": curve, "fit": {"curve": [], "seconds": 1.0, "num_parameters": 1}}
    quiet: Run = replace(job, config=config)
    with quiet.seeded(0):
        measure(
            quiet, replace(parts, data=data), parts.vae.eval(), parts.prior.eval(), net, (latents[0], latents[1]),
            histories, folder, Tracker(),
        )  # fmt: skip
    figures = json.loads((folder / "figures.json").read_text())
    return {
        "num": min(num, len(data.test), len(data.train)),
        "num_bounds": min(num_bounds, len(data.test)),
        "seconds": figures["seconds"],
        "files": files_of(Artifact("evaluation", "", folder)),
    }


def few_latents(probing: Probing, split: str) -> LatentDataset:
    """The first of the imagined latents: what grows with their number is measured by itself."""
    whole = LatentDataset.load(latents_of(probing).path / split)
    params = {name: values[:NUM_LATENTS] for name, values in whole.params.items()}
    labels = None if whole.labels is None else whole.labels[:NUM_LATENTS].numpy()
    return LatentDataset(whole.spec, whole.family, params, labels)


def surgery(probing: Probing, num: int) -> Facts:
    """Seconds of the surgery with so many draws on few latents."""
    job, parts = probing.job, probing.parts
    evaluation = job.config.evaluation.model_copy(update={"num_samples": num})
    run = replace(job, config=job.config.model_copy(update={"evaluation": evaluation}))
    train, test = (few_latents(probing, split) for split in ("train", "test"))
    baseline = StandardNormal(parts.vae.spec).to(job.device)
    trained = Trained(parts.vae.eval(), parts.prior.eval(), baseline, train, test, parts, job.device)
    drawn = min(num, len(train), len(test))
    return {"num": drawn, "seconds": {"surgery": seconds_of(lambda: dissect(trained, run, "learned"))}}


def aggregate(probing: Probing) -> float:
    """Seconds of the aggregate's density, a draw and a latent; 0 for point masses, which have none."""
    latents = LatentDataset.load(latents_of(probing).path / "train")
    if latents.is_point_mass:
        return 0.0
    z = latents.draw(torch.arange(min(NUM_DRAWN, len(latents))).to(torch.int64)).to(probing.job.device)
    return seconds_of(lambda: latents.log_aggregate(z.double())) / (len(z) * len(latents))


def reading(probing: Probing, net: Extractor) -> float:
    """Seconds a training image to read it and take its features."""
    images = probing.parts.data.train
    look(net, cleaned(probing.parts, spread(images, NUM_FEW)))
    num = min(len(images), max(NUM_MORE, min(10 * NUM_MORE, 2**24 // math.prod(probing.parts.data.shape))))
    return seconds_of(lambda: look(net, cleaned(probing.parts, spread(images, num)))) / num


def distances_in_full(vectors: Tensor, neighbours: int) -> float:
    """Seconds of all distances between sets as large as `vectors` [M, D]; 0 where there are too few for any."""
    if len(vectors) < max(2 * vectors.shape[1], neighbours + 1):
        return 0.0
    references: list[distances.Reference] = []
    once = seconds_of(lambda: references.append(distances.Reference.of(vectors, neighbours)))
    return once + SETS * seconds_of(lambda: distances.distances(references[0], torch.rand_like(vectors)))


def search_in_full(vectors: Tensor, num_training: int) -> float:
    """Seconds in which all sets as large as `vectors` [M, D] are searched for copies of so many training images."""
    training = torch.rand(num_training, vectors.shape[1])
    chunk = max(1, memorisation.SCORES_AT_ONCE // num_training)
    short, long = min(chunk, len(vectors)), min(4 * chunk, len(vectors))
    first, more = (seconds_of(partial(memorisation.nearest, vectors[:num], training)) for num in (short, long))
    a_row = max(0.0, more - first) / (long - short) if long > short else 0.0
    return SETS * (first + a_row * (len(vectors) - short))
