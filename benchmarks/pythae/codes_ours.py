"""Our side of codes.py: the exported model, as a user loads it.

    python codes_ours.py NUM_SAMPLES

Reads `model/` and `test.npy` in the current folder. A round draws NUM_SAMPLES images.
"""

import platform
import sys
import time

import numpy as np
import torch
from rounds import Rounds

from expost.export.two_stage import TwoStage


def main(num_samples: str) -> None:
    model, num = TwoStage.load("model"), int(num_samples)
    codes = torch.from_numpy(np.load("test.npy", allow_pickle=False)).flatten(1).long()
    with torch.no_grad():
        nats = -model.prior.log_prob(codes).double().mean().item()
    facts = {"name": "expost", "torch": torch.__version__, "python": platform.python_version()}
    rounds = Rounds(facts | {"nats": nats, "threads": torch.get_num_threads()})
    while True:
        rounds.begin()
        started = time.perf_counter()
        z = model.sample_latents(num)
        codes_seconds = time.perf_counter() - started
        model.decode(z)
        rounds.end(codes_seconds=codes_seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
