#!/usr/bin/env bash
# nsvq 0.1.0 and diveq 0.1.3: encoding a sorted data set with a frozen quantiser in eval mode overwrites its codebook.
#
# forward() of both counts in which calls a codeword is used, and at each 100th call puts copies of used codewords in
# the place of those that were not, through .data: eval(), no_grad() and requires_grad_(False) make no difference. A
# folder of images is read class by class, so in 100 batches of one class the codewords of all other classes are lost.
# It returns a noisy vector in place of the codeword as well. inference() does neither; state_dict has both counters,
# so a saved model goes on where it was.
#
# Why it matters: eval() and no_grad() are what an engineer trusts before encoding a data set. The codes that were just
# written belong to no codebook that is left.
#
# Seen (100 codewords, 100 latents close to each, in order, batches of 10; nsvq and diveq alike):
#   codes right by inference() before   100 %
#   codes right, forward()               10 %
#   codewords left as they were           1 of 100
#   codes right by inference() after      2 %
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6' 'nsvq==0.1.0' 'diveq==0.1.3'
venv/bin/python - <<'END'
import sys
from importlib.metadata import version

import torch
from diveq import DIVEQ
from nsvq import NSVQ

print("nsvq", version("nsvq"), "diveq", version("diveq"), "torch", torch.__version__)
changed = 0
for quantiser in (NSVQ, DIVEQ):
    torch.manual_seed(0)
    q = quantiser(num_embeddings=100, embedding_dim=8, verbose=False).requires_grad_(False).eval()
    with torch.no_grad():
        q.codebook.copy_(3 * torch.randn(100, 8))  # as if trained
    trained = q.codebook.clone()
    codes = torch.arange(100).repeat_interleave(100)
    latents = trained[codes] + 0.1 * torch.randn(10_000, 8)
    with torch.no_grad():
        before = (q.inference(latents)[1] == codes).float().mean()
        during = (torch.cat([q(batch)[1] for batch in latents.split(10)]) == codes).float().mean()
        after = (q.inference(latents)[1] == codes).float().mean()
    left = int((q.codebook == trained).all(1).sum())
    print(f"  {quantiser.__name__}: expected 100 % right and 100 codewords left; seen {before:.0%} right before,"
          f" {during:.0%} in the one pass, {after:.0%} afterwards, {left} codewords left")
    changed |= before < 0.99 or during > 0.5 or after > 0.5 or left > 50
sys.exit(int(changed))
END
