"""The life of every net, VAE and likelihood that conf/ offers; a new yaml file is tested from the moment it exists."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoded import encoded
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

from expost.config.build import build, target_class
from expost.store.tensors import layouts
from stage1_vae.data.digits import Digits
from stage1_vae.data.images import InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.latents import Support
from stage1_vae.likelihoods import Likelihood, Pixels
from stage1_vae.objective import Objective
from stage1_vae.vae import VAE, noise_seed, stored_params

CONF = Path(__file__).parents[2] / "conf"
SHAPES = [(1, 8, 8), (3, 9, 14), (1, 28, 28), (2, 5, 7)]
LEVELS = 17
BATCH = 5

Shape = tuple[int, int, int]


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert found, f"conf/{group} is empty"
    if group != "vae":
        return found
    return [name for name in found if "bottleneck" in node("vae", name)]  # others come trained


def own_net(vae: str) -> str | None:
    """The net that the file of `vae` chooses, the only one that it is meant for; None: it takes any."""
    lines = [line for line in node("vae", vae).get("defaults", []) if isinstance(line, dict)]
    return next((choice for line in lines for key, choice in line.items() if key.startswith("override /net")), None)


def vaes_and_nets() -> list[tuple[str, str]]:
    """Every VAE with every net, but for a net that belongs to one VAE."""
    owned = {net for vae in names("vae") if (net := own_net(vae))}
    return [
        (vae, net)
        for vae in names("vae")
        for net in names("net")
        if (net == own_net(vae) if own_net(vae) else net not in owned)
    ]


def vae_of(net: str) -> str:
    """A VAE that goes with `net`: gaussian, or the one that the net belongs to."""
    return next((vae for vae in names("vae") if own_net(vae) == net), "gaussian")


def params_of(model: VAE, x: Tensor) -> Tensor:
    """The parameters of q(z|x) that are stored, of each image: [B, n]."""
    params = stored_params(model.encode(x).posterior, model.bottleneck.family, seed=0)
    return torch.cat([value.reshape(len(x), -1) for value in params.values()], dim=1)


def some_latents(model: VAE, x: Tensor, n: int) -> Tensor:
    """Latents [n, *shape] that differ in every dimension: of codes and bits, of those that the model knows."""
    if model.spec.support is Support.REAL:
        return 3 * torch.randn(n, *model.spec.shape)
    return model.trained_against.sample(n)


def node(group: str, name: str) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"), resolve=True)
    return plain


def make_likelihood(name: str) -> Likelihood:
    chosen = node("likelihood", name)
    injected = {"levels": LEVELS} if target_class(chosen).pixels is Pixels.LEVELS else {}
    return build("likelihood", chosen, **injected)


def make(
    shape: Shape, vae: str = "gaussian", net: str = "mlp", likelihood: str = "bernoulli", seed: int = 0
) -> tuple[VAE, Objective]:
    torch.manual_seed(seed)
    parts = node("vae", vae)

    def bottleneck(**injected: Any) -> Any:
        return build("vae.bottleneck", parts["bottleneck"], **injected, num_classes=3)

    built = VAE(shape, build("net", node("net", net)), bottleneck, make_likelihood(likelihood))
    return built, build("vae.objective", parts["objective"])


def learns(vae: str, net: str) -> bool:
    """Whether there is an encoder to train."""
    return next(make((1, 8, 8), vae, net)[0].encoder.parameters(), None) is not None


def as_pixels(likelihood: Likelihood, x: Tensor) -> Tensor:
    """Intensities in [0, 1] turned into images that `likelihood` is a distribution over."""
    if likelihood.pixels is Pixels.BINARY:
        return (x > 0.5).float()
    return torch.round(x * (LEVELS - 1)) / (LEVELS - 1) if likelihood.pixels is Pixels.LEVELS else x


def images(likelihood: Likelihood, shape: Shape, n: int = BATCH) -> Tensor:
    return as_pixels(likelihood, torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """128 real images in [0, 1]."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images[:128]).float().unsqueeze(1) / 16


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("vae", "net"), vaes_and_nets())
def test_life(vae: str, net: str, shape: Shape, tmp_path: Path) -> None:
    model, objective = make(shape, vae, net)
    x = images(model.likelihood, shape)

    encoding, z, image = model(x)
    assert z.shape == (BATCH, *model.spec.shape) and torch.isfinite(z).all()
    assert z.dtype == (torch.int64 if model.spec.support is Support.CODES else torch.float32)
    assert encoding.posterior.batch_shape == (BATCH,) and encoding.posterior.event_shape == model.spec.shape
    assert model.spec.num_classes == 3
    assert (image.batch_shape, image.event_shape) == ((BATCH,), shape)
    assert image.mean.shape == x.shape and image.mean.dtype == torch.float32 and torch.isfinite(image.mean).all()
    assert not torch.equal(image.mean[0], image.mean[1]), "the picture does not depend on the image"
    if model.bottleneck.base_prior is not None:
        drawn = model.bottleneck.base_prior.sample(7)
        assert drawn.shape == (7, *model.spec.shape) and model.decode(drawn).mean.shape == (7, *shape)

    terms = objective(model, x, 0)
    assert terms.loss.shape == () and terms.distortion.shape == (BATCH,) and torch.isfinite(terms.loss)
    assert (terms.rate is None) == (model.bottleneck.base_prior is None)
    is_trained = next(model.parameters(), None) is not None
    if is_trained:
        terms.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, f"no gradient reaches {name}"

    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other, _ = make(shape, vae, net, seed=1)
    model.eval(), other.eval()
    assert torch.equal(other.decode(z).mean, model.decode(z).mean) != is_trained
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other.decode(z).mean, model.decode(z).mean)
    assert torch.equal(params_of(other, x), params_of(model, x))


