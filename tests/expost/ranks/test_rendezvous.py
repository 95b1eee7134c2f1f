"""Ranks of several machines find machine 0: they wait as long as it lives, and no longer."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from socket import create_server

import pytest

from expost.base.errors import UserError
from expost.base.machines import Machine
from expost.ranks.messages import Order
from expost.ranks.rendezvous import Rendezvous, join, serve, wait_for_all

KEY, OTHER = "0123456789abcdef0123", "f" * 20


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine 0 that others would connect to, with little patience on all sides."""
    for name, seconds in {"COMING": 8.0, "GONE": 0.2, "ASKING": 0.2}.items():
        monkeypatch.setattr(f"expost.ranks.rendezvous.{name}", timedelta(seconds=seconds))
    with create_server(("", 0)) as free:
        return Machine(0, "localhost", free.getsockname()[1])


def order(machine: Machine) -> Order:
    return Order("vae", KEY, 1, 0, 2, 1, machine.address, machine.port, {}, "", {}, None, True)


@contextmanager
def after(seconds: float, *acts: Callable[[], object]) -> Iterator[None]:
    """Do `acts`, one each `seconds`, beside the block."""

    def do() -> None:
        for act in acts:
            time.sleep(seconds)
            act()

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_rank_waits_as_long_as_machine_0_does(machine: Machine, tmp_path: Path) -> None:
    """Three times as long as it would ask, and six times as long as it would mourn."""
    with (
        serve(machine, KEY, in_ranks=True) as rendezvous,
        after(1.2, lambda: rendezvous and rendezvous.invite(tmp_path)),
    ):
        started = time.monotonic()
        _, folder = join(order(machine))
        assert folder == tmp_path and time.monotonic() - started > 1


def test_a_machine_0_that_comes_late_or_is_at_something_else_is_waited_for(machine: Machine, tmp_path: Path) -> None:
    several: list[Rendezvous] = []

    def begin(key: str) -> None:
        several.append(Rendezvous(machine, key))
        several[-1].invite(tmp_path / key)

    with after(0.7, lambda: begin(OTHER), lambda: several[0].close(), lambda: begin(KEY)):
        assert join(order(machine))[1] == tmp_path / KEY
    several[-1].close()


def test_a_machine_0_that_is_gone_is_told_in_one_line(machine: Machine) -> None:
    rendezvous = Rendezvous(machine, KEY)
    with after(0.7, rendezvous.close), pytest.raises(UserError, match=r"machine 0 at localhost:.* is gone") as caught:
        join(order(machine))
    assert "\n" not in str(caught.value)


def test_ranks_wait_for_each_other_but_not_for_ever(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(machine, KEY, in_ranks=True) as rendezvous:
        assert rendezvous is not None
        rendezvous.invite(tmp_path)
        monkeypatch.setattr("expost.ranks.rendezvous.COMING", timedelta(seconds=0.5))
        first, second = order(machine), replace(order(machine), rank=0)
        with pytest.raises(UserError, match="see that the command runs on all of them"):
            wait_for_all(join(first)[0], first)
        came = join(second)[0]
        with after(0.2, lambda: wait_for_all(came, second)):
            wait_for_all(join(first)[0], first)


def test_a_machine_0_that_never_comes_is_told_in_one_line(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expost.ranks.rendezvous.COMING", timedelta(seconds=0.3))
    with pytest.raises(UserError, match="see that it runs the same command") as caught:
        join(order(machine))
    assert "\n" not in str(caught.value)
