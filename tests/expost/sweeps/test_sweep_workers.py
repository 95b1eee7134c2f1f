"""Sweeps in processes of their own: two workers, one store, and a worker that is killed.

Four jobs: two priors on a VAE that is never done, whose trainers are killed one after the other, and the same two on
one that is done at once.
"""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import submitit
from command_line import PROJECT, keys, run_here

from expost.base import scratch
from expost.base.command import SWEEP
from expost.sweeps.failures import tidy
from expost.sweeps.submitit_launcher import Again

JOBS: tuple[str, ...] = ("debug=fast", "net.hidden=[8]", "logger=csv", "stage=prior", "trainer.max_steps=null")
JOBS = (*JOBS, "trainer.max_epochs=1000000,2", "prior=gaussian,standard_normal")


def output_of(place: Path) -> str:
    """What the command and its workers have said so far."""
    return "".join(
        file.read_text(encoding="utf-8") for file in [place / "out", *place.glob("runs/sweeps/*/.sweep/*/*.out")]
    )


def trainer(place: Path, key: str) -> int | None:
    """The process that trains the VAE `key`."""
    with suppress(OSError, ValueError):  # it has let go meanwhile, or is writing its name
        return int(json.loads((place / f"runs/store/.locks/vae-{key}.owner").read_text(encoding="utf-8"))["process"])
    return None


def swept(place: Path, *words: str, kills: int, **environment: str) -> tuple[int, str, list[str]]:
    """Run the jobs and kill the next `kills` trainers of the endless VAE; exit code, all that was said, stderr."""
    command = [sys.executable, str(PROJECT / "pipeline.py"), "-m", *words, *JOBS]
    killed: set[int] = set()
    deadline = time.monotonic() + 200
    with (place / "out").open("w", encoding="utf-8") as out, (place / "err").open("w", encoding="utf-8") as err:
        process = subprocess.Popen(command, cwd=place, env={**os.environ, **environment}, stdout=out, stderr=err)
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline, (place / "err").read_text(encoding="utf-8") + (
                    place / "out"
                ).read_text(encoding="utf-8")
                trained = len(list(place.glob("runs/sweeps/*/[01]/logs/vae/metrics.csv")))
                waiting = re.search(r"\[[01]\] vae +waiting for (\w+),", output_of(place))
                owner = trainer(place, waiting[1]) if waiting and len(killed) < min(kills, trained) else None
                if owner is not None and owner not in killed:
                    os.kill(owner, signal.SIGKILL)
                    killed.add(owner)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    return process.returncode, output_of(place), (place / "err").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "launcher",
    ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_workers_share_a_store_and_the_killed_ones_are_told(launcher: str, tmp_path: Path) -> None:
    code, said, lines = swept(tmp_path, f"launcher={launcher}", kills=2)
    check_sweep(tmp_path, code, said, lines)


def check_sweep(place: Path, code: int, said: str, lines: list[str]) -> None:
    assert code == 2 and len(lines) == 2, (lines, said)
    for number, line in enumerate(lines):
        assert line.startswith(f"error: job {number} (") and "max_epochs=1000000" in line
        assert "its process was killed" in line and line.endswith("the same command tries it again")
    assert len(list(place.glob("runs/store/vae/*/model.safetensors"))) == 1
    assert len(re.findall(r"\[[23]\] vae +done in", said)) == 1, "the VAE that two jobs need was trained once"
    assert len(keys(place, "prior")) == 2
    waited = re.findall(r"\[(\d)\] vae +waiting for \w+, made by process \d+ on", said)
    assert waited.count("0") + waited.count("1") == 1, "said once, by the one that waits"
    (sweep,) = place.glob("runs/sweeps/*")
    assert sorted(path.name for path in sweep.iterdir()) == [".sweep", "0", "1", "2", "3"]
    assert {path.name for path in place.iterdir()} == {"runs", "out", "err"}


