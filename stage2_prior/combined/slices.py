"""A fit by gradient that runs in slices: it stands still between them, and goes on from where it was.

It has a thread of its own, which runs only while whoever started it waits, so that never two fits compute at once; who
waits keeps no idle threads of OpenMP, or the one that runs would be slower. What makes it stand still is its log, which
hears of every epoch when that has been measured. Nothing of the fit is changed: its schedule is that of all its epochs,
and every epoch seeds torch's generator for itself.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from stage1_vae.machine import end_idle_threads
from stage2_prior.fitting import FitReport, FitRun, FitStates


class Dropped(Exception):  # noqa: N818  # it is no mistake
    """Ends a fit that nobody wants any more."""


class SlicedFit:
    """Args:
        fit: what is run, with what it is lent.
        lent: to it; it keeps no states, for several fits would take them for their own.

    Attributes:
        report: of the fit that has ended; None: it has not, or was dropped.
        num_epochs: that were measured.
        seconds: that it ran.
    """

    def __init__(self, fit: Callable[[FitRun], FitReport], lent: FitRun) -> None:
        self.report: FitReport | None = None
        self.num_epochs, self.seconds = 0, 0.0
        self._error: BaseException | None = None
        self._until, self._is_dropped, self._is_last = math.inf, False, False
        self._module: Any = None  # of stage2_prior.fit, which is slow to import
        self._turn, self._pause = threading.Semaphore(0), threading.Semaphore(0)
        own = replace(lent, log=self._log, lightning_fit=self._lightning_fit, states=FitStates())
        self._lent = lent
        self._thread = threading.Thread(target=self._run, args=(fit, own), daemon=True)
        self._thread.start()

    def advance(self, until: float, is_last: bool = False) -> bool:
        """Go on until the first epoch that ends after `until`, of `time.perf_counter`; whether the fit has ended.

        Args:
            until: see above.
            is_last: the fit ends there, with the best weights that it had.

        Raises:
            Exception: what the fit raised.
        """
        started = time.perf_counter()
        self._until, self._is_last = until, is_last
        self._hand_over(self._turn)
        self._pause.acquire()
        self.seconds += time.perf_counter() - started
        if self._error is not None:
            raise self._error
        return self.report is not None

    def drop(self) -> None:
        """End it where it stands, if it has not ended; where its caller was interrupted, at the end of its epoch."""
        self._is_dropped, self._until = True, 0.0
        self._turn.release()
        self._thread.join()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """What is fitted has, within the block, the averaged weights that it is measured by, and does not learn."""
        prior, average = self._module.prior, self._module.average
        live = {name: value.clone() for name, value in prior.state_dict().items()}
        prior.load_state_dict(average.state_dict())
        prior.eval()
        try:
            yield
        finally:
            prior.load_state_dict(live)
            prior.train()

    def _run(self, fit: Callable[[FitRun], FitReport], own: FitRun) -> None:
        self._turn.acquire()
        try:
            if not self._is_dropped:
                self.report = fit(own)
        except Dropped:
            pass
        except BaseException as error:  # whoever waits is told
            self._error = error
        self._hand_over(self._pause)

    def _hand_over(self, turn: threading.Semaphore) -> None:
        try:
            end_idle_threads()
        finally:
            turn.release()

    def _lightning_fit(self, module: Any, *arguments: Any, **keywords: Any) -> None:
        self._module = module
        self._lent.lightning_fit(module, *arguments, **keywords, resumable=False)

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        self._lent.log(figures, step)
        self.num_epochs += 1
        if time.perf_counter() < self._until:
            return
        if self._is_last:
            self._module.trainer.should_stop = True
            return
        self._hand_over(self._pause)
        self._turn.acquire()
        if self._is_dropped:
            raise Dropped
