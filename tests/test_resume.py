"""Stage 1 that was stopped continues from its last kept end of an epoch and ends in the same bits."""

import os
import pickle
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from training_run import digits, equal, make_vae, run, settings, weights

from orchestration.hardware import lightning_fit
from orchestration.kept import FIRST_COST_SECONDS, Keeper, damaged, states
from orchestration.resume import OF
from stage1_vae import stretches
from stage1_vae.bottlenecks.delta import Delta
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.objectives.iwae import IWAE
from stage1_vae.objectives.reconstruction import Reconstruction
from stage1_vae.train import train
from stage1_vae.vae import VAE

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")
NAME = "vae-0123456789abcdef0123"


class KilledError(Exception):
    """What ends the first attempt."""


class Dies(pl.Callback):
    """Ends training within an epoch, behind the first stretch of batches."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise KilledError


def keeper(folder: Path, said: list[str] | None = None, share: float = 1e9) -> Keeper:
    return Keeper(folder / NAME, folder / "quarantine", share, [].append if said is None else said.append)


def quarantined(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("quarantine/*/*"))


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
    monkeypatch.setattr(stretches, "MAX_LENGTH", 4)  # of the ten batches of an epoch
    asked = {"max_epochs": 5, "max_steps": None, **SETTINGS[name]}
    whole = make_vae()
    expected = run(whole, **asked)
    for epoch in (1, 3):
        with pytest.raises(KilledError):
            run(make_vae(), watchers=(Dies(epoch),), keeper=keeper(tmp_path), **asked)
        assert [state.done for state in states(tmp_path / NAME)] == [epoch]
    said: list[str] = []
    vae = make_vae(seed=9)  # what it starts with must not matter
    history = run(vae, keeper=keeper(tmp_path, said), **asked)
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
        run(make(), objective(), watchers=(Dies(2),), keeper=keeper(tmp_path))
    assert run(vae, objective(), keeper=keeper(tmp_path)) == expected
    assert equal(weights(vae), weights(whole))


@pytest.mark.slow
def test_a_compiled_step(tmp_path: Path) -> None:
    whole, vae = make_vae(), make_vae()
    expected = run(whole, compile=True)
    with pytest.raises(KilledError):
        run(make_vae(), compile=True, watchers=(Dies(2),), keeper=keeper(tmp_path))
    assert run(vae, compile=True, keeper=keeper(tmp_path)) == expected
    assert equal(weights(vae), weights(whole))


def test_a_folder_of_images_with_a_worker_and_noise(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, image in enumerate(digits().train.images[:300, 0]):
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
        return train(vae, ELBO(), batches, Batches(data.val, preprocess, 60, False, 0), chosen, watched, 0)

    whole, vae = make_vae(), make_vae()
    expected = trained(whole)
    with pytest.raises(KilledError):
        trained(make_vae(), Dies(1), keeper=keeper(tmp_path))
    assert trained(vae, keeper=keeper(tmp_path)) == expected
    assert equal(weights(vae), weights(whole))


def test_the_last_epoch_end_is_not_kept(tmp_path: Path) -> None:
    for asked in ({"max_epochs": 1}, {"max_epochs": 9, "max_steps": 7}):
        run(make_vae(), keeper=keeper(tmp_path), **asked)
        assert not (tmp_path / NAME).exists()
    history = run(make_vae(), keeper=keeper(tmp_path), max_steps=None, **OVERFITS)
    (state,) = states(tmp_path / NAME)
    assert state.done == len(history) - 1 < 30, "the end that early stopping chose was kept"


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """What is kept of a training that was stopped in its third epoch."""
    with pytest.raises(KilledError):
        run(make_vae(), watchers=(Dies(2),), keeper=keeper(tmp_path))
    (state,) = states(tmp_path / NAME)
    return state.path


def renamed(path: Path) -> None:
    """Give the file the name that its content asks for: what is wrong then is not its hash."""
    from orchestration.manifest import file_sha256

    path.rename(path.with_name(f"epoch-2-of-3.{file_sha256(path)}.ckpt"))


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def malicious(path: Path) -> None:
    torch.save({OF: NAME, "state_dict": Bomb()}, path)
    renamed(path)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))
    renamed(path)


def of_another_key(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), OF: "vae-other"}, path)
    renamed(path)


def of_another_net(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name: value[:1] for name, value in content["state_dict"].items()}
    torch.save(content, path)
    renamed(path)


def compressed(path: Path) -> None:
    """As an archive that unpacks to more than it is; torch reads such ones."""
    with zipfile.ZipFile(path) as kept:
        members = {name: kept.read(name) for name in kept.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert torch.load(path, weights_only=True)[OF] == NAME
    renamed(path)


def planted(path: Path) -> None:
    path.rename(path.with_name("model.ckpt"))


@pytest.mark.parametrize(
    "harm",
    [flipped, truncated, malicious, pickled, compressed, of_another_key, of_another_net, planted],
    ids=lambda f: f.__name__,
)
def test_what_is_not_as_it_was_kept_is_put_aside_and_training_starts_over(
    harm: Callable[[Path], None], stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    harm(stopped)
    (name,) = (path.name for path in (tmp_path / NAME).iterdir())
    content = (tmp_path / NAME / name).read_bytes()
    said: list[str] = []
    whole, vae = make_vae(), make_vae()
    assert run(vae, keeper=keeper(tmp_path, said, share=0)) == run(whole)
    assert equal(weights(vae), weights(whole))
    assert len(said) == 1 and "training starts over" in said[0] and "\n" not in said[0]
    assert quarantined(tmp_path) == [name] and not states(tmp_path / NAME)
    assert next(tmp_path.glob("quarantine/*/*")).read_bytes() == content
    assert not (tmp_path / "executed").exists()


def test_seconds_of_a_stage_are_those_of_the_attempts_that_led_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    for attempt in range(3):
        kept = keeper(tmp_path)
        assert kept.earlier_seconds == 20 * attempt
        now += 20
        kept.keep("epoch", attempt, 9, "ckpt", lambda path: path.write_text("state") and None)
        now += 7  # lost
    assert keeper(tmp_path).find("ckpt", lambda path: None).seconds == 60  # type: ignore[union-attr]
    kept = keeper(tmp_path)
    assert kept.find("ckpt", lambda path: "is foreign") is None and kept.earlier_seconds == 0


def test_a_half_written_state_is_nobody_s(stopped: Path, tmp_path: Path) -> None:
    (stopped.parent / ".writing").write_bytes(b"half")
    older = stopped.with_name(f"epoch-1-of-3.{'0' * 64}.ckpt")  # its content is not what its name says
    older.write_bytes(stopped.read_bytes())
    assert list(damaged(stopped.parent)) == [older.name]
    said: list[str] = []
    run(make_vae(), keeper=keeper(tmp_path, said))
    assert quarantined(tmp_path) == [older.name] and len(said) == 2
    assert said[0].startswith("what was kept") and "starts over" not in said[0]
    assert said[1] == "continues after epoch 2 of 3"


def test_a_disk_that_is_full_leaves_what_was_kept_before(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    kept.keep("epoch", 1, 9, "ckpt", lambda path: path.write_text("one") and None)

    def full(path: Path) -> None:
        path.write_text("tw")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        kept.keep("epoch", 2, 9, "ckpt", full)
    assert [state.done for state in states(tmp_path / NAME)] == [1] and not list(damaged(tmp_path / NAME))
    assert [path.name[:5] for path in (tmp_path / NAME).iterdir()] == ["epoch"]


def test_nothing_passes_through_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    run(make_vae(), keeper=keeper(tmp_path))
    assert [state.done for state in states(tmp_path / NAME)] == [2]


def test_keeping_takes_no_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    kept = keeper(tmp_path, share=0.05)
    kept.starts()

    def write(path: Path) -> None:
        nonlocal now
        now += 0.2
        path.write_text("state")

    for done in range(1, 2001):
        now += 0.01  # an epoch
        if kept.is_due:
            assert kept.num_kept or now >= FIRST_COST_SECONDS / 0.05
            kept.keep("epoch", done, 2000, "ckpt", write)
    assert 0.04 <= kept.seconds / 20 <= 0.05 and kept.num_kept == 5
    assert not keeper(tmp_path, share=0).is_due
