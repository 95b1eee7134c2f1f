"""What every test needs before torch is imported, and a collector of garbage that leaves what was imported alone."""

import gc
import os

from expost.base.runtime import wait_briefly

wait_briefly(os.environ)
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several workers share the cores


def pytest_collection_finish() -> None:
    """Torch, Lightning and the tests are a million objects that live to the end: walking through them again and again
    took a fifth of the time of a short command."""
    gc.collect()
    gc.freeze()
