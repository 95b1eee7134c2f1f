"""The objective of clusters against its parts computed one by one."""

import pytest
import torch
from torch import Tensor

from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.mlp import MLP
from stage1_vae.objective import SCHEDULES_DONE
from stage1_vae.objectives.clusters import ClusterELBO, move_about
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE
from stage2_prior.priors.mixture import Mixture

CLASSES = 3


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE((1, 6, 6), MLP([16]), lambda **shape: Gaussian(**shape, latent_dim=2), BernoulliLikelihood())


@pytest.fixture
def mixture(vae: VAE) -> Mixture:
    prior = Mixture(vae.spec, num_components=CLASSES, covariance="full")
    prior.join(lambda x: vae.encode(x).posterior, lambda num: torch.rand(num, 1, 6, 6))
    return prior


@pytest.fixture
def x() -> Tensor:
    return torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def loss_of(objective: ClusterELBO | ELBO, vae: VAE, x: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(5)
    objective.before_step(step)
    terms = objective(vae, x, torch.tensor(step))
    return terms.loss, dict(terms.extras)


def test_it_is_the_elbo_first_against_the_base_prior_and_then_against_the_mixture(
    vae: VAE, mixture: Mixture, x: Tensor
) -> None:
    objective, plain = ClusterELBO(beta=0.5, join_after=4, alone_beta=0.2), ELBO(beta=0.5)
    objective.prior = plain.prior = mixture
    placed: list[int] = []
    objective.place = lambda: placed.append(1)
    alone = loss_of(ELBO(beta=0.2), vae, x, 0)[0]
    assert loss_of(objective, vae, x, 3)[0].item() == pytest.approx(alone.item(), rel=1e-5)
    torch.manual_seed(5)
    done = objective(vae, x, SCHEDULES_DONE)
    assert done.loss.item() == pytest.approx(loss_of(plain, vae, x, 0)[0].item(), rel=1e-5) and not placed
    together = loss_of(objective, vae, x, 4)[0]
    assert together.item() == pytest.approx(done.loss.item(), rel=1e-5) and len(placed) == 1
    loss_of(objective, vae, x, 5)
    assert len(placed) == 1


def test_a_label_costs_what_the_joint_density_costs_more(vae: VAE, mixture: Mixture, x: Tensor) -> None:
    """log p(z, y) = log p(z) + log p(y|z): of images that are all known, at weight 1, the rate is that of (z, y)."""
    y = torch.arange(20) % CLASSES
    z = vae.encode(x).posterior.rsample()
    assert mixture.log_joint(z).logsumexp(1).allclose(mixture.log_prob(z), atol=1e-4)
    objective = ClusterELBO(label_weight=2.0, labelled_batch=2000)
    objective.prior = mixture
    objective.know(x.repeat(200, 1, 1, 1), y.repeat(200))
    loss, extras = loss_of(objective, vae, x, 0)
    plain = ELBO()
    plain.prior = mixture
    assert loss.item() == pytest.approx((loss_of(plain, vae, x, 0)[0] + 2 * extras["label_nats"]).item(), rel=1e-5)
    with torch.no_grad():
        posterior = vae.encode(x.repeat(500, 1, 1, 1)).posterior
        z = posterior.rsample()
        own = mixture.log_joint(z).gather(1, y.repeat(500)[:, None]).squeeze(1)
        known = (posterior.log_prob(z) - own).mean() - rate_nats(posterior, mixture, z).mean()
    assert extras["label_nats"].item() == pytest.approx(known.item(), rel=0.1)
    gradient = torch.autograd.grad(extras["label_nats"], list(mixture.parameters()))
    assert all(part.abs().sum() > 0 for part in gradient)
    objective.eval()
    assert not loss_of(objective, vae, x, 0)[1]  # validation asks for the bound alone


def test_information_is_largest_where_components_are_certain_alike_and_balanced(vae: VAE, x: Tensor) -> None:
    """Of images that do not move, whose components are told apart or not at all."""
    objective = ClusterELBO(information_weight=1.0, turn_degrees=0, shift_pixels=0, zoom=0)
    images = torch.zeros(30, 1, 6, 6)
    images[:, 0, 0, 0] = torch.arange(30) % CLASSES

    class Told(torch.nn.Module):
        def __init__(self, sharpness: float) -> None:
            super().__init__()
            self.sharpness = sharpness

        def log_joint(self, z: Tensor) -> Tensor:
            kinds = torch.arange(len(z)) % CLASSES
            return self.sharpness * torch.nn.functional.one_hot(kinds, CLASSES).float()

        def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
            return z.sum(1)

    for sharpness, information in {0.0: 0.0, 50.0: 1.0986}.items():
        objective.prior = Told(sharpness)  # type: ignore[assignment]
        assert loss_of(objective, vae, images, 0)[1]["information_nats"].item() == pytest.approx(information, abs=1e-3)


def test_images_are_moved_about_and_no_further(x: Tensor) -> None:
    assert move_about(x, 0, 0, 0).allclose(x, atol=1e-5)
    image = torch.zeros(200, 1, 21, 21)
    image[:, 0, 10, 10] = 1
    torch.manual_seed(0)
    moved = move_about(image, degrees=0, pixels=3, zoom=0)[:, 0]
    rows, columns = moved.sum(2), moved.sum(1)
    places = torch.arange(21.0)
    for mass in (rows, columns):
        centre = (mass * places).sum(1) / mass.sum(1)
        assert 2.8 < (centre - 10).abs().max() <= 3.01 and (centre - 10).mean().abs() < 0.4
    assert moved.flatten(1).sum(1).allclose(torch.ones(200), atol=1e-4)


def test_information_is_not_in_half_precision(vae: VAE, mixture: Mixture, x: Tensor) -> None:
    """A net in bfloat16 gives latents of fewer digits; what is computed of them has all of its own."""
    objective = ClusterELBO(information_weight=1.0)
    objective.prior = mixture
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(objective, vae, x, 0)[1]["information_nats"]
    assert found.dtype == torch.float32 and found != found.bfloat16()
