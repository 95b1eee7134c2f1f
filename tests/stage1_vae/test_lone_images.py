"""A batch of one image where batch normalisation would ask for its variance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run_here
from torch.nn import functional as F

from stage1_vae.nets.conv import BatchNorm

FEW = ("debug=fast", "logger=csv", "data=arrays", "data.root=x.npy", "stage=vae", "net.batch_norm=true")


KINDS = {
    "gaussian": ("net=conv", "prior=gaussian"),
    "vq": ("vae=vq", "vae.bottleneck.num_codes=8", "prior=unigram"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [13, 6, 1])
def test_a_last_batch_of_one_image_trains(tmp_path: Path, kind: str, batch_size: int) -> None:
    """Of 20 images 14 are for training, of 19 there are 13: batches of 13 and 1, of 6, 6 and 1, and of one each."""
    num = 19 if batch_size == 6 else 20
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (num, 4, 4), dtype=np.uint8))
    result = run_here(tmp_path, *FEW, *KINDS[kind], f"trainer.batch_size={batch_size}", "net.channels=[4,8]")
    assert (result.code, result.err) == (0, ""), result


def test_a_lone_value_is_normalised_by_the_running_statistics() -> None:
    """And changes none of them; two values are normalised by their own, as torch does it."""
    norm = BatchNorm(3).train()
    norm(torch.randn(8, 3, 2, 2))
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    before, one = (mean.clone(), variance.clone()), torch.randn(1, 3, 1, 1)
    found = norm(one)
    expected = (one - before[0].view(1, 3, 1, 1)) / (before[1].view(1, 3, 1, 1) + norm.eps).sqrt()
    torch.testing.assert_close(found, expected)
    assert torch.equal(mean, before[0]) and torch.equal(variance, before[1])
    for shape in ((2, 3, 1, 1), (1, 3, 1, 2)):
        two = torch.randn(shape)
        assert torch.equal(norm(two), F.batch_norm(two, None, None, norm.weight, norm.bias, training=True))
