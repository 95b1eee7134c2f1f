"""The worker's half of an interleaved comparison: train one round when told to, say how long it took, wait.

Only the standard library, because each contestant runs it in an environment of its own. One JSON object a line goes to
stdout: first the facts of the environment, then, for each round, `{"ready": true}` and `{"seconds": ...}`. A line on
stdin starts a round, its end closes the worker.
"""

import json
import sys
import time
from typing import Any


class Rounds:
    """Args:
    facts: what the table should say of this side: versions, threads.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._out, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is not for the driver
        self._started = 0.0
        self._say(facts)

    def begin(self) -> None:
        """Wait for the word and start the clock; exits where there will be no more rounds."""
        self._say({"ready": True})
        if not sys.stdin.readline():
            sys.exit(0)
        self._started = time.perf_counter()

    def end(self, **figures: float) -> None:
        """Stop the clock; `figures`: what else the round has to tell."""
        self._say({"seconds": time.perf_counter() - self._started, **figures})

    def _say(self, facts: dict[str, Any]) -> None:
        print(json.dumps(facts), file=self._out, flush=True)
