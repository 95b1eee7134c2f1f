"""W&B on a bad day: no network, a mistake of the user's, a process that dies."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import wandb
from command_line import PROJECT, SMALL, assert_refused, run_here
from outside.wandb_runs import KEY, SETTINGS, opened, take_runs

from expost.base.errors import UserError
from expost.training import wandb_run
from expost.training.wandb_run import has_key, wandb_mode


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own login; every variable that is set is put back."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_INIT_TIMEOUT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_MODE", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("typed", "hint"), [("ofline", "did you mean 'offline'?"), ("0", "choices: disabled, offline")]
)
def test_a_mode_that_is_none_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, hint: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", typed)
    assert_refused(run_here(tmp_path, *SMALL[:-1], "stage=vae"), tmp_path, f"WANDB_MODE={typed}", hint, "online")


def test_modes_are_those_of_wandb_and_an_unused_one_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode, meant in (("dryrun", "offline"), ("run", "online"), ("disabled", "disabled"), ("shared", "shared")):
        monkeypatch.setenv("WANDB_MODE", mode)
        assert wandb.Settings(mode=mode) and wandb_mode(SETTINGS) == meant  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_MODE", "ofline")
    assert "no store" in run_here(tmp_path, "stage=store", "logger=csv").err


def test_a_login_is_found_where_wandb_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (tmp_path / ".netrc").write_text(f"machine wandb.example login user password {KEY}\n", encoding="utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    assert not has_key(), "a key of another server"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example:8080/")
    assert has_key()
    (tmp_path / ".netrc").write_bytes(b"\xff\xfe what is this")
    assert not has_key()


@pytest.mark.parametrize(
    "error", [wandb.errors.CommError("refused\nConsider more"), wandb.Error("no"), wandb.errors.CommError("401")]
)
def test_a_server_that_does_not_answer_is_one_line_and_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    asked: list[str] = []
    said: list[str] = []
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    def init(mode: str, **_: Any) -> Any:
        asked.append(mode)
        if mode == "online":
            raise error
        return SimpleNamespace(id="run")

    monkeypatch.setattr(wandb, "init", init)
    assert [opened(tmp_path, said).id, opened(tmp_path, said).id] == ["run", "run"]
    assert asked == ["online", "offline", "offline"] and len(said) == 1 and "\n" not in said[0]
    assert f"({str(error).splitlines()[0]})" in said[0] and f"wandb sync {tmp_path}/wandb/offline-run-*" in said[0]


@pytest.mark.parametrize("error", [wandb.errors.UsageError("no key"), wandb.errors.AuthenticationError("no key")])
def test_a_mistake_is_one_line_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(wandb, "init", Mock(side_effect=error))
    with pytest.raises(UserError, match=r"^W&B: no key; mend that, or set WANDB_MODE=offline or logger=csv$"):
        opened(tmp_path, [])


BAD_DAY = """
import os, signal, subprocess, time
from pathlib import Path
from expost.base.errors import UserError
from outside.wandb_runs import KEY, opened

def refused(**variables):
    os.environ.update(variables)
    try:
        opened(Path("logs"), [])
    except UserError as error:
        print(error)

said = []
refused(WANDB_MODE="online")
refused(WANDB_API_KEY="abc")
os.environ.update(WANDB_MODE="", WANDB_API_KEY=KEY)
run = opened(Path("logs"), said)
run.tell(lambda run: run.log({"vae/loss": 1.0}))
run.tell(lambda run: run.finish())
run = opened(Path("logs"), said)
found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
os.kill(next(int(line.split()[0]) for line in found.splitlines() if "wandb-core" in line), signal.SIGKILL)
while len(said) == 1:
    run.tell(lambda run: run.log({"vae/loss": 1.0}))
    time.sleep(0.05)
run.tell(lambda run: run.log({"vae/loss": 1.0}))
print(*said, sep="\\n")
"""


def test_without_a_network_it_goes_on_offline_and_a_process_that_dies_is_told_once(tmp_path: Path) -> None:
    """W&B itself, in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests/support")]),
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_INIT_TIMEOUT": "1",
        "WANDB_SILENT": "true",
    }
    words = [sys.executable, "-c", BAD_DAY]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=100
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    no_key, no_good_key, away, dead = done.stdout.splitlines()
    for line, part in ((no_key, "wandb login"), (no_good_key, "40")):
        assert line.startswith("W&B: ") and part in line and line.endswith("set WANDB_MODE=offline or logger=csv")
    assert "does not answer" in away and "goes on offline" in away and "wandb sync logs/wandb/offline-run-*" in away
    assert dead.startswith("W&B failed (")
    assert len(list(tmp_path.glob("logs/wandb/offline-run-*"))) == 2


def test_what_wandb_does_not_take_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = take_runs(monkeypatch)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("outside.wandb_runs.FakeRun.log", full)
    result = run_here(tmp_path, *SMALL[:-1], "logger=wandb", "stage=encode")
    assert (result.code, result.err) == (0, "") and len(runs) == 2
    assert result.out.count("No space left on device") == 2, "a stage is another chance"
    assert result.stages("done in") == ["vae", "latents"]


def test_waiting_is_bounded_unless_the_user_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"init_timeout": wandb_run.INIT_SECONDS, "no_setting_of_this_version": 1}
    assert wandb_run._known(wandb, ours) == {"init_timeout": 15.0}
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "200")
    assert wandb_run._known(wandb, ours) == {}
    declined = {"x_save_requirements": True}
    assert wandb_run._known(wandb, declined) == declined
    monkeypatch.setenv("WANDB__SAVE_REQUIREMENTS", "false")
    assert wandb_run._known(wandb, declined) == {}, "as W&B spells it"


def test_an_empty_mode_is_none_to_wandb_too_and_packages_are_listed_once(tmp_path: Path) -> None:
    """W&B itself, in a process of its own, which has not read the variable yet."""
    script = (
        "import sys; from pathlib import Path; from expost.config.schema import Logger\n"
        "from expost.training.wandb_run import open_run\n"
        "settings = Logger(wandb=True, project='expost', mode='offline')\n"
        "for folder, identity in (('first', {}), ('second', {}), ('announced', {'run_id': 'run456'})):\n"
        "    run = open_run(settings, Path(folder), 'vae', 'group', {}, identity, print)\n"
        "    run.tell(lambda run: run.finish())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "WANDB_MODE": "", "WANDB_SILENT": "true"}
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        del environment[name]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    listed = {
        run.parents[1].name: (run / "files/requirements.txt").exists() for run in tmp_path.glob("*/wandb/offline-*")
    }
    assert listed == {"first": True, "second": False, "announced": True}
