"""Training throughput of each objective of stage 1 beside a bare loop of the same mathematics.

    python -m benchmarks.objectives.throughput --data DIR [--rounds 7] [--only NAME ...] [--out FILE]

The reference net on MNIST, batches of 128, float32, not compiled. Ours is `stage1_vae.training.train` under the trainer
of the pipeline, with what `vae=NAME` assembles; the bare loop takes batches from a tensor of images and steps fused
Adam on the losses of `benchmarks/objectives/bare.py`. They train in turn, in one process; a ratio is that of medians.
Exits with 1 where ours has less than 0.9 of the images a second.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from benchmarks.child import machine
from benchmarks.objectives.bare import LOSSES, Bare
from expost.base.command import Command
from expost.base.places import CONF
from expost.base.runtime import keep_freed_memory
from expost.config.schema import validate
from expost.job import Job
from expost.parts.assembly import ImageParts, assemble, join
from expost.store.artifacts import Store
from expost.training.trainer import lightning_fit
from stage1_vae.data.images import subset
from stage1_vae.machine import flushed_denormals
from stage1_vae.training.train import Settings, train
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior

LEAST, SIZE, NUM, EPOCHS = 0.9, 128, 12_800, 3
ALWAYS = ("data=mnist", "likelihood=bernoulli", "trainer.max_steps=null", "logger=csv")


class Timed(pl.Callback):
    """Seconds of each epoch, from its start to the end of its last step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == trainer.num_training_batches - 1:
            self.seconds.append(time.perf_counter() - self.started)


def assembled(data: Path, root: Path, words: Sequence[str], num: int = NUM) -> tuple[Job, ImageParts]:
    """What `python pipeline.py WORDS` would train, on the first `num` images of the training set."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[*ALWAYS, f"data.root={data}", *words])
    job, parts = assemble(Job(validate(config), Command(), Store(root), quiet=True))
    assert isinstance(parts, ImageParts)
    few = replace(parts.data, train=subset(parts.data.train, num), val=subset(parts.data.val, SIZE))
    return job, replace(parts, data=few)


def ours(job: Job, parts: ImageParts) -> list[float]:
    """Seconds of each epoch of a training that goes on."""
    assert isinstance(parts.vae, VAE) and parts.objective is not None
    timed, trainer = Timed(), job.config.trainer.model_copy(update={"max_epochs": EPOCHS, "val_every": EPOCHS})
    settings = Settings(**{field.name: getattr(trainer, field.name) for field in fields(Settings)})
    batches = parts.batches(parts.data.train, SIZE, job.ranks, shuffle=True, seed=0)
    val_batches = parts.batches(parts.data.val, SIZE, job.ranks)
    train(parts.vae, parts.objective, batches, val_batches, settings, lightning_fit(trainer, (), watchers=(timed,)), 0)
    return timed.seconds


def epochs(loss: Callable[[Tensor], Tensor], optimiser: torch.optim.Optimizer, images: Tensor) -> list[float]:
    """The same of a bare loop, with the images of a data set in one tensor."""
    seconds = []
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for rows in torch.randperm(len(images)).split(SIZE):
            optimiser.zero_grad(set_to_none=True)
            loss(images[rows]).backward()
            optimiser.step()
        seconds.append(time.perf_counter() - started)
    return seconds


@flushed_denormals()  # both sides, as stages are made
def compared(name: str, data: Path, rounds: int) -> tuple[float, float]:
    """Median images a second, ours and the bare loop's; the first epoch of each round warms up."""
    vae, changes, loss = LOSSES[name]
    words = ["net=mlp", f"vae={vae}", *(f"vae.objective.{key}={value}" for key, value in changes.items())]
    with tempfile.TemporaryDirectory() as root:
        job, parts = assembled(data, Path(root), words)
    if parts.objective is not None and isinstance(parts.objective.prior, Prior):
        join(parts.objective.prior, job, parts)
    images = parts.preprocess(parts.data.train.batch(torch.arange(NUM)), torch.Generator()).flatten(1)
    net = Bare()
    loss(net, images[:SIZE])  # makes what is learned beside the two nets
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        taken[0].extend(ours(job, parts)[1:])
        taken[1].extend(epochs(partial(loss, net), optimiser, images)[1:])
    return NUM / statistics.median(taken[0]), NUM / statistics.median(taken[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    keep_freed_memory()  # both sides, as the command line
    found = {}
    for name in options.only:
        found[name] = compared(name, options.data.absolute(), options.rounds)
        print(f"{name}: {found[name][0]:,.0f} and {found[name][1]:,.0f} images a second", file=sys.stderr, flush=True)
    slow = [f"{name} {ours / theirs:.2f}" for name, (ours, theirs) in found.items() if ours < LEAST * theirs]
    rows = [f"| {name} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |" for name, (ours, theirs) in found.items()]
    text = "\n\n".join(
        [
            "## Training throughput of the objectives",
            "The reference net (784-512-16-512-784) on MNIST, float32, not compiled; images a second, medians of "
            f"{options.rounds * (EPOCHS - 1)} epochs of {NUM:,} images, batches of {SIZE}, in turn with a bare loop of "
            "the same mathematics; denormal numbers are zero and freed memory is kept for both; "
            f"{torch.get_num_threads()} threads.",
            "    python -m benchmarks.objectives.throughput --data DIR",
            "| objective | ours | bare loop | ratio |\n|---|---:|---:|---:|\n" + "\n".join(rows),
            f"At least {LEAST} of the bare loop: {'missed by ' + ', '.join(slow) if slow else 'reached by all'}.",
            f"- {machine()} at the end.",
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