@pytest.mark.parametrize("net", names("net"))
def test_an_image_is_encoded_and_decoded_alone(net: str) -> None:
    model, _ = make((3, 9, 14), vae_of(net), net)
    model.eval()
    x = images(model.likelihood, (3, 9, 14))
    torch.testing.assert_close(params_of(model, x)[2:3], params_of(model, x[2:3]), rtol=1e-4, atol=1e-5)
    z = some_latents(model, x, BATCH)
    torch.testing.assert_close(model.decode(z).mean[2:3], model.decode(z[2:3]).mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", names("net"))
def test_every_pixel_is_seen_and_painted(net: str) -> None:
    """Padding and cropping lose nothing, on either side."""
    shape = (2, 5, 7)
    model, _ = make(shape, vae_of(net), net)
    x = images(model.likelihood, shape, 2).requires_grad_()
    encoding = model.encode(x)
    embedded = encoding.posterior.mean if encoding.embedded is None else encoding.embedded
    (embedded + 1).square().sum().backward()  # where z = x = 0, too
    assert (x.grad.abs().amax(0) > 0).all(), "a pixel that the encoder ignores"
    pictures = model.decode(some_latents(model, x, 64)).mean
    assert (pictures.std(0) > 0).all(), "a pixel that no latent moves"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", names("likelihood"))
def test_likelihood(name: str, shape: Shape) -> None:
    likelihood = make_likelihood(name)
    output = torch.randn(BATCH, likelihood.num_params * shape[0], *shape[1:]).requires_grad_()
    x = images(likelihood, shape)
    image = likelihood(output)
    assert (image.batch_shape, image.event_shape) == ((BATCH,), shape)

    log_prob = image.log_prob(x)
    assert log_prob.shape == (BATCH,) and log_prob.dtype == torch.float32 and torch.isfinite(log_prob).all()
    torch.testing.assert_close(log_prob[1:2], likelihood(output[1:2]).log_prob(x[1:2]))
    log_prob.sum().backward()
    assert torch.isfinite(output.grad).all() and (output.grad.flatten(1).abs().sum(1) > 0).all()

    mean, drawn = image.mean, image.sample()
    assert mean.shape == drawn.shape == (BATCH, *shape) and torch.isfinite(mean).all()
    assert not drawn.requires_grad
    several = image.sample(torch.Size((3,)))
    assert several.shape == (3, BATCH, *shape) and image.log_prob(several).shape == (3, BATCH)
    assert not torch.equal(several[0], several[1])
    if likelihood.unit_domain:
        assert mean.min() >= 0 and mean.max() <= 1 and drawn.min() >= 0 and drawn.max() <= 1
    if likelihood.pixels is not Pixels.CONTINUOUS:
        torch.testing.assert_close(as_pixels(likelihood, drawn), drawn)


@pytest.mark.parametrize("name", names("likelihood"))
def test_far_out_decoder_output_stays_finite(name: str) -> None:
    likelihood = make_likelihood(name)
    for size in (1e-6, 30.0, 80.0):
        for sign in (-1, 1):
            output = torch.full((1, likelihood.num_params, 4, 4), sign * size, requires_grad=True)
            image = likelihood(output)
            for value in (0.0, 0.5, 1.0):
                log_prob = image.log_prob(as_pixels(likelihood, torch.full((1, 1, 4, 4), value)))
                assert torch.isfinite(log_prob).all(), (size * sign, value)
                (gradient,) = torch.autograd.grad(log_prob.sum(), output, retain_graph=True)
                assert torch.isfinite(gradient).all(), (size * sign, value)
            assert torch.isfinite(image.mean).all() and torch.isfinite(image.sample()).all()


PLAINEST = "mlp"
"""The net that each VAE is paired with every likelihood on; with the first of them it is on every net."""


def trainings() -> list[tuple[str, str, str]]:
    """Every VAE with every net, and every VAE with every likelihood, on one net."""
    first, *others = names("likelihood")
    pairs = [pair for pair in vaes_and_nets() if learns(*pair)]
    on_one = [pair for pair in pairs if pair[1] == (own_net(pair[0]) or PLAINEST)]
    return [(*pair, first) for pair in pairs] + [(*pair, other) for pair in on_one for other in others]


@pytest.mark.parametrize(("vae", "net", "likelihood"), trainings())
def test_a_few_steps_lower_the_loss(vae: str, net: str, likelihood: str, digits: Tensor) -> None:
    model, objective = make((1, 8, 8), vae, net, likelihood)
    x = as_pixels(model.likelihood, digits[:48])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for step in range(24 if likelihood == "gaussian_learned" else 12):  # which begins far from its scale
        loss = objective(model, x, step).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] - 0.02 * abs(losses[0]), losses


