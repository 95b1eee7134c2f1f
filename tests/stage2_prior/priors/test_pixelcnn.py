"""The gated PixelCNN: causal without a blind spot, exact, and drawn for the price of one pass."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.fitting import PriorError
from stage2_prior.nets.gated_pixelcnn import gated
from stage2_prior.priors.pixelcnn import PixelCNN
from stage2_prior.sampling import Sampling

MAP = LatentSpec((20,), Support.CODES, ((4, 5),), (7,), num_classes=3)


def make(spec: LatentSpec = MAP, conditional: bool = False, kernel_size: int = 3) -> PixelCNN:
    """A network that has learned nothing but has opinions."""
    torch.manual_seed(0)
    prior = PixelCNN(spec, width=16, depth=5, kernel_size=kernel_size, conditional=conditional).eval()
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            if parameter.ndim > 1 and "head" not in name:
                parameter.copy_(torch.randn_like(parameter) * 1.5 / math.sqrt(parameter[0].numel()))
        prior.net.head[-1].get_parameter("weight").mul_(20.0)
    return prior


def labels(prior: PixelCNN, n: int) -> Tensor | None:
    return torch.arange(n) % prior.num_classes if prior.num_classes else None


def test_a_layer_is_gated() -> None:
    signal, gate = torch.randn(2, 1, 3, 2, 2).unbind(0)
    torch.testing.assert_close(gated(torch.cat([signal, gate], 1)), torch.tanh(signal) * torch.sigmoid(gate))


def test_the_label_reaches_both_stacks_of_every_layer() -> None:
    """But for the vertical one of the last layer, from which nothing is read."""
    prior = make(conditional=True)
    prior.log_prob((torch.rand(6, 20) * 7).long(), labels(prior, 6)).sum().backward()
    layers = prior.net._layers()
    for layer in layers:
        assert layer.bias.weight.grad is not None
        vertical, horizontal = layer.bias.weight.grad[:3].chunk(2, dim=1)  # of the three classes
        assert (horizontal.abs().sum(1) > 0).all() and (layer is layers[-1] or (vertical.abs().sum(1) > 0).all())


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_place_sees_all_places_before_it_and_no_other(kernel_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = make(kernel_size=kernel_size)
    nobody = torch.zeros(1, dtype=torch.int64)
    h = torch.randn(1, 16, 4, 5, requires_grad=True)
    monkeypatch.setattr(prior.net, "embed", lambda codes: h)  # codes as real numbers, of which there is a gradient
    logits = prior.net(torch.zeros(1, 4, 5, dtype=torch.int64), nobody).flatten(2)  # [1, K, T]
    for t in range(20):
        (gradient,) = torch.autograd.grad(logits[0, :, t].square().sum(), h, retain_graph=True)
        reached = gradient.abs().sum((0, 1)).flatten() > 0
        assert not reached[t:].any()
        near = torch.arange(20)
        row, column = near // 5 - t // 5, near % 5 - t % 5
        field = (near < t) & (row >= -4 * (kernel_size // 2)) & (column.abs() <= 4)
        assert reached[field].all(), "a blind spot"


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("case", ["plain", "conditional", "guided"])
def test_kept_features_give_the_same_codes_as_whole_passes(kernel_size: int, case: str) -> None:
    prior = make(conditional=case != "plain", kernel_size=kernel_size)
    how = Sampling(temperature=0.0, guidance=1.5 if case == "guided" else 0.0)
    y = labels(prior, 12)
    z = prior.sample(12, y, how)
    codes = torch.randint(7, (12, 20))  # what stands at later places must not matter
    nobody = torch.full((12,), prior.num_classes)
    with torch.no_grad():
        for t in range(20):
            logits = prior.net(codes.view(12, 4, 5), nobody if y is None else y).flatten(2)[:, :, t].log_softmax(1)
            if how.guidance:
                without = prior.net(codes.view(12, 4, 5), nobody).flatten(2)[:, :, t].log_softmax(1)
                logits = 2.5 * logits - 1.5 * without
            codes[:, t] = logits.argmax(1)
    assert torch.equal(z, codes)
    assert len(z.unique()) > 1
    if case == "guided":
        assert not torch.equal(z, prior.sample(12, y, Sampling(temperature=0.0)))
    if case == "conditional":
        assert not torch.equal(z[0], z[1]) and torch.equal(z[0], z[3])


@pytest.mark.parametrize("label", [None, 1])
def test_all_maps_have_a_mass_of_one_and_samples_follow_it(label: int | None) -> None:
    spec = LatentSpec((4,), Support.CODES, ((2, 2),), (3,), num_classes=2)
    prior = make(spec, conditional=label is not None)
    maps = torch.cartesian_prod(*[torch.arange(3)] * 4)
    with torch.no_grad():
        mass = prior.log_prob(maps, None if label is None else torch.full((81,), label)).double().exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-5) and mass.max() > 5 * mass.median()
    torch.manual_seed(1)
    z = prior.sample(6000, None if label is None else torch.full((6000,), label))
    found, expected = (z[:, None] == maps).all(2).sum(0).double(), 6000 * mass
    rare = expected < 5
    found = torch.cat([found[~rare], found[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]]).clamp_min(1e-9)
    assert ((found - expected).square() / expected).sum().item() < len(found) + 5 * math.sqrt(2 * len(found))


def test_large_batches_are_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = make(conditional=True)
    z, y = torch.randint(7, (30, 20)), torch.arange(30) % 3
    with torch.no_grad():
        whole = prior.log_prob(z, y)
        monkeypatch.setattr("stage2_prior.priors.pixelcnn.DENSITY_PLACES", 80)
        torch.testing.assert_close(prior.log_prob(z, y), whole)
    torch.testing.assert_close(prior.log_prob(z, y), whole)  # with a gradient, in one block


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 0}, "width and a depth of at least 1"),
        ({"kernel_size": 4}, "prior.kernel_size=4: give an odd number"),
        ({"label_dropout": 1.0}, "prior.label_dropout=1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        PixelCNN(MAP, **arguments)


def test_two_maps_and_labels_that_are_not_there_are_refused() -> None:
    two = LatentSpec((5,), Support.CODES, ((1, 1), (2, 2)), (3, 3))
    assert "codes of 2 maps" in str(PixelCNN.check(two))
    with pytest.raises(PriorError, match=r"prior.conditional=true needs labels"):
        PixelCNN(LatentSpec((4,), Support.CODES, ((2, 2),), (3,)), conditional=True)
