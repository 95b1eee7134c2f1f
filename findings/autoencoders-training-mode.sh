#!/usr/bin/env bash
# autoencoders 0.6.8: from_pretrained() returns a model in training mode, so encoding with it changes it.
#
# With norm="batchnorm" or dropout the latents of an item then depend on the batch, and each batch encoded moves the
# running statistics: under no_grad() too, and eval() afterwards does not bring them back. transformers and diffusers,
# whose method has the same name, arguments and files, return models in eval mode. export() of the same package
# switches to eval mode by itself, and agrees with none of the latents encoded before.
#
# Why it matters: a pretrained encoder is loaded to encode a data set. What comes out depends on the order of the data,
# and the weights that are saved next are no longer those that were loaded.
#
# Seen (mean squared difference from the latents of the saved model in eval mode, as a share of their variance):
#   loaded and set to eval at once, batches of 16: 0.000
#   as loaded, training True (expected False), batches of 16: 0.094
#   set to eval after that pass: 0.006
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6' 'autoencoders[torch]==0.6.8'
venv/bin/python - <<'END'
import sys
from importlib.metadata import version

import torch
from autoencoders.data.base import TensorSpec
from autoencoders.models.loading import load_model

print("autoencoders", version("autoencoders"), "torch", torch.__version__)
torch.manual_seed(0)
x = torch.randn(256, 16)
x = x[x[:, 0].argsort()]  # sorted, as a folder of classes is
layers = {"hidden_dims": [32, 32], "norm": "batchnorm"}
model = load_model(
    "vae",
    sample_spec=TensorSpec(shape=(16,)),
    latent_dim=4,
    encoder="mlp",
    encoder_config=layers,
    decoder="mlp",
    decoder_config={"hidden_dims": [32, 16]},
)
for _ in range(100):
    model(x[torch.randperm(256)])
model.eval().save_pretrained("saved")


@torch.no_grad()
def means(model, batch_size=256):
    return torch.cat([model.encode(batch)[0] for batch in x.split(batch_size)])


def share(z):
    return float((z - reference).square().mean() / reference.var())


reference = means(model)
loaded = type(model).from_pretrained("saved")
is_training = loaded.training
first = share(means(loaded, 16))
afterwards = share(means(loaded.eval()))
control = share(means(type(model).from_pretrained("saved").eval(), 16))
print(f"  loaded and set to eval at once, batches of 16: {control:.3f}")
print(f"  as loaded, training {is_training} (expected False), batches of 16: {first:.3f} (expected 0)")
print(f"  set to eval after that pass: {afterwards:.3f} (expected 0)")
sys.exit(not (is_training and first > 0.01 and afterwards > 1e-3 and control < 1e-9))
END
