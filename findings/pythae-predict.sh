#!/usr/bin/env bash
# pythae 0.1.2: predict() of a VQVAE, SVAE, VAE_IAF or VAE_LinNF decodes what its decoder has never seen.
#
# embed() and reconstruct() go through forward(); predict(), inherited by all of them, gives the encoder's output
# straight to the decoder. So the quantiser, the projection to the sphere and the flow are left out, the embedding that
# predict() returns is not what a prior is fitted to, and its shape is the same. For an AE and a VAE predict() is as
# good or better, for it decodes the mean, where embed() and reconstruct() draw, in eval mode too.
#
# Why it matters: latents collected by predict(), the only method that returns both, belong to no decoder, and the
# model is thought to be bad. VQVAE: embed(); the others: the flow or the norm by hand.
#
# Seen (squared error as a share of the variance, after 500 steps; length of the embeddings):
#   AE: error of reconstruct 0.00, of predict 0.00; length of embed 5.4, of predict 5.4
#   VAE: error of reconstruct 0.08, of predict 0.01; length of embed 2.0, of predict 1.9
#   SVAE: error of reconstruct 0.42, of predict 21.72; length of embed 1.0, of predict 6.9
#   VQVAE: error of reconstruct 0.23, of predict 3.05; length of embed 10.4, of predict 29.0
#   VAE_IAF: error of reconstruct 0.07, of predict 3.84; length of embed 1.9, of predict 5.5
#   VAE_LinNF: error of reconstruct 0.12, of predict 0.34; length of embed 2.3, of predict 3.3
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6' 'pythae==0.1.2'
venv/bin/python - <<'END'
import sys
import warnings
from importlib.metadata import version

import torch
from pythae import models
from pythae.data.datasets import DatasetOutput
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn

warnings.simplefilter("ignore")
print("pythae", version("pythae"), "torch", torch.__version__)


class Linear(BaseEncoder, BaseDecoder):
    def __init__(self, **sizes):
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})

    def forward(self, x):
        return ModelOutput(**{name: linear(x) for name, linear in self.maps.items()})


torch.manual_seed(0)
x = torch.randn(512, 4) @ torch.randn(4, 16)
iaf, planar = {"n_made_blocks": 2, "hidden_size": 32}, {"flows": ["Planar"] * 4}
options = {"AE": {}, "VAE": {}, "SVAE": {}, "VQVAE": {"num_embeddings": 16}, "VAE_IAF": iaf, "VAE_LinNF": planar}
changed = 0
for name, given in options.items():
    torch.manual_seed(0)
    make = getattr(models, f"{name}_Config" if "_" in name else f"{name}Config")
    encoder = Linear(embedding=(16, 4), log_covariance=(16, 4), log_concentration=(16, 1))
    decoder = Linear(reconstruction=(4, 16))
    model = getattr(models, name)(make(input_dim=(16,), latent_dim=4, **given), encoder, decoder)
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(500):
        adam.zero_grad()
        model(DatasetOutput(data=x)).loss.backward()
        adam.step()
    model.eval()
    with torch.no_grad():
        predicted, latents = model.predict(x), model.embed(x)
        errors = [float((r - x).square().mean() / x.var()) for r in (model.reconstruct(x), predicted.recon_x)]
    lengths = [float(z.flatten(1).norm(dim=1).mean()) for z in (latents, predicted.embedding)]
    print("  {}: error of reconstruct {:.2f}, of predict {:.2f}; length of embed {:.1f}, of predict {:.1f}".format(
        name, *errors, *lengths))
    changed |= (errors[1] > 2 * errors[0] + 1e-3) != (name not in ("AE", "VAE"))
sys.exit(int(changed))
END
