"""Convolutions by matrix products: results, parameters and gradients of torch's own, and only where they are faster."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stage1_vae.nets import products
from stage1_vae.nets.products import Convolution, Overlap, TransposedConvolution

CONVOLUTIONS = [
    ((12, 16), {"kernel_size": 4, "stride": 2, "padding": 1}, (2, 3)),
    ((3, 8), {"kernel_size": 3, "padding": 1, "bias": False}, (2, 2)),
    ((5, 6), {"kernel_size": (4, 3), "stride": (2, 1), "padding": (1, 0)}, (7, 5)),
]
TRANSPOSED = [
    ((12, 6), {"kernel_size": 3, "stride": 2, "padding": 1}, (4, 4)),
    ((12, 6), {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}, (2, 3)),
    ((4, 6), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}, (1, 5)),
    ((4, 1), {"kernel_size": (2, 5), "stride": (3, 2), "padding": (0, 2), "output_padding": (2, 1)}, (3, 3)),
]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products for all shapes."""
    monkeypatch.setattr(products, "WEIGHTS_A_PLACE", 0)
    monkeypatch.setattr(products, "MANY_CHANNELS", 0)


def both(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Same output and gradients, also of gradients, in float64."""
    theirs.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours.double(), theirs.double()):
        leaf = x.double().requires_grad_()
        output = layer(leaf)
        first = torch.autograd.grad(output.square().sum(), [leaf, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), [leaf, *layer.parameters()][:2])
        found.append((output, *first, *second))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("channels", "words", "sides"), CONVOLUTIONS)
def test_a_convolution_as_a_product(channels: tuple[int, int], words: dict[str, Any], sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    both(Convolution(*channels, **words), nn.Conv2d(*channels, **words), torch.randn(3, channels[0], *sides))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("channels", "words", "sides"), TRANSPOSED)
def test_a_transposed_one(channels: tuple[int, int], words: dict[str, Any], sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = TransposedConvolution(*channels, **words), nn.ConvTranspose2d(*channels, **words)
    both(ours, theirs, torch.randn(3, channels[0], *sides))


def taken(layer: nn.Module, x: Tensor) -> bool:
    """Whether the layer is a product, and not torch's own convolution."""
    with torch.profiler.profile() as profile, torch.no_grad():
        layer(x)
    return not any(event.key == "aten::convolution" for event in profile.key_averages())


def test_products_are_for_many_channels_in_few_places() -> None:
    assert taken(Convolution(512, 256, 4, 2, 1), torch.randn(1, 512, 3, 3))
    assert not taken(Convolution(512, 256, 4, 2, 1), torch.randn(1, 512, 16, 16))
    assert not taken(Convolution(16, 32, 4, 2, 1), torch.randn(1, 16, 3, 3))
    assert taken(TransposedConvolution(512, 8, 3, 2, 1), torch.randn(1, 512, 4, 4))
    assert not taken(TransposedConvolution(512, 8, 3, 2, 1), torch.randn(1, 512, 9, 9))
    assert not taken(TransposedConvolution(64, 8, 3, 2, 1), torch.randn(1, 64, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(TransposedConvolution(512, 8, 3, 2, 1), torch.randn(1, 512, 4, 4))


def test_a_weight_that_is_computed_is_computed_once() -> None:
    """Spectral normalisation takes a step with every look at the weight."""
    torch.manual_seed(0)
    ours, theirs = Convolution(512, 256, 4, 2, 1), nn.Conv2d(512, 256, 4, 2, 1)
    theirs.load_state_dict(ours.state_dict())
    for layer in (ours, theirs):
        torch.manual_seed(0)
        spectral_norm(layer, n_power_iterations=1)
    for side in (3, 16):
        x = torch.randn(2, 512, side, side)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tracing, which users still do
def test_what_torch_takes_or_refuses() -> None:
    for ours in (Convolution(512, 512, 4, 2, 1), TransposedConvolution(512, 8, 4, 2, 1)):
        theirs = (nn.Conv2d if isinstance(ours, nn.Conv2d) else nn.ConvTranspose2d)(512, ours.out_channels, 4, 2, 1)
        theirs.load_state_dict(ours.state_dict())
        for shape in ((0, 512, 2, 2), (512, 2, 2)):
            torch.testing.assert_close(ours(torch.ones(shape)), theirs(torch.ones(shape)), atol=1e-5, rtol=1e-5)
        with pytest.raises(RuntimeError, match="channels"):
            ours(torch.ones(2, 1, 2, 2))
        traced = torch.jit.trace(ours, torch.ones(2, 512, 2, 2))
        torch.testing.assert_close(traced(torch.ones(2, 512, 2, 2)), ours(torch.ones(2, 512, 2, 2)), atol=1e-5, rtol=0)


def test_float32_differs_by_rounding_alone() -> None:
    torch.manual_seed(0)
    for ours, theirs, x in (
        (Convolution(512, 256, 4, 2, 1), nn.Conv2d(512, 256, 4, 2, 1), torch.randn(8, 512, 3, 3)),
        (TransposedConvolution(512, 64, 3, 2, 1), nn.ConvTranspose2d(512, 64, 3, 2, 1), torch.randn(8, 512, 4, 4)),
    ):
        theirs.load_state_dict(ours.state_dict())
        assert (ours(x) - theirs(x)).abs().max() < 1e-5


def test_overlapping_patches_are_the_transpose_of_taking_them() -> None:
    torch.manual_seed(0)
    patches = torch.randn(2, 3, 2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    how = ((2, 1), (1, 1), (6, 2))
    assert torch.autograd.gradcheck(lambda p: Overlap.apply(p, *how), patches)
    assert torch.autograd.gradgradcheck(lambda p: Overlap.apply(p, *how).square(), patches)
