"""An AutoencoderKL that is trained here for some seconds, saved and loaded by diffusers itself, as stage 1."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from stage1_vae.external.autoencoder import calibrate
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.pretrained import Pretrained
from stage1_vae.rate import rate_nats

CONFIG: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 2,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
}


def digits() -> Tensor:
    """[1797, 1, 8, 8] in [0, 1]."""
    return torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, x = tmp_path_factory.mktemp("kl"), digits()[:1500]
    torch.manual_seed(0)
    net: Any = diffusers.AutoencoderKL(**CONFIG)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(300):
        batch = 2 * x[torch.randint(len(x), (64,))] - 1
        posterior = net.encode(batch).latent_dist
        error = (net.decode(posterior.sample()).sample - batch).square().flatten(1).sum(1)
        (error + 1e-2 * posterior.kl()).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    net.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_it_is_calibrated_and_its_figures_are_those_of_the_definition(folder: Path) -> None:
    x = digits()
    source = Pretrained(path=folder)
    loaded = source.load()
    autoencoder = source.autoencoder(loaded, x[:2], 10)
    assert autoencoder.spec.shape == (2, 4, 4) and autoencoder.is_differentiable and autoencoder.guesses == ()
    torch.manual_seed(0)
    result = calibrate(autoencoder, [(batch, None) for batch in x[:1500].split(300)])
    assert result.explained > 0.7 and result.scale is not None and 0.02 < result.scale < 0.2

    held_out = x[1500:]
    posterior = autoencoder.encode(held_out).posterior
    z = posterior.sample()
    log_prob = autoencoder.decode(z).log_prob(held_out)
    nats = 0.5 + torch.tensor(2 * torch.pi).log() / 2 + torch.tensor(result.scale).log()  # a pixel, at the optimum
    assert abs(float(-log_prob.mean() / 64 - nats)) < 0.15
    rate = rate_nats(posterior, autoencoder.trained_against, z)
    assert 0 < float(rate.mean()) < 500 and bool(torch.isfinite(rate).all())
    autoencoder.check_unchanged(loaded.weights_sha256)


@pytest.mark.slow
def test_other_weights_in_the_decoder_explain_nothing(folder: Path) -> None:
    x = digits()
    source = Pretrained(path=folder)
    loaded = source.load()
    autoencoder = source.autoencoder(loaded, x[:2], 0)
    torch.nn.init.normal_(loaded.model.net.post_quant_conv.weight, std=3.0)
    with pytest.raises(ExternalError, match="do not speak of the same latents"):
        calibrate(autoencoder, [(x[:300], None)])
