"""Locks: one holder; who it is; a dead one is replaced, by the kernel's word or by its silence."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from expost.store import locks
from expost.store.locks import KeyLock, Owner

NAME = "vae-0123"


def owned_by(folder: Path, host: str, process: int, taken: float = 1.0, birth: str = "") -> Path:
    path = folder / f"{NAME}.owner"
    Owner(process, host, taken, birth=birth).write(path)
    return path


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that has none."""

    def acquire(self: object, timeout: float) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.FileLock, "acquire", acquire)


def seconds_to_get(folder: Path) -> tuple[float, list[str]]:
    holders: list[str] = []
    started = time.monotonic()
    with KeyLock(folder, NAME).hold(holders.append):
        return time.monotonic() - started, holders


def test_the_owner_is_written_down_touched_and_removed(tmp_path: Path, hurried: None) -> None:
    path = tmp_path / f"{NAME}.owner"
    with KeyLock(tmp_path, NAME).hold():
        facts = json.loads(path.read_text(encoding="utf-8"))
        assert (facts["process"], facts["host"]) == (os.getpid(), socket.gethostname())
        first = path.stat().st_mtime_ns
        time.sleep(0.5)
        assert path.stat().st_mtime_ns > first, "no heartbeat"
    assert not path.exists()


def test_a_dead_owner_on_this_host_is_replaced_at_once(tmp_path: Path) -> None:
    owned_by(tmp_path, socket.gethostname(), dead_process())
    seconds, holders = seconds_to_get(tmp_path)
    assert seconds < 0.5 and holders == []


def test_without_flock_the_process_decides_on_its_host(tmp_path: Path, no_flock: None, hurried: None) -> None:
    path = owned_by(tmp_path, socket.gethostname(), dead_process())
    assert seconds_to_get(tmp_path)[0] < 0.5
    path = owned_by(tmp_path, socket.gethostname(), os.getppid(), time.time())
    threading.Timer(1.0, path.unlink).start()
    seconds, holders = seconds_to_get(tmp_path)
    assert seconds > 0.9, "its process lives: no silence ends that"
    assert holders == [f"process {os.getppid()} on {socket.gethostname()}"]


@pytest.mark.parametrize("flock", [True, False])
def test_a_silent_owner_on_another_host_is_replaced(
    tmp_path: Path, hurried: None, flock: bool, request: pytest.FixtureRequest
) -> None:
    if not flock:
        request.getfixturevalue("no_flock")
    path = owned_by(tmp_path, "elsewhere", 7)
    os.utime(path, (0, 0))  # its clock is decades behind: clocks are not compared
    seconds, holders = seconds_to_get(tmp_path)
    assert 0.6 <= seconds < 2 and holders == ["process 7 on elsewhere"]


def test_an_owner_on_another_host_that_beats_is_waited_for(tmp_path: Path, no_flock: None, hurried: None) -> None:
    path = owned_by(tmp_path, "elsewhere", 7)

    def beat() -> None:
        for _ in range(15):
            time.sleep(0.1)
            os.utime(path)
        path.unlink()

    thread = threading.Thread(target=beat)
    thread.start()
    seconds, _ = seconds_to_get(tmp_path)
    thread.join()
    assert seconds > 1.4


def test_who_does_not_wait_hears_who_has_it(tmp_path: Path) -> None:
    with KeyLock(tmp_path, NAME).hold(), KeyLock(tmp_path, NAME).hold_if_free() as owner:
        assert owner == f"process {os.getpid()} on {socket.gethostname()}"
    path = owned_by(tmp_path, "elsewhere", 7)
    with KeyLock(tmp_path, NAME).hold_if_free() as owner:
        assert owner == "process 7 on elsewhere"
    os.utime(path, (time.time() - 2 * locks.ABSENT_SECONDS,) * 2)
    with KeyLock(tmp_path, NAME).hold_if_free() as owner:
        assert owner is None
    assert not path.exists()


