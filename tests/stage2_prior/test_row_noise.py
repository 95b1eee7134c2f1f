"""Noise that is made of a latent: uniform, independent, and its own."""

import torch

from stage2_prior.row_noise import RowNoise


def test_it_is_that_of_the_latent_alone() -> None:
    z = torch.randn(50, 2, 3, requires_grad=True)
    noise = RowNoise(z).uniform(40)
    assert torch.equal(noise[:, 7:9], RowNoise(z[7:9]).uniform(40)) and not noise.requires_grad


def test_neighbours_have_independent_noise_that_is_uniform() -> None:
    """Latents that differ by about 0.01, and codes that differ in one: correlations of 20,000 pairs are within five of
    their standard deviations, over all 400 pairs of columns."""
    torch.manual_seed(0)
    real, codes = torch.randn(20_000, 4), torch.randint(512, (20_000, 4))
    near = real + 0.01 * torch.randn_like(real)
    swapped = torch.cat([codes[:, :3], torch.randint(512, (20_000, 1))], 1)
    for z, other in ((real, near), (codes, swapped)):
        first, second = RowNoise(z).uniform(20).T, RowNoise(other).uniform(20).T
        for quantile in (0.1, 0.5, 0.9):
            assert ((first < quantile).double().mean(0) - quantile).abs().max() < 5 * 0.5 / 20_000**0.5
        both = torch.corrcoef(torch.cat([first, second], 1).T) - torch.eye(40)
        assert both.abs().max() < 5 / 20_000**0.5
