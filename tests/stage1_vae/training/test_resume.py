"""Stage 1 that was stopped continues from its last kept end of an epoch and ends in the same bits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from image_files import everything
from PIL import Image
from stopped_run import NAME, Dies, KilledError, quarantined, training_states
from training_run import digits, equal, make_vae, run, settings, weights

from expost.store.training_states import states_in
from expost.training.trainer import lightning_fit
from stage1_vae.bottlenecks.delta import Delta
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.objectives.iwae import IWAE
from stage1_vae.objectives.reconstruction import Reconstruction
from stage1_vae.training import train as training_run
from stage1_vae.training.train import train
from stage1_vae.vae import VAE

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")

LONG: dict[str, Any] = {"max_epochs": 30}
OVERFITS: dict[str, Any] = {"patience": 2, "lr": 0.05, **LONG}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"ema_decay": 0.9},
    "patience": OVERFITS,
    "patience_and_average": {"ema_decay": 0.9, **OVERFITS},
    "cosine": {"schedule": "cosine", "warmup_steps": 13},
    "clipped_and_decayed": {"gradient_clip": 0.5, "weight_decay": 0.1},
    "steps_end_in_an_epoch": {"max_steps": 43, **LONG},
    "steps_end_with_an_epoch": {"max_steps": 50, **LONG},
    "steps_and_seldom_validated": {"max_steps": 43, "val_every": 2, "schedule": "cosine", **LONG},
    "seldom_validated": {"val_every": 4},
    "bf16": {"precision": "bf16"},
    "all": {"ema_decay": 0.9, "schedule": "cosine", "warmup_steps": 5, "max_steps": 47, "val_every": 2, **OVERFITS},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_bit_is_that_of_a_run_that_nobody_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "MAX_LENGTH", 4)  # of the ten batches of an epoch
    asked = {"max_epochs": 5, "max_steps": None, **SETTINGS[name]}
    whole = make_vae()
    expected = run(whole, **asked)
    for epoch in (1, 3):
        with pytest.raises(KilledError):
            run(make_vae(), watchers=(Dies(epoch),), states=training_states(tmp_path), **asked)
        assert [state.done for state in states_in(tmp_path / NAME)] == [epoch]
    said: list[str] = []
    vae = make_vae(seed=9)  # what it starts with must not matter
    history = run(vae, states=training_states(tmp_path, said), **asked)
    assert len(said) == 1 and said[0].startswith("continues after epoch 3 of ")
    assert history == expected and equal(weights(vae), weights(whole))
    assert not quarantined(tmp_path)


OTHERS: dict[str, tuple[Callable[[], VAE], Callable[[], Any]]] = {
    "iwae": (make_vae, lambda: IWAE(num_samples=3)),
    "delta": (partial(make_vae, bottleneck=Delta), Reconstruction),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models(name: str, tmp_path: Path) -> None:
    make, objective = OTHERS[name]
    whole, vae = make(), make()
    expected = run(whole, objective())
    with pytest.raises(KilledError):
        run(make(), objective(), watchers=(Dies(2),), states=training_states(tmp_path))
    assert run(vae, objective(), states=training_states(tmp_path)) == expected
    assert equal(weights(vae), weights(whole))


@pytest.mark.slow
def test_a_compiled_step(tmp_path: Path) -> None:
    whole, vae = make_vae(), make_vae()
    expected = run(whole, compile=True)
    with pytest.raises(KilledError):
        run(make_vae(), compile=True, watchers=(Dies(2),), states=training_states(tmp_path))
    assert run(vae, compile=True, states=training_states(tmp_path)) == expected
    assert equal(weights(vae), weights(whole))


def test_a_folder_of_images_with_a_worker_and_noise(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, image in enumerate(everything(digits().train)[:300, 0]):
        Image.fromarray((image.numpy() * 15).astype(np.uint8)).save(tmp_path / f"images/{i:03d}.png")
    data = ImageFolder(str(tmp_path / "images"), memory_limit_gib=0).load()
    assert not isinstance(data.train, InMemory)
    chosen = settings()

    def trained(vae: VAE, *watchers: pl.Callback, **kept: Any) -> list[dict[str, float]]:
        fit = lightning_fit(chosen, [], **kept)

        def watched(*what: Any, callbacks: list[pl.Callback], **asked: Any) -> None:
            fit(*what, callbacks=[*callbacks, *watchers], **asked)

        preprocess = Preprocess(levels=data.levels, binarize="dynamic")
        batches = Batches(data.train, preprocess, 60, shuffle=True, seed=0, num_workers=1)
        return train(vae, ELBO(), batches, Batches(data.val, preprocess, 60, False, 0), chosen, watched, 0)  # type: ignore[arg-type]

    whole, vae = make_vae(), make_vae()
    expected = trained(whole)
    with pytest.raises(KilledError):
        trained(make_vae(), Dies(1), states=training_states(tmp_path))
    assert trained(vae, states=training_states(tmp_path)) == expected
    assert equal(weights(vae), weights(whole))


def test_the_last_epoch_end_is_not_kept(tmp_path: Path) -> None:
    for asked in ({"max_epochs": 1}, {"max_epochs": 9, "max_steps": 7}):
        run(make_vae(), states=training_states(tmp_path), **asked)  # type: ignore[arg-type]
        assert not (tmp_path / NAME).exists()
    history = run(make_vae(), states=training_states(tmp_path), max_steps=None, **OVERFITS)
    (state,) = states_in(tmp_path / NAME)
    assert state.done == len(history) - 1 < 30, "the end that early stopping chose was kept"
