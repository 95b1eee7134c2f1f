"""Where the tokens of a transformer lie, and how it is told."""

import pytest
import torch

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.nets.transformer import Layout
from stage2_prior.priors.transformer import Transformer


def made(grids: tuple[tuple[int, int], ...], positions: str) -> Transformer:
    torch.manual_seed(0)
    spec = LatentSpec((sum(h * w for h, w in grids),), Support.CODES, grids, (5,) * len(grids))
    prior = Transformer(spec, width=32, depth=2, num_heads=4, positions=positions).eval()
    with torch.no_grad():
        for parameter in prior.parameters():  # has learned nothing but has opinions
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return prior


def test_rotary_positions_know_rows_from_columns_and_distances() -> None:
    """Attention of one token to another depends on where they lie to each other, along both axes."""
    block = next(iter(made(((4, 4),), "rotary").net.layers()))
    q, k, _ = block._heads(torch.randn(1, 1, 32).expand(1, 16, 32))  # the same token everywhere
    score = (q[0, 0] @ k[0, 0].T).view(4, 4, 4, 4)  # [row, column, row, column]
    torch.testing.assert_close(score[1, 1, 0, 0], score[3, 2, 2, 1])
    assert not torch.allclose(score[1, 1, 0, 1], score[1, 1, 1, 0])
    assert not torch.allclose(score[2, 1, 0, 1], score[1, 1, 0, 1])


def test_a_coarse_cell_lies_amid_the_fine_ones_that_it_covers() -> None:
    layout = Layout(((1, 2), (2, 4)))
    coarse = [[0.5, 0.5], [0.5, 2.5]]
    fine = [[row, column] for row in (0.0, 1.0) for column in (0.0, 1.0, 2.0, 3.0)]
    assert layout.coordinates.tolist() == coarse + fine
    assert layout.grid_of.tolist() == [0, 0] + [1] * 8


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_every_position_and_every_map_has_a_vector_of_its_own(positions: str) -> None:
    prior = made(((2, 2), (2, 2)), positions)
    vectors = prior.net.position.weight
    assert len(vectors) == (8 if positions == "learned" else 2)
    prior.log_prob(torch.randint(5, (16, 8))).sum().backward()
    assert vectors.grad is not None and (vectors.grad.abs().sum(1) > 0).all()