SLURM = {
    "sbatch": """
        script=$(mktemp)  # SLURM keeps a copy, and submitit renames its file
        cp "$1" "$script"
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$script")
        for task in $(seq 0 "$last"); do
            SLURM_JOB_ID=$((700 + task)) SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 \\
                SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=here bash "$script" >/dev/null 2>&1 &
        done
        echo "Submitted batch job 77"
    """,
    "srun": """
        while [ "${1:0:2}" = "--" ]; do
            case $1 in
                --output) out=$2; shift 2 ;;
                --error) err=$2; shift 2 ;;
                *) shift ;;
            esac
        done
        name() { echo "$1" | sed "s/%A/77/; s/%a/$SLURM_ARRAY_TASK_ID/; s/%t/0/; s/%j/$SLURM_JOB_ID/"; }
        SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 "$@" >"$(name "$out")" 2>"$(name "$err")"
        echo $? >"$(dirname "$out")/77_$SLURM_ARRAY_TASK_ID.code"
    """,
    "sacct": """
        echo "JobID|State|NodeList"
        for task in 0 1 2 3; do
            code=$(cat "$SUBMITIT_LOGS"/*/.sweep/submitit/77_$task.code 2>/dev/null)
            case $code in "") state=RUNNING ;; 0) state=COMPLETED ;; *) state=FAILED ;; esac
            echo "77_$task|$state|here"
        done
    """,
}
"""Three commands of SLURM for a cluster of this one machine: they start and watch real processes."""


@pytest.mark.slow
def test_a_slurm_array(tmp_path: Path) -> None:
    place, programs = tmp_path / "place", tmp_path / "bin"
    place.mkdir()
    programs.mkdir()
    for name, body in SLURM.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}", encoding="utf-8")
        (programs / name).chmod(stat.S_IRWXU)
    own = {"PATH": f"{programs}:{os.environ['PATH']}", "SUBMITIT_LOGS": str(place / "runs/sweeps")}
    code, said, lines = swept(place, "launcher=slurm", "hydra.launcher.mem_gb=4", kills=2, **own)
    check_sweep(place, code, said, lines)
    (script,) = place.glob("runs/sweeps/*/.sweep/submitit/77_submission.sh")
    assert "#SBATCH --mem=4GB" in script.read_text(encoding="utf-8") and "--array=0-3%4" in script.read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("submitit_has_it", [True, False])
def test_a_sweep_whose_jobs_may_be_in_a_queue_stays(
    submitit_has_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while SLURM has all jobs: they read from there what they are."""
    sweep = tmp_path / "runs" / "sweeps" / "s"
    (sweep / ".sweep" / ("submitit" if submitit_has_it else "")).mkdir(parents=True)
    monkeypatch.setenv(SWEEP, str(sweep))
    monkeypatch.delenv(scratch.VARIABLE, raising=False)
    tidy()
    assert sweep.is_dir() == submitit_has_it and tmp_path.joinpath("runs").is_dir() == submitit_has_it


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_queued_again(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    script = f"test -e {begun} && exit 7; touch {begun}; exec sleep 60"
    job: Any = partial(subprocess.call, ["sh", "-c", script])
    executor = submitit.LocalExecutor(folder=tmp_path / "submitit")
    executor.update_parameters(timeout_min=0.1, signal_delay_s=1)  # told to stop after 5 s, killed after 6 s
    started = executor.submit(Again(), job)
    assert started.result() == 7


@pytest.mark.parametrize(
    ("launcher", "package"), [("ray", "ray"), ("submitit_local", "submitit"), ("slurm", "submitit")]
)
def test_a_launcher_without_its_package(
    launcher: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run_here(tmp_path, "-m", f"launcher={launcher}", *JOBS)
    assert result.code == 2 and len(result.lines) == 1
    assert f"pip install 'expost[{package}]'" in result.err
    assert not list(tmp_path.iterdir())
