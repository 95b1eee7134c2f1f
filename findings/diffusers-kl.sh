#!/usr/bin/env bash
# diffusers 0.42.1: posterior.kl() of AutoencoderKL and of AutoencoderOobleck are two quantities, and both may be wrong.
#
# The posterior of the KL family sums over axes 1, 2 and 3, whatever the rank: right for images; for a video's latents
# [batch, channels, frames, height, width] the width is left, so there is one figure a column, and their mean is too
# small by the width. The posterior of Oobleck (audio, [batch, channels, length]) leaves out the factor one half, takes
# the mean over batch and length, and with another posterior as its argument has the log-variances the wrong way round:
# it falls below zero, where no divergence can be.
#
# Why it matters: a rate in nats, or the weight of a KL term, taken from one family means something else in the next.
# torch.distributions.kl_divergence of the posterior's mean and std is the reference here.
#
# Seen (nats; "true" is summed over a latent and averaged over two, "kl" is the mean of what is returned):
#   image [2, 4, 8, 10]: true 303.4, kl 303.4, shape (2,)
#   video [2, 4, 3, 8, 10]: true 764.6, kl 76.5, shape (2, 10)
#   audio [2, 4, 10]: true 46.5, kl 9.3, shape ()
#   audio, narrow to wide: true 99.9, true by length 10.0, kl -28.0
#   audio, wide to narrow: true 7867.2, true by length 786.7, kl 1621.4
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6' 'diffusers==0.42.1'
venv/bin/python - <<'END'
import sys

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.distributions import Normal, kl_divergence

print("diffusers", diffusers.__version__, "torch", torch.__version__)
torch.manual_seed(0)


def true(p, q=None):
    q = Normal(0.0, 1.0) if q is None else Normal(q.mean, q.std)
    return float(kl_divergence(Normal(p.mean, p.std), q).flatten(1).sum(1).mean())


image = DiagonalGaussianDistribution(torch.randn(2, 8, 8, 10))
video = DiagonalGaussianDistribution(torch.randn(2, 8, 3, 8, 10))
audio = OobleckDiagonalGaussianDistribution(torch.randn(2, 8, 10))
narrow = OobleckDiagonalGaussianDistribution(torch.cat([torch.zeros(2, 4, 10), torch.full((2, 4, 10), -3.0)], 1))
wide = OobleckDiagonalGaussianDistribution(torch.cat([torch.zeros(2, 4, 10), torch.full((2, 4, 10), 0.5)], 1))
cases = {  # kl, the truth, and by what the truth is multiplied in it
    "image [2, 4, 8, 10]": (image.kl(), true(image), 1),
    "video [2, 4, 3, 8, 10]": (video.kl(), true(video), 1 / 10),
    "audio [2, 4, 10]": (audio.kl(), true(audio), 2 / 10),
}
changed = 0
for name, (kl, truth, factor) in cases.items():
    print(f"  {name}: true {truth:.1f}, kl {float(kl.mean()):.1f}, shape {tuple(kl.shape)}")
    changed |= abs(float(kl.mean()) - factor * truth) > 1e-3 * truth
for name, p, q in (("narrow to wide", narrow, wide), ("wide to narrow", wide, narrow)):
    kl, truth = float(p.kl(q)), true(p, q)
    print(f"  audio, {name}: true {truth:.1f}, true by length {truth / 10:.1f}, kl {kl:.1f}")
    changed |= (kl < 0) != (p is narrow) or abs(kl - 2 * truth / 10) < 1
changed |= cases["video [2, 4, 3, 8, 10]"][0].shape != (2, 10)
sys.exit(int(changed))
END
