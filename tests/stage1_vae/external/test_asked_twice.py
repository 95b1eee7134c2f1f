"""One small module of each kind that must not pass, or is called what it is: one line each, with tensor or share."""

from typing import Any

import pytest
import torch
from outside.their_models import Codes, Normals, Rotation, external, images
from torch import Tensor, nn

from stage1_vae.external.autoencoder import calibrate
from stage1_vae.external.errors import ExternalError

X = images(16)


def refusal(model: Any) -> str:
    with pytest.raises(ExternalError) as caught:
        external(model, X)
    line = str(caught.value)
    assert "\n" not in line
    return line


class Drawn(Normals):
    """A draw of q(z|x), in evaluation mode too."""

    def encode(self, x: Tensor) -> Tensor:
        return self.posterior(x).sample()


class Counting(Rotation):
    """Says another thing in every call, whatever the seed."""

    calls = 0

    def encode(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.rotated(x) + self.calls


class DrawnCodes(Codes):
    """Gumbel codes."""

    def encode(self, x: Tensor) -> Tensor:
        codes: Tensor = super().encode(x)
        return torch.where(torch.rand(codes.shape) < 0.4, torch.randint(8, codes.shape), codes)


class Balanced(Codes):
    """Equally many of each code in a batch, as Sinkhorn's algorithm would have it; one image alone gets them too."""

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten().argsort().argsort() * 8 // x.numel()).view(x[:, 0].shape)


class Quantiser(nn.Module):
    """Moves its vectors while it is asked, in evaluation mode too; `inference` does not."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Buffer(torch.linspace(0, 1, 8))
        self.num_codes = 8

    def inference(self, x: Tensor) -> Tensor:
        return (x[..., None] - self.vectors).abs().argmin(-1)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.inference(x)
        self.vectors.data[codes.flatten()[:1]] += 1e-6
        return codes


class Moving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quantiser = Quantiser()

    def encode(self, x: Tensor) -> Any:
        return self.quantiser(x[:, 0])

    def decode(self, z: Tensor) -> Tensor:
        return self.quantiser.vectors[z][:, None]


class Normed(Rotation):
    """Batch normalisation that was left in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def encode(self, x: Tensor) -> Tensor:
        return self.norm(self.rotated(x))


class Stubborn(Normed):
    """The same, and it will not leave that mode."""

    def encode(self, x: Tensor) -> Tensor:
        return self.norm.train()(self.rotated(x))


class Reshaped(Codes):
    """Another shape from the second call on."""

    calls = 0

    def encode(self, x: Tensor) -> Any:
        self.calls += 1
        codes: Tensor = super().encode(x)
        return codes if self.calls == 1 else self.other(codes)

    def other(self, codes: Tensor) -> Any:
        return codes[:, :2]


class Listed(Reshaped):
    def other(self, codes: Tensor) -> Any:
        return [codes, codes]


class Dictionary(Reshaped):
    def other(self, codes: Tensor) -> Any:
        return {"codes": codes}


class Single(Codes):
    def encode(self, x: Tensor) -> Tensor:
        return torch.zeros_like(super().encode(x)) + 3


class Constant(Rotation):
    def encode(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), 16)


class Elsewhere(Rotation):
    """Decodes from another space than it encodes to, shapes being equal."""

    def decode(self, z: Tensor) -> Any:
        return super().decode(4 * z.flip(1))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Drawn, "other numbers the second time, as a random draw does: return mean and log-variance ("),
        (Counting, "other numbers the second time, whatever the seed: it keeps a count or a state"),
        (DrawnCodes, "other codes the second time: return the likeliest, not a draw ("),
        (Balanced, "% of codes differ when an image is encoded alone)"),
        (Moving, "quantiser.vectors; let them leave parameters and buffers alone"),
        (Stubborn, "let encode(x) see each by itself, with normalisation in evaluation mode ("),
        (Reshaped, "(codes: (16, 16) and (16, 8))"),
        (Listed, "a int64 tensor (16, 4, 4) in one call and a list of 2"),
        (Dictionary, "a dict of codes: a int64 tensor (16, 4, 4) in another: let it return the same kind of thing"),
        (Single, "all 256 codes of 16 images are 3: no prior can learn from them, the encoder tells no image"),
        (Constant, "the same latents for 16 images that differ"),
    ],
)
def test_what_is_no_function_of_an_image_is_refused(model: type, named: str) -> None:
    assert named in refusal(model())


def test_what_moves_and_draws_is_told_both_and_what_does_neither_is_named() -> None:
    class Both(Moving):
        def encode(self, x: Tensor) -> Any:
            return (self.quantiser(x[:, 0]) + torch.randint(2, x[:, 0].shape)).clamp(max=7)

    line = refusal(Both())
    assert "a draw" in line and "it changes quantiser.vectors besides, in evaluation mode" in line
    assert line.endswith("quantiser has inference(), which may do neither: encode by it")

    class Mended(Moving):
        def encode(self, x: Tensor) -> Any:
            return self.quantiser.inference(x[:, 0])

    assert external(Mended(), X).asked.startswith("asked twice on 16 images: codes, the same each time")


@pytest.mark.parametrize(
    ("model", "kind"),
    [(Rotation, "points"), (Codes, "codes"), (type("N", (Normals,), {"encode": Normals.posterior}), "parameters")],
)
def test_a_posterior_is_called_what_it_is(model: type, kind: str) -> None:
    autoencoder = external(model(), X)
    assert (
        f"16 images: {kind}, the same each time, alone and in company; parameters and buffers as before, 1 in"
        in autoencoder.asked
    )


def test_training_mode_is_left_before_anything_is_asked() -> None:
    model = Normed().train()
    asked = external(model, X).asked
    assert "points, the same each time" in asked and not model.norm.training
    assert float(model.norm.num_batches_tracked) == 0 and torch.equal(model.norm.running_mean, torch.zeros(16))


def test_another_space_explains_less_than_the_mean_image() -> None:
    with pytest.raises(ExternalError, match=r"16 images is .* times as far from them as their mean image"):
        calibrate(external(Elsewhere(), X), [(X, None)])


def test_images_that_are_all_alike_tell_nothing_of_codes() -> None:
    assert "codes" in external(Single(), X[:1].expand(16, -1, -1, -1)).asked