def test_a_damaged_owner_file_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.owner").write_text("[", encoding="utf-8")
    assert seconds_to_get(tmp_path)[0] < 0.5


@pytest.mark.parametrize("process", [1, os.getpid()], ids=["the first", "this one"])
@pytest.mark.parametrize("birth", ["", "another-boot-12", "\n"])
def test_without_flock_a_process_that_got_the_number_later_holds_nothing(
    tmp_path: Path, no_flock: None, process: int, birth: str
) -> None:
    owned_by(tmp_path, socket.gethostname(), process, 1.0, birth)
    seconds, holders = seconds_to_get(tmp_path)
    assert seconds < 0.5 and holders == []


def test_without_flock_a_live_holder_is_known_by_its_birth(tmp_path: Path, no_flock: None, hurried: None) -> None:
    path = tmp_path / f"{NAME}.owner"
    Owner.me().write(path)  # of another thread of this process, say; its clock may say what it likes
    assert Owner.read(path) == replace(Owner.me(), taken=ANY, touched_ns=ANY) and Owner.me().birth
    threading.Timer(1.0, path.unlink).start()
    assert seconds_to_get(tmp_path)[0] > 0.9


DAMAGED = {
    "empty": b"",
    "no UTF-8": b'{"process": 1, "host": "\xf6m"}',
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "a negative number": b'{"process": -1, "host": "", "taken": 0}',
    "no such number": b'{"process": 1e999, "host": "h", "taken": 0}',
    "deep": b"[" * 10**5,
    "half": b'{"process": 12, "ho',
    "a lone surrogate": rb'{"process": "\ud800", "host": "h", "taken": 1}',
    "large": b" " * 10**7,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_no_damage_of_an_owner_file_holds_anybody_up(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{NAME}.owner").write_bytes(content)
    assert seconds_to_get(tmp_path) == (pytest.approx(0, abs=0.5), [])


@pytest.mark.parametrize("process", [-1, 0, 10**9, 10**30])
def test_numbers_that_no_process_has(tmp_path: Path, no_flock: None, process: int) -> None:
    owned_by(tmp_path, socket.gethostname(), process)
    assert seconds_to_get(tmp_path) == (pytest.approx(0, abs=0.5), [])


def test_what_is_no_file_in_an_owners_place_holds_nobody_up_and_is_not_lost(tmp_path: Path) -> None:
    path, outside = tmp_path / f"{NAME}.owner", tmp_path / "outside"
    outside.write_text("mine", encoding="utf-8")
    for put in (lambda: os.mkfifo(path), lambda: path.symlink_to(outside), lambda: path.symlink_to("nowhere")):
        put()
        assert seconds_to_get(tmp_path) == (pytest.approx(0, abs=0.5), [])
    path.mkdir()
    (path / "thesis.txt").write_text("years", encoding="utf-8")
    assert seconds_to_get(tmp_path) == (pytest.approx(0, abs=0.5), [])
    assert outside.read_text(encoding="utf-8") == "mine"
    assert [found.read_text(encoding="utf-8") for found in tmp_path.rglob("thesis.txt")] == ["years"]


@pytest.mark.parametrize("links", [True, False])
def test_a_holder_that_is_slow_to_write_its_name_is_not_taken_for_nobody(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """With links its file is never seen empty; without them for half a second, which is no silence yet."""
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)
    writing, inside, most = threading.Event(), [], []
    dump = json.dump

    def slow(*facts: Any) -> None:
        if not writing.is_set():
            writing.set()
            time.sleep(0.5)
        dump(*facts)

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    def work() -> None:
        with KeyLock(tmp_path, NAME).hold():
            inside.append(1)
            most.append(len(inside))
            time.sleep(1)
            inside.pop()

    monkeypatch.setattr(locks.json, "dump", slow)
    if not links:
        monkeypatch.setattr(locks.os, "link", refuse)
    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert writing.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert most == [1, 1] and not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.owner"))


def test_without_flock_what_nobody_can_read_is_replaced_when_it_is_silent(
    tmp_path: Path, no_flock: None, hurried: None
) -> None:
    (tmp_path / f"{NAME}.owner").touch()
    assert 0.6 <= seconds_to_get(tmp_path)[0] < 2


def test_threads_of_one_process_exclude_each_other(tmp_path: Path, hurried: None) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with KeyLock(tmp_path, NAME).hold():
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_a_lock_does_not_outlive_its_process_in_a_forked_worker(tmp_path: Path) -> None:
    """Data loaders fork: what they inherit must not hold the lock of a trainer that was killed."""
    script = (
        "import os, sys, time; from pathlib import Path; from expost.store.locks import KeyLock\n"
        "with KeyLock(Path(sys.argv[1]), sys.argv[2]).hold():\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(20); os._exit(0)\n"
        "    print(child, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path), NAME],
        cwd=Path(__file__).parents[3],
        stdout=(out := (tmp_path / "out").open("w", encoding="utf-8")),
    )
    out.close()
    assert done.returncode == -9
    try:
        assert seconds_to_get(tmp_path)[0] < 5
    finally:
        os.kill(int((tmp_path / "out").read_text(encoding="utf-8")), 9)


def test_a_spawned_process_reads_the_same_host() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(socket.gethostname) == socket.gethostname()
