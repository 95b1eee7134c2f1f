"""Our own VAE asked twice before it encodes: bottlenecks of a user's that are no function of an image are refused."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stage1_vae.bottleneck import Encoding
from stage1_vae.bottlenecks.delta import Delta
from stage1_vae.bottlenecks.gaussian import AbsorbedGaussian, Gaussian
from stage1_vae.bottlenecks.iaf import IAF
from stage1_vae.bottlenecks.vq import VQ
from stage1_vae.latents.asked import EncodingError, ask_twice, difference, num_asked, percent, spread_over
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.conv import Conv
from stage1_vae.vae import VAE

X = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def vae(bottleneck: type, **settings: Any) -> VAE:
    torch.manual_seed(0)
    return VAE((1, 8, 8), Conv([8, 16], batch_norm=True), partial(bottleneck, **settings), BernoulliLikelihood())


class Drawing(Gaussian):
    def forward(self, features: Tensor) -> Encoding:
        return super().forward(features + torch.randn_like(features))


class Company(Gaussian):
    def forward(self, features: Tensor) -> Encoding:
        return super().forward(features - features.mean(0))


class Counting(Gaussian):
    def __init__(self, features_shape: tuple[int, ...], latent_dim: int, num_classes: int = 0) -> None:
        super().__init__(features_shape, latent_dim, num_classes)
        self.calls = nn.Buffer(torch.zeros(()))

    def forward(self, features: Tensor) -> Encoding:
        self.calls.add_(1)
        return super().forward(features)


@pytest.mark.parametrize(
    ("bottleneck", "named"),
    [
        (Drawing, "the same images are encoded differently the second time (loc differs by"),
        (Company, "an image alone is encoded differently than in a batch with others (loc differs by"),
        (Counting, "encoding changes the VAE in evaluation mode too: bottleneck.calls"),
    ],
)
def test_a_bottleneck_that_is_no_function_of_an_image_is_refused(bottleneck: type, named: str) -> None:
    with pytest.raises(EncodingError) as caught:
        ask_twice(vae(bottleneck, latent_dim=4), X)
    line = str(caught.value)
    assert named in line and line.endswith("vae.bottleneck move and draw where self.training is set, and nowhere else")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("bottleneck", "settings"),
    [
        (Gaussian, {"latent_dim": 4}),
        (AbsorbedGaussian, {"latent_dim": 4}),
        (Delta, {"latent_dim": 4}),
        (IAF, {"latent_dim": 4}),
        (VQ, {"num_codes": 8, "code_dim": 4}),
    ],
)
def test_ours_pass_whatever_mode_they_are_in_and_stay_as_they_are(bottleneck: type, settings: dict[str, int]) -> None:
    ours = vae(bottleneck, **settings).train()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ask_twice(ours, X)
    assert not ours.training
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_differences_are_told_by_shape_share_or_distance() -> None:
    codes = torch.arange(100).view(10, 10)
    assert difference("codes", codes, codes, "32") is None
    assert difference("codes", codes, codes[:, :5], "32") == "codes: (10, 10) and (10, 5)"
    assert difference("codes", codes, (codes - 27).clamp_min(0) + 27, "32") == "27 % of the codes differ"
    assert difference("codes", codes, codes.clamp(max=98), "32") is None, "a code that rounding decides"
    assert difference("codes", codes, codes.clamp(max=98), "32", few_codes=0.0) == "1 % of the codes differ"
    numbers = codes.float()
    assert difference("loc", numbers, numbers + 1e-4, "32") is None
    assert difference("loc", numbers, numbers + 1, "32") == "loc differs by 1"
    assert [percent(share) for share in (0.0026, 0.27, 1.0)] == ["0.26 %", "27 %", "100 %"]


def test_large_images_are_few_and_rows_are_all_over_the_data() -> None:
    assert [num_asked(pixels) for pixels in (64, 3 * 256 * 256, 3 * 2048 * 2048)] == [16, 5, 2]
    assert spread_over(100, 4).tolist() == [0, 33, 66, 99] and spread_over(3, 16).tolist() == [0, 1, 2]
