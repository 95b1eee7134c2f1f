"""A headless Chromium spoken to over a pipe in its DevTools protocol: no driver, no port, no library.

Each message is JSON and a NUL byte; Chromium reads descriptor 3 and writes descriptor 4 (`--remote-debugging-pipe`).
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # which needs rights that root in a container has not
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
ABOVE_STANDARD = 10
SECONDS = 60.0


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `events` is everything that Chromium has told so far."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write, self.count, self.rest = read, write, 0, b""
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda reply: reply.get("id") == self.count)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def open(self, address: str, width: int, height: int = 800) -> None:
        """Go to `address` in a window of that many CSS pixels, and wait until all of it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=address)
        if not self.events_of("Page.loadEventFired"):
            self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression (a promise is waited for)."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def events_of(self, *methods: str) -> list[dict[str, Any]]:
        """Parameters of the events of these kinds since the page was opened."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for message in self._messages():
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message
        raise AssertionError("Chromium ended")

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + SECONDS
        while True:
            while b"\0" in self.rest:
                message, self.rest = self.rest.split(b"\0", 1)
                yield json.loads(message)
            ready, _, _ = select.select([self.read], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"Chromium has said nothing for {SECONDS:g} seconds"
            more = os.read(self.read, 1 << 20)
            if not more:
                return
            self.rest += more


@contextmanager
def chromium(binary: str, home: Path) -> Iterator[Page]:
    """A page of a fresh Chromium that keeps everything in `home` (an empty folder)."""
    commands, write = _pipe()
    read, answers = _pipe()
    stderr = (home / "stderr").open("wb")
    words = [binary, *FLAGS, f"--user-data-dir={home / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", *words],
        pass_fds=(commands, answers),
        env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )
    stderr.close()
    os.close(commands)
    os.close(answers)
    try:
        yield Page(read, write)
    except (AssertionError, BrokenPipeError) as error:
        raise AssertionError(f"{error}\n{(home / 'stderr').read_text(encoding='utf-8')[-2000:]}") from error
    finally:
        os.close(write)  # at the end of its input Chromium leaves
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(read)


def _pipe() -> tuple[int, int]:
    """(what comes out, what goes in), numbered above 3 and 4, which the shell gives to Chromium."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, ABOVE_STANDARD) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
