"""What makes training fast changes nothing else: bf16, compilation, stretches of steps."""

from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from training_run import STEPS, digits, equal, make_vae, run, weights

from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.objective import Objective
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.training import train as training_run
from stage1_vae.vae import VAE

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


def test_bf16_is_close_to_float32() -> None:
    exact, half = make_vae(), make_vae()
    history, history_bf16 = (run(vae, max_epochs=4, precision=p) for vae, p in ((exact, "32"), (half, "bf16")))
    for key in ("train_loss", "val_loss"):
        assert history_bf16[-1][key] == pytest.approx(history[-1][key], rel=0.02)
    assert not equal(weights(exact), weights(half)), "bf16 was not used"
    assert all(value.dtype == torch.float32 for value in weights(half).values())


def compiled_graphs(vae: VAE, objective: Objective, **changes: Any) -> tuple[list[dict], int]:
    torch._dynamo.reset()
    counters.clear()
    history = run(vae, objective, compile=True, **changes)
    return history, counters["stats"]["unique_graphs"] - 1  # one is the probe for a compiler


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_makes_one_graph_and_the_same_training(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all steps, although the rate's weight warms up and the last batch is smaller.

    Both backends trace and differentiate the graph; turning it into C++ as well takes most of the time.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    objective = ELBO(warmup_steps=25)
    history = run(make_vae(hidden=16), objective, max_epochs=3)
    compiled, graphs = compiled_graphs(make_vae(hidden=16), objective, max_epochs=3)
    assert graphs == 1
    for key in ("train_loss", "val_loss"):
        assert compiled[-1][key] == pytest.approx(history[-1][key], rel=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_goes_with_everything_else() -> None:
    options: dict[str, Any] = {"max_epochs": 4, "precision": "bf16", "ema_decay": 0.9}
    options |= {"gradient_clip": 5.0, "patience": 3}
    history = run(make_vae(), ELBO(free_nats=0.05), **options)
    compiled, graphs = compiled_graphs(make_vae(), ELBO(free_nats=0.05), **options)
    assert graphs == 1
    assert compiled[-1]["val_loss"] == pytest.approx(history[-1]["val_loss"], rel=0.03)


@pytest.mark.parametrize("max_steps", [None, 13])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_stretches_of_any_length_take_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, max_steps: int | None, clip: float | None
) -> None:
    found = []
    for length in (1, 4, 16):
        monkeypatch.setattr(training_run, "MAX_LENGTH", length)
        vae = make_vae()
        history = run(vae, max_epochs=2, max_steps=max_steps, schedule="cosine", gradient_clip=clip)
        found.append((weights(vae), [epoch["train_loss"] for epoch in history]))
    for trained, losses in found[1:]:
        assert equal(trained, found[0][0]) and losses == found[0][1]


def test_stretches_hold_every_batch_once_and_are_bounded_by_pixels() -> None:
    batches = Batches(digits().train, Preprocess(levels=17), 128, shuffle=True, seed=0)
    several = training_run.Stretches(batches, (1, 8, 8))
    sizes = [[len(x) for x, _ in stretch] for stretch in several]
    assert len(sizes) == len(several) == 1 and sum(sizes[0]) == len(digits().train) and len(sizes[0]) == STEPS
    assert training_run.Stretches(batches, (3, 64, 64)).length == 2
    assert training_run.Stretches(batches, (3, 1024, 1024)).length == 1
