"""Stage 1 with codes that was stopped ends in the same bits: codebooks, temperatures and counts included."""

from functools import partial
from pathlib import Path

import pytest
import torch
from stopped_run import Dies, KilledError, training_states
from training_run import equal, run, weights

from stage1_vae.bottleneck import Bottleneck
from stage1_vae.bottlenecks.fsq import FSQ
from stage1_vae.bottlenecks.gumbel import Gumbel
from stage1_vae.bottlenecks.vq2 import VQ2
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.conv import Conv
from stage1_vae.vae import VAE

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


@pytest.mark.parametrize("kind", [VQ2, FSQ, Gumbel])
def test_every_bit_is_that_of_a_run_that_nobody_stopped(kind: type[Bottleneck], tmp_path: Path) -> None:
    def make() -> VAE:
        torch.manual_seed(0)
        return VAE((1, 8, 8), Conv([8, 16]), partial(kind), BernoulliLikelihood())

    whole, vae = make(), make()
    expected = run(whole)
    with pytest.raises(KilledError):
        run(make(), watchers=(Dies(2),), states=training_states(tmp_path))
    assert run(vae, states=training_states(tmp_path)) == expected
    assert equal(weights(vae), weights(whole))
    assert any(name.endswith("codes_used") for name in expected[-1])
