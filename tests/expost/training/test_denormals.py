"""Numbers that a processor is slow with are zero wherever a stage is made or a prior is fitted, and nowhere else."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import PROJECT, SMALL, run_here

from expost import LatentDataset, fit_prior
from stage1_vae.machine import flushed_denormals
from stage1_vae.training.module import VAEModule
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.priors.gaussian import Gaussian

SMALL_NUMBERS = torch.full((1_000_000,), 1e-39)
"""So many that all threads have some."""


def left() -> int:
    """How many of them are not zero for who computes with them."""
    return int((SMALL_NUMBERS * 0.5).count_nonzero())


def test_within_it_they_are_zero_for_every_thread() -> None:
    everywhere: list[int] = []
    with flushed_denormals():
        thread = threading.Thread(target=lambda: everywhere.append(left()))
        thread.start()
        thread.join()
        numbers = SMALL_NUMBERS.clone().requires_grad_()
        (numbers * SMALL_NUMBERS * 0.5).sum().backward()
        assert (left(), everywhere) == (0, [0])
    assert left() == len(SMALL_NUMBERS)
    assert numbers.grad is not None and not numbers.grad.any()


def test_it_leaves_what_it_found() -> None:
    with flushed_denormals():
        with flushed_denormals():
            pass
        assert left() == 0
        with pytest.raises(ValueError), flushed_denormals():
            raise ValueError
        assert left() == 0
    assert left() == len(SMALL_NUMBERS)


@pytest.fixture
def in_training(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was left of them in each epoch of stage 1, and in each fit of a Gaussian."""
    found: list[int] = []
    fit = Gaussian.fit

    def looking(self: Gaussian, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        found.append(left())
        return fit(self, train, val, run)

    monkeypatch.setattr(Gaussian, "fit", looking)
    monkeypatch.setattr(VAEModule, "on_train_epoch_start", lambda module: found.append(left()))
    return found


def test_stages_are_made_so(tmp_path: Path, in_training: list[int]) -> None:
    small = [word for word in SMALL if not word.startswith("prior")]
    result = run_here(tmp_path, *small, "prior=gaussian", "stage=prior")
    assert result.code == 0, result.err
    assert len(in_training) >= 2 and not any(in_training)
    assert left() == len(SMALL_NUMBERS)


def test_so_is_a_prior_of_three_lines(in_training: list[int]) -> None:
    fit_prior(LatentDataset.of(np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)), "gaussian")
    assert in_training and not any(in_training)
    assert left() == len(SMALL_NUMBERS)


FORK = """
import os, torch
from stage1_vae.machine import flushed_denormals

def left():
    return int((torch.full((1_000_000,), 1e-39) * 0.5).count_nonzero())

torch.set_num_threads(2)
left()
child = os.fork()
if child == 0:
    with flushed_denormals():
        os._exit(0 if left() == 0 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_does_not_wait_for_threads_of_its_parent() -> None:
    subprocess.run([sys.executable, "-c", FORK], cwd=PROJECT, check=True, timeout=120)
