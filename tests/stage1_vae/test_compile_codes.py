"""trainer.compile=true with codes: codebooks start, learn and are revived inside the compiled step."""

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from training_run import run

from stage1_vae.bottleneck import Bottleneck
from stage1_vae.bottlenecks.bernoulli import Bernoulli
from stage1_vae.bottlenecks.fsq import FSQ
from stage1_vae.bottlenecks.gumbel import Gumbel
from stage1_vae.bottlenecks.residual_vq import ResidualVQ
from stage1_vae.bottlenecks.vq import VQ
from stage1_vae.bottlenecks.vq2 import VQ2
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.conv import Conv
from stage1_vae.nets.mlp import MLP
from stage1_vae.vae import VAE

KINDS: dict[str, partial[Bottleneck]] = {
    "vq": partial(VQ, num_codes=32, code_dim=8),
    "vq_rotation": partial(VQ, num_codes=32, code_dim=8, rotation=True),
    "fsq": partial(FSQ, levels=[4, 4, 4]),
    "residual_vq": partial(ResidualVQ, num_codes=16, code_dim=8),
    "vq2": partial(VQ2, num_codes=32, code_dim=8),
    "gumbel": partial(Gumbel, num_codes=32),
    "bernoulli": partial(Bernoulli, latent_dim=16),
}


def make(kind: str) -> VAE:
    torch.manual_seed(0)
    bottleneck: partial[Bottleneck] = KINDS[kind]
    net = MLP([32]) if kind == "bernoulli" else Conv([8, 16])
    return VAE((1, 8, 8), net, bottleneck, BernoulliLikelihood())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*litlogger", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_training_is_that_of_eager_training(kind: str) -> None:
    """Rounding apart, which a discrete choice can blow up: figures agree to a few per cent, losses more closely."""
    eager = run(make(kind), max_epochs=6)
    torch._dynamo.reset()
    counters.clear()
    compiled = run(make(kind), max_epochs=6, compile=True)
    assert counters["stats"]["unique_graphs"] == 2, "one step, and the probe for a compiler"
    for key in ("train_loss", "val_loss", "val_distortion_nats"):
        assert compiled[-1][key] == pytest.approx(eager[-1][key], rel=0.02)
    for key in (key for key in eager[-1] if key.endswith("codes_used")):
        assert compiled[-1][key] == pytest.approx(eager[-1][key], abs=0.1)
