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
from expost.ranks import rendezvous as meeting
from expost.ranks.machines import Node
from expost.ranks.messages import Order
from expost.ranks.rendezvous import Host, hosting, invited, wait_for_all

KEY, OTHER = "0123456789abcdef0123", "f" * 20


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """A machine 0 that others would connect to, with little patience on all sides."""
    for name, seconds in {"COMING": 8.0, "GONE": 0.2, "ASKING": 0.2}.items():
        monkeypatch.setattr(meeting, name, timedelta(seconds=seconds))
    with create_server(("", 0)) as free:
        return Node(0, "localhost", free.getsockname()[1])


def order(node: Node) -> Order:
    return Order("vae", KEY, 1, 0, 2, 1, node.address, node.port, {}, "", {}, None, True)


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


def test_a_rank_waits_as_long_as_machine_0_does(node: Node, tmp_path: Path) -> None:
    """Three times as long as it would ask, and six times as long as it would mourn."""
    with hosting(node, KEY, in_ranks=True) as host, after(1.2, lambda: host and host.invite(tmp_path)):
        started = time.monotonic()
        _, folder = invited(order(node))
        assert folder == tmp_path and time.monotonic() - started > 1


def test_a_machine_0_that_comes_late_or_is_at_something_else_is_waited_for(node: Node, tmp_path: Path) -> None:
    hosts: list[Host] = []

    def begin(key: str) -> None:
        hosts.append(Host(node, key))
        hosts[-1].invite(tmp_path / key)

    with after(0.7, lambda: begin(OTHER), lambda: hosts[0].close(), lambda: begin(KEY)):
        assert invited(order(node))[1] == tmp_path / KEY
    hosts[-1].close()


def test_a_machine_0_that_is_gone_is_told_in_one_line(node: Node) -> None:
    host = Host(node, KEY)
    with after(0.7, host.close), pytest.raises(UserError, match=r"machine 0 at localhost:.* is gone") as told:
        invited(order(node))
    assert "\n" not in str(told.value)


def test_ranks_wait_for_each_other_but_not_for_ever(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosting(node, KEY, in_ranks=True) as host:
        assert host is not None
        host.invite(tmp_path)
        monkeypatch.setattr(meeting, "COMING", timedelta(seconds=0.5))
        first, second = order(node), replace(order(node), rank=0)
        with pytest.raises(UserError, match="see that the command runs on all of them"):
            wait_for_all(invited(first)[0], first)
        came = invited(second)[0]
        with after(0.2, lambda: wait_for_all(came, second)):
            wait_for_all(invited(first)[0], first)


def test_a_machine_0_that_never_comes_is_told_in_one_line(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "COMING", timedelta(seconds=0.3))
    with pytest.raises(UserError, match="see that it runs the same command") as told:
        invited(order(node))
    assert "\n" not in str(told.value)