@pytest.mark.parametrize("vae", names("vae"))
def test_encode_keeps_order_labels_and_parameters(vae: str, tmp_path: Path) -> None:
    model, _ = make((1, 8, 8), vae, own_net(vae) or "mlp")
    data = Digits().load()
    head = torch.arange(100)
    images, labels = data.test.batch(head), data.test.labels[head]
    batches = Batches(InMemory(images, labels), Preprocess(LEVELS), 32, False, 0)
    latents = encoded(model, batches, tmp_path, {"vae": "abc"})
    assert not model.training, "dropout and batch statistics would be in the latents"
    same = 32 if model.family == "draws" else 100  # draws have the noise of their batch
    with torch.no_grad():
        seed = noise_seed(next(iter(batches))[0])
        expected = stored_params(model.encode(images[:same] / (LEVELS - 1)).posterior, model.family, seed)
    assert latents.spec == model.spec and latents.family == model.bottleneck.family
    assert torch.equal(latents.labels, labels) and latents.provenance == {"vae": "abc"}
    for name, values in latents.params.items():
        stored = torch.from_numpy(np.array(values)).to(expected[name].dtype)
        torch.testing.assert_close(stored[:same], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("vae", "net"), vaes_and_nets())
def test_its_shapes_are_known_without_memory(vae: str, net: str) -> None:
    """An exported model is made on torch's `meta` device before its files are read."""
    with torch.device("meta"):
        found, _ = make((1, 8, 8), vae, net)
    assert layouts(found) == layouts(make((1, 8, 8), vae, net)[0])
