"""Stage 1's training run, with real Lightning trainers on real digits."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch._dynamo.utils import counters

from orchestration.hardware import trainer_factory
from orchestration.schema import Trainer
from stage1_vae.bottlenecks.delta import Delta
from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.data.digits import Digits
from stage1_vae.data.images import ImageData, InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.module import TrainingError
from stage1_vae.nets.mlp import MLP
from stage1_vae.objective import Objective, Terms
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.objectives.reconstruction import Reconstruction
from stage1_vae.rate import rate_per_dim_nats
from stage1_vae.train import train
from stage1_vae.vae import VAE

DEFAULTS = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf/trainer/default.yaml"))
PREPROCESS = Preprocess(levels=17)
STEPS = 10  # an epoch of 1,257 images, 128 a batch

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return Digits().load()


def settings(**changes: Any) -> Trainer:
    return Trainer(**{**DEFAULTS, "accelerator": "cpu", "progress": False, "max_epochs": 3, "val_every": 1, **changes})


def make_vae(seed: int = 0, bottleneck: type = Gaussian, hidden: int = 64, latent_dim: int = 4) -> VAE:
    torch.manual_seed(seed)
    return VAE((1, 8, 8), MLP([hidden]), partial(bottleneck, latent_dim=latent_dim), BernoulliLikelihood())


def run(
    data: ImageData,
    vae: VAE,
    objective: Objective | None = None,
    seed: int = 0,
    watchers: tuple[pl.Callback, ...] = (),
    train_images: InMemory | None = None,
    val_images: InMemory | None = None,
    preprocess: Preprocess = PREPROCESS,
    shuffle: bool = True,
    **changes: Any,
) -> list[dict[str, float]]:
    chosen = settings(**changes)
    make = trainer_factory(chosen, [])

    def make_watched(*, callbacks: list[pl.Callback], **asked: Any) -> pl.Trainer:
        return make(callbacks=[*callbacks, *watchers], **asked)

    batches = Batches(train_images or data.train, preprocess, chosen.batch_size, shuffle, seed)
    val_batches = Batches(val_images or data.val, preprocess, 500, shuffle=False, seed=0)
    return train(vae, objective or ELBO(), batches, val_batches, chosen, make_watched, seed)


def weights(vae: VAE) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in vae.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class Watch(pl.Callback):
    """Calls `look(vae, trainer)` after each optimiser step and keeps the answers."""

    def __init__(self, look: Callable[[VAE, pl.Trainer], Any]) -> None:
        self.look, self.seen = look, []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.seen.append(self.look(module.step.vae, trainer))


def gradient_norm(vae: VAE, trainer: pl.Trainer) -> float:
    return math.sqrt(sum(p.grad.square().sum().item() for p in vae.parameters()))


def learning_rate_after(vae: VAE, trainer: pl.Trainer) -> float:
    return trainer.optimizers[0].param_groups[0]["lr"]


def test_loss_falls_and_history_has_every_epoch(data: ImageData) -> None:
    history = run(data, make_vae(), max_epochs=8)
    assert [epoch["epoch"] for epoch in history] == list(range(8))
    figures = {f"{split}_{name}" for split in ("train", "val") for name in ("loss", "distortion_nats", "rate_nats")}
    for epoch in history:
        assert set(epoch) == figures | {"epoch"} and all(math.isfinite(value) for value in epoch.values())
        total = epoch["train_distortion_nats"] + epoch["train_rate_nats"]
        assert epoch["train_loss"] == pytest.approx(total, rel=1e-5)
    for split in ("train", "val"):
        assert history[-1][f"{split}_loss"] < history[0][f"{split}_loss"] - 5
        assert history[-1][f"{split}_loss"] < history[3][f"{split}_loss"]
    assert abs(history[-1]["train_loss"] - history[-1]["val_loss"]) < 3, "the splits are not in the same unit"


def test_validation_comes_as_often_as_asked(data: ImageData) -> None:
    history = run(data, make_vae(), max_epochs=5, val_every=2)
    assert ["val_loss" in epoch for epoch in history] == [False, True, False, True, False]
    assert "val_loss" in run(data, make_vae(), max_epochs=2, val_every=10)[-1], "a short run is validated at its end"


def test_a_seed_decides_every_bit(data: ImageData) -> None:
    disturbances = iter(range(10))

    def trained(weights_seed: int, seed: int) -> dict[str, Tensor]:
        vae = make_vae(weights_seed)
        torch.rand(next(disturbances))  # what ran before must not matter
        run(data, vae, seed=seed, max_epochs=2)
        return weights(vae)

    first = trained(0, 0)
    assert equal(first, trained(0, 0))
    assert not equal(first, trained(0, 1)) and not equal(first, trained(1, 0))


@pytest.mark.parametrize("split", ["train", "val"])
def test_nan_in_the_images_stops_at_once(data: ImageData, split: str) -> None:
    clean = {name: getattr(data, name).images.float() / 16 for name in ("train", "val")}
    clean[split][min(300, len(clean[split]) - 1), 0, 3, 3] = float("nan")
    step = {"train": 2, "val": STEPS}[split]  # image 300 is in the third batch
    with pytest.raises(TrainingError, match=rf"^the images became NaN or infinite at step {step} \(epoch 0\)"):
        run(
            data,
            make_vae(),
            train_images=InMemory(clean["train"]),
            val_images=InMemory(clean["val"]),
            preprocess=Preprocess(levels=None),
            shuffle=False,
        )


def test_an_absurd_learning_rate_stops_at_once(data: ImageData) -> None:
    steps = Watch(lambda vae, trainer: trainer.global_step)
    with pytest.raises(TrainingError, match=r"^(the rate|the distortion) became .* at step 1 .*trainer\.lr") as caught:
        run(data, make_vae(), lr=1e30, watchers=(steps,))
    assert steps.seen == [1] and "\n" not in str(caught.value)


def test_a_broken_parameter_is_named(data: ImageData) -> None:
    vae = make_vae()
    vae.decoder.output.weight.data[3, 3] = float("inf")
    with pytest.raises(TrainingError, match=r"^parameter decoder\.output\.weight .* at step 0 "):
        run(data, vae)


def test_ema_leaves_the_average_of_the_weights(data: ImageData) -> None:
    vae, watch = make_vae(), Watch(lambda vae, trainer: weights(vae))
    run(data, vae, ema_decay=0.8, watchers=(watch,), max_epochs=2)
    average = watch.seen[0]
    for step in watch.seen[1:]:
        average = {name: 0.8 * average[name] + 0.2 * step[name] for name in average}
    final = weights(vae)
    assert len(watch.seen) == 2 * STEPS
    for name in final:
        torch.testing.assert_close(final[name], average[name], rtol=1e-4, atol=1e-5)
    assert not equal(final, watch.seen[-1])


def test_gradients_are_clipped(data: ImageData) -> None:
    free, clipped = Watch(gradient_norm), Watch(gradient_norm)
    run(data, make_vae(), max_epochs=1, watchers=(free,))
    run(data, make_vae(), max_epochs=1, watchers=(clipped,), gradient_clip=0.5)
    assert min(free.seen) > 1
    assert all(norm == pytest.approx(0.5, rel=1e-3) for norm in clipped.seen)


@pytest.mark.parametrize("max_steps", [None, 15])
def test_learning_rate_warms_up_and_falls_along_a_cosine(data: ImageData, max_steps: int | None) -> None:
    watch = Watch(learning_rate_after)
    run(
        data,
        make_vae(),
        lr=0.01,
        schedule="cosine",
        warmup_steps=6,
        max_epochs=2,
        max_steps=max_steps,
        watchers=(watch,),
    )
    total = max_steps or 2 * STEPS
    expected = [0.01 * min(1, (t + 1) / 6) * 0.5 * (1 + math.cos(math.pi * t / total)) for t in range(1, total + 1)]
    assert watch.seen == pytest.approx(expected, abs=1e-8)
    assert watch.seen[-1] < 1e-6


def test_constant_schedule_with_warmup(data: ImageData) -> None:
    watch = Watch(learning_rate_after)
    run(data, make_vae(), lr=0.01, warmup_steps=4, max_epochs=1, watchers=(watch,))
    assert watch.seen == pytest.approx([0.005, 0.0075] + [0.01] * (STEPS - 2))


def few(data: ImageData, n: int = 64) -> InMemory:
    return InMemory(data.train.batch(torch.arange(n)))


def test_weight_decay_shrinks_the_weights(data: ImageData) -> None:
    free, decayed = make_vae(), make_vae()
    run(data, free, max_epochs=2)
    run(data, decayed, max_epochs=2, weight_decay=10.0)
    assert decayed.decoder.output.weight.norm() < 0.95 * free.decoder.output.weight.norm()


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_early_stopping_restores_the_best_weights(data: ImageData, ema_decay: float | None) -> None:
    """On 64 images a plain autoencoder over-fits soon; without noise, a loss can be computed again exactly."""
    vae = make_vae(bottleneck=Delta, latent_dim=16, hidden=256)
    history = run(
        data,
        vae,
        Reconstruction(),
        train_images=few(data),
        lr=0.01,
        max_epochs=300,
        max_steps=None,
        patience=5,
        ema_decay=ema_decay,
    )
    losses = [epoch["val_loss"] for epoch in history]
    best = losses.index(min(losses))
    assert len(losses) == best + 6 < 300, "training did not stop five epochs after the best"
    with torch.no_grad():
        found = Reconstruction()(vae, PREPROCESS(data.val.images), 0).loss.item()
    assert found == pytest.approx(losses[best], rel=1e-5)
    assert found < losses[-1]


def test_validation_does_not_see_the_warm_up(data: ImageData) -> None:
    """Early stopping compares epochs: a rate that weighs little at first would make the first epoch the best."""
    history = run(data, make_vae(), ELBO(beta=2, warmup_steps=1000), max_epochs=3)
    for epoch in history:
        assert epoch["val_loss"] == pytest.approx(epoch["val_distortion_nats"] + 2 * epoch["val_rate_nats"], rel=1e-5)
        assert epoch["train_loss"] < epoch["train_distortion_nats"] + 0.1 * epoch["train_rate_nats"]


def test_kl_weight_rises_from_zero_to_beta(data: ImageData) -> None:
    objective = ELBO(beta=4.0, warmup_steps=8)
    found = [float(objective.weight(step)) for step in range(12)]
    assert found == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4, 4, 4])
    assert [float(objective.weight(torch.tensor(step))) for step in range(12)] == pytest.approx(found)
    assert ELBO(beta=4.0).weight(0) == 4.0
    vae, x = make_vae(), PREPROCESS(data.val.images)
    for step in (0, 5, 100):
        terms = objective(vae, x, step)
        expected = terms.distortion.mean() + objective.weight(step) * terms.rate.mean()
        torch.testing.assert_close(terms.loss, expected)


def test_free_bits_are_a_floor_under_each_dimension(data: ImageData) -> None:
    vae, x = make_vae(), PREPROCESS(data.val.images)

    def paid(free_nats: float) -> tuple[Tensor, Terms]:
        torch.manual_seed(0)
        terms = ELBO(free_nats=free_nats)(vae, x, 0)
        return terms.loss - terms.distortion.mean(), terms

    per_dim = rate_per_dim_nats(vae.encode(x).posterior, vae.bottleneck.base_prior).mean(0)
    floor = per_dim.sort().values[1:3].mean().item()  # two of the four dimensions lie below
    found, terms = paid(floor)
    torch.testing.assert_close(found, per_dim.clamp_min(floor).sum(), rtol=1e-3, atol=1e-4)
    assert found > per_dim.sum()
    torch.testing.assert_close(terms.rate.mean(), per_dim.sum())  # the figure stays the true rate

    found, terms = paid(5.0)
    assert found.item() == pytest.approx(20, abs=1e-3)
    terms.loss.backward()
    gradient = vae.bottleneck.linear.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_max_steps_ends_training(data: ImageData) -> None:
    watch = Watch(lambda vae, trainer: trainer.global_step)
    history = run(data, make_vae(), max_epochs=10, max_steps=13, watchers=(watch,))
    assert watch.seen == list(range(1, 14))
    assert [epoch["epoch"] for epoch in history] == [0, 1] and "train_loss" in history[-1]


def test_bf16_is_close_to_float32(data: ImageData) -> None:
    exact, half = make_vae(), make_vae()
    history, history_bf16 = (run(data, vae, max_epochs=4, precision=p) for vae, p in ((exact, "32"), (half, "bf16")))
    for key in ("train_loss", "val_loss"):
        assert history_bf16[-1][key] == pytest.approx(history[-1][key], rel=0.02)
    assert not equal(weights(exact), weights(half)), "bf16 was not used"
    assert all(value.dtype == torch.float32 for value in weights(half).values())


def compiled_graphs(data: ImageData, vae: VAE, objective: Objective, **changes: Any) -> tuple[list[dict], int]:
    torch._dynamo.reset()
    counters.clear()
    history = run(data, vae, objective, compile=True, **changes)
    return history, counters["stats"]["unique_graphs"] - 1  # one is the probe for a compiler


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_makes_one_graph_and_the_same_training(data: ImageData) -> None:
    """One for all steps, although the rate's weight warms up and the last batch is smaller."""
    objective = ELBO(warmup_steps=25)
    history = run(data, make_vae(hidden=16), objective, max_epochs=3)
    compiled, graphs = compiled_graphs(data, make_vae(hidden=16), objective, max_epochs=3)
    assert graphs == 1
    for key in ("train_loss", "val_loss"):
        assert compiled[-1][key] == pytest.approx(history[-1][key], rel=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_goes_with_everything_else(data: ImageData) -> None:
    options = {"max_epochs": 4, "precision": "bf16", "ema_decay": 0.9, "gradient_clip": 5.0, "patience": 3}
    history = run(data, make_vae(), ELBO(free_nats=0.05), **options)
    compiled, graphs = compiled_graphs(data, make_vae(), ELBO(free_nats=0.05), **options)
    assert graphs == 1
    assert compiled[-1]["val_loss"] == pytest.approx(history[-1]["val_loss"], rel=0.03)
