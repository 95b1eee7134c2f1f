"""Seconds of a fit over all of its attempts: what a state was kept after counts, what was lost behind it does not."""

import time


class Stopwatch:
    """Runs from its making."""

    def __init__(self) -> None:
        self.go_on_from(0.0)

    def go_on_from(self, seconds: float) -> None:
        """Stand at `seconds` now, as when the state was kept from which the fit continues."""
        self._started = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started
