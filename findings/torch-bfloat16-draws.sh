#!/usr/bin/env bash
# torch 2.13.0: a draw from a narrow Gaussian in bfloat16 is its mean, exactly, one time in three.
#
# Between 1 and 2 neighbours in bfloat16 are 1/128 apart. With log-variance -10, usual for the latents of an image
# autoencoder, the deviation is 0.0067, so mean + std * noise around 1 is one of about a dozen numbers; at -15 it is
# the mean all but always. Around 0 nothing is lost, since numbers are dense there. Mean, deviation and noise are all
# exact enough in themselves, and mean and spread of the draws come out right at -10; the distribution is discrete.
#
# Why it matters: pipelines keep latents in bfloat16 and draw in it. A density fitted to such draws can put spikes on
# the grid and gain nats without end, and the noise that a decoder was trained with is gone. Draw in float32.
#
# Seen (100,000 draws; share equal to the mean, different values):
#   mean 1, log-variance -10, bfloat16    33.2 %     13
#   mean 1, log-variance -15, bfloat16   100.0 %      2
#   mean 1, log-variance -10, float16      4.4 %     89
#   mean 1, log-variance -10, float32      0.0 %  83,943
#   mean 0, log-variance -10, bfloat16     0.0 %   2,421
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6'
venv/bin/python - <<'END'
import sys

import torch

print("torch", torch.__version__)
expected = {  # mean, log-variance, type: share of draws equal to the mean
    (1.0, -10.0, torch.bfloat16): (0.30, 0.36),
    (1.0, -15.0, torch.bfloat16): (0.99, 1.00),
    (1.0, -10.0, torch.float16): (0.03, 0.06),
    (1.0, -10.0, torch.float32): (0.00, 0.001),
    (0.0, -10.0, torch.bfloat16): (0.00, 0.001),
}
changed = 0
for (mean, log_variance, dtype), (low, high) in expected.items():
    torch.manual_seed(0)
    centre = torch.full((100_000,), mean, dtype=dtype)
    std = (0.5 * torch.full((100_000,), log_variance, dtype=dtype)).exp()
    draws = centre + std * torch.randn(100_000, dtype=dtype)
    share = float((draws == centre).float().mean())
    print(f"  mean {mean:g}, log-variance {log_variance:g}, {dtype}: {share:.1%}, {len(draws.unique()):,} values,"
          f" deviation {float((draws.double() - mean).std()):.4f} for {float(std[0]):.4f}")
    changed |= not low <= share <= high
sys.exit(int(changed))
END
