"""What is kept of a training: what is not as it was kept is put aside, and keeping costs no more than its share."""

import os
import pickle
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_run import NAME, Dies, KilledError, quarantined, training_states
from training_run import equal, make_vae, run, weights

from expost.store.training_states import FIRST_COST_SECONDS, damaged_files, states_in
from expost.training.trainer import OF

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """What is kept of a training that was stopped in its third epoch."""
    with pytest.raises(KilledError):
        run(make_vae(), watchers=(Dies(2),), states=training_states(tmp_path))
    (state,) = states_in(tmp_path / NAME)
    return state.path


def renamed(path: Path) -> None:
    """Give the file the name that its content asks for: what is wrong then is not its hash."""
    from expost.store.manifest import file_sha256

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
    assert run(vae, states=training_states(tmp_path, said, share=0)) == run(whole)
    assert equal(weights(vae), weights(whole))
    assert len(said) == 1 and "training starts over" in said[0] and "\n" not in said[0]
    assert quarantined(tmp_path) == [name] and not states_in(tmp_path / NAME)
    assert next(tmp_path.glob("quarantine/*/*")).read_bytes() == content
    assert not (tmp_path / "executed").exists()


def test_seconds_of_a_stage_are_those_of_the_attempts_that_led_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    for attempt in range(3):
        kept = training_states(tmp_path)
        assert kept.earlier_seconds == 20 * attempt
        now += 20
        kept.keep("epoch", attempt, 9, "ckpt", lambda path: path.write_text("state", encoding="utf-8") and None)
        now += 7  # lost
    found = training_states(tmp_path).find("ckpt", lambda path: None)
    assert found is not None and found.seconds == 60
    kept = training_states(tmp_path)
    assert kept.find("ckpt", lambda path: "is foreign") is None and kept.earlier_seconds == 0


def test_a_half_written_state_is_nobody_s(stopped: Path, tmp_path: Path) -> None:
    (stopped.parent / ".writing").write_bytes(b"half")
    older = stopped.with_name(f"epoch-1-of-3.{'0' * 64}.ckpt")  # its content is not what its name says
    older.write_bytes(stopped.read_bytes())
    assert list(damaged_files(stopped.parent)) == [older.name]
    said: list[str] = []
    run(make_vae(), states=training_states(tmp_path, said))
    assert quarantined(tmp_path) == [older.name] and len(said) == 2
    assert said[0].startswith("what was kept") and "starts over" not in said[0]
    assert said[1] == "continues after epoch 2 of 3"


def test_a_disk_that_is_full_leaves_what_was_kept_before(tmp_path: Path) -> None:
    kept = training_states(tmp_path)
    kept.keep("epoch", 1, 9, "ckpt", lambda path: path.write_text("one", encoding="utf-8") and None)

    def full(path: Path) -> None:
        path.write_text("tw", encoding="utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        kept.keep("epoch", 2, 9, "ckpt", full)
    assert [state.done for state in states_in(tmp_path / NAME)] == [1] and not list(damaged_files(tmp_path / NAME))
    assert [path.name[:5] for path in (tmp_path / NAME).iterdir()] == ["epoch"]


def test_nothing_passes_through_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    run(make_vae(), states=training_states(tmp_path))
    assert [state.done for state in states_in(tmp_path / NAME)] == [2]


def test_keeping_takes_no_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    kept = training_states(tmp_path, share=0.05)
    kept.start()

    def write(path: Path) -> None:
        nonlocal now
        now += 0.2
        path.write_text("state", encoding="utf-8")

    for done in range(1, 2001):
        now += 0.01  # an epoch
        if kept.is_due:
            assert kept.num_kept or now >= FIRST_COST_SECONDS / 0.05
            kept.keep("epoch", done, 2000, "ckpt", write)
    assert 0.04 <= kept.seconds / 20 <= 0.05 and kept.num_kept == 5
    assert not training_states(tmp_path, share=0).is_due
