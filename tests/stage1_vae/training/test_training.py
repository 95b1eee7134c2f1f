"""Stage 1's training run, with real Lightning trainers on real digits."""

import math

import pytest
import torch
from image_files import everything
from torch import Tensor
from training_run import (
    PREPROCESS,
    STEPS,
    Watch,
    digits,
    equal,
    gradient_norm,
    learning_rate_after,
    make_vae,
    run,
    weights,
)

from stage1_vae.bottlenecks.delta import Delta
from stage1_vae.data.images import InMemory
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.objectives.reconstruction import Reconstruction
from stage1_vae.training import train as training_run
from stage1_vae.training.module import TrainingError

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's callbacks see every step."""
    monkeypatch.setattr(training_run, "MAX_LENGTH", 1)


def test_loss_falls_and_history_has_every_epoch() -> None:
    history = run(make_vae(), max_epochs=8)
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


def test_validation_comes_as_often_as_asked() -> None:
    history = run(make_vae(), max_epochs=5, val_every=2)
    assert ["val_loss" in epoch for epoch in history] == [False, True, False, True, False]
    assert "val_loss" in run(make_vae(), max_epochs=2, val_every=10)[-1], "a short run is validated at its end"


def test_a_seed_decides_every_bit() -> None:
    disturbances = iter(range(10))

    def trained(weights_seed: int, seed: int) -> dict[str, Tensor]:
        vae = make_vae(weights_seed)
        torch.rand(next(disturbances))  # what ran before must not matter
        run(vae, seed=seed, max_epochs=2)
        return weights(vae)

    first = trained(0, 0)
    assert equal(first, trained(0, 0))
    assert not equal(first, trained(0, 1)) and not equal(first, trained(1, 0))


@pytest.mark.parametrize("split", ["train", "val"])
def test_nan_in_the_images_stops_at_once(split: str) -> None:
    clean = {name: getattr(digits(), name).images.float() / 16 for name in ("train", "val")}
    clean[split][min(300, len(clean[split]) - 1), 0, 3, 3] = float("nan")
    step = {"train": 2, "val": STEPS}[split]  # image 300 is in the third batch
    with pytest.raises(TrainingError, match=rf"^the images became NaN or infinite at step {step} \(epoch 0\)"):
        run(
            make_vae(),
            train_images=InMemory(clean["train"]),
            val_images=InMemory(clean["val"]),
            preprocess=Preprocess(levels=None),
            shuffle=False,
        )


def test_an_absurd_learning_rate_stops_at_once() -> None:
    with pytest.raises(TrainingError, match=r"^(the rate|the distortion) became .* at step 1 .*trainer\.lr") as caught:
        run(make_vae(), lr=1e30)
    assert "\n" not in str(caught.value)


def test_a_broken_parameter_is_named() -> None:
    vae = make_vae()
    vae.decoder.output.weight.data[3, 3] = float("inf")
    with pytest.raises(TrainingError, match=r"^parameter decoder\.output\.weight .* at step 0 "):
        run(vae)


def test_ema_leaves_the_average_of_the_weights() -> None:
    vae, watch = make_vae(), Watch(lambda vae, trainer: weights(vae))
    run(vae, ema_decay=0.8, watchers=(watch,), max_epochs=2)
    average = watch.seen[0]
    for n, step in enumerate(watch.seen[1:], start=1):
        decay = min(0.8, (1 + n) / (10 + n))
        average = {name: decay * average[name] + (1 - decay) * step[name] for name in average}
    final = weights(vae)
    assert len(watch.seen) == 2 * STEPS
    for name in final:
        torch.testing.assert_close(final[name], average[name], rtol=1e-4, atol=1e-5)
    assert not equal(final, watch.seen[-1])


@pytest.mark.usefixtures("one_by_one")
def test_gradients_are_clipped() -> None:
    free, clipped = Watch(gradient_norm), Watch(gradient_norm)
    run(make_vae(), max_epochs=1, watchers=(free,))
    run(make_vae(), max_epochs=1, watchers=(clipped,), gradient_clip=0.5)
    assert min(free.seen) > 1
    assert all(norm == pytest.approx(0.5, rel=1e-3) for norm in clipped.seen)


@pytest.mark.parametrize("max_steps", [None, 15])
@pytest.mark.usefixtures("one_by_one")
def test_learning_rate_warms_up_and_falls_along_a_cosine(max_steps: int | None) -> None:
    watch = Watch(learning_rate_after)
    run(
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


@pytest.mark.usefixtures("one_by_one")
def test_constant_schedule_with_warmup() -> None:
    watch = Watch(learning_rate_after)
    run(make_vae(), lr=0.01, warmup_steps=4, max_epochs=1, watchers=(watch,))
    assert watch.seen == pytest.approx([0.005, 0.0075] + [0.01] * (STEPS - 2))


def few() -> InMemory:
    return InMemory(digits().train.batch(torch.arange(64)))


def test_weight_decay_shrinks_the_weights() -> None:
    free, decayed = make_vae(), make_vae()
    run(free, max_epochs=2)
    run(decayed, max_epochs=2, weight_decay=10.0)
    assert decayed.decoder.output.weight.norm() < 0.95 * free.decoder.output.weight.norm()


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_early_stopping_restores_the_best_weights(ema_decay: float | None) -> None:
    """On 64 images a plain autoencoder over-fits soon; without noise, a loss can be computed again exactly."""
    vae = make_vae(bottleneck=Delta, latent_dim=16, hidden=256)
    history = run(
        vae,
        Reconstruction(),
        train_images=few(),
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
        found = Reconstruction()(vae, PREPROCESS(everything(digits().val)), 0).loss.item()
    assert found == pytest.approx(losses[best], rel=1e-5)
    assert found < losses[-1]


@pytest.mark.usefixtures("one_by_one")
def test_max_steps_ends_training() -> None:
    watch = Watch(lambda vae, trainer: trainer.global_step)
    history = run(make_vae(), max_epochs=10, max_steps=13, watchers=(watch,))
    assert watch.seen == list(range(1, 14))
    assert [epoch["epoch"] for epoch in history] == [0, 1] and "train_loss" in history[-1]
