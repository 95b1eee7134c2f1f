"""Freed memory is kept: the next step takes it without asking the kernel for pages again. Idle threads wait briefly.

Modules are loaded without a search for garbage, which later passes over what they made, and over nothing else.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from expost.base.runtime import loading, wait_briefly

ROOT = Path(__file__).resolve().parents[3]
STEPS = """
import resource, sys
from expost.base.runtime import keep_freed_memory

def step():
    return [bytearray(b"x") * 2**20 for _ in range(64)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(3):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    """Of five steps that take and free 64 MiB each, behind three more."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how], cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return int(done.stdout)


PROBES = """
import resource
from expost.plan import server as plan_server

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work(*_):
    def step():
        return [bytearray(b"x") * 2**20 for _ in range(64)]
    for _ in range(3):
        step()
    before = faults()
    for _ in range(5):
        step()
    return {"faults": faults() - before}

def probe_all(job, scratch, threads):
    return plan_server.measure_in_fork(work, threads).facts

plan_server.probe_all = probe_all
raise SystemExit(plan_server.main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_so_do_probes_of_a_plan(tmp_path: Path) -> None:
    """What they take is what the stages will take, which keep it."""
    job, result = tmp_path / "job.json", tmp_path / "result.json"
    job.write_text("{}", encoding="utf-8")
    subprocess.run([sys.executable, "-c", PROBES, job, result, str(os.getpid())], cwd=ROOT, check=True)
    assert json.loads(result.read_text(encoding="utf-8"))["faults"] < 50


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_steps_take_what_earlier_steps_freed() -> None:
    assert page_faults("kept") < 50 < page_faults("as it is")


@pytest.mark.parametrize(
    ("typed", "waits"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
    ],
)
def test_threads_wait_briefly_unless_it_is_said_how(typed: dict[str, str], waits: dict[str, str]) -> None:
    environment = dict(typed)
    wait_briefly(environment)
    assert environment == waits


@pytest.fixture
def unfrozen() -> Iterator[None]:
    """Nothing is frozen before the test, nor after it."""
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unfrozen")
def test_modules_load_without_a_search_for_garbage() -> None:
    searches: list[str] = []
    gc.callbacks.append(lambda phase, details: searches.append(phase))
    try:
        with loading("a_module_that_nobody_has_loaded"):
            made: list[list[int]] = [[] for _ in range(100_000)]
        assert not searches
    finally:
        gc.callbacks.pop()
    assert gc.isenabled() and gc.get_freeze_count() > len(made)


@pytest.mark.usefixtures("unfrozen")
def test_a_failed_load_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), loading("a_module_that_nobody_has_loaded"):
        raise ModuleNotFoundError("a_module_that_nobody_has_loaded")
    assert gc.isenabled()


@pytest.mark.usefixtures("unfrozen")
def test_with_a_module_that_is_there_garbage_of_a_stage_is_still_found() -> None:
    with loading("json"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("unfrozen")
def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with loading("a_module_that_nobody_has_loaded"):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
