"""What a model must hold before anything is encoded with it, each refusal one line with the remedy."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from outside.their_models import Codes, Given, Normals, Rotation, external, images
from torch import Tensor, nn

from stage1_vae.external.autoencoder import calibrate
from stage1_vae.external.errors import ExternalError

X = images()


def refusal(model: Any, x: Tensor | None = None, **keys: Any) -> str:
    with pytest.raises(ExternalError) as caught:
        external(model, x, **keys)
    line = str(caught.value)
    assert "\n" not in line
    return line


class Drawing(Rotation):
    def encode(self, x: Tensor) -> Tensor:
        return self.rotated(x) + 0.1 * torch.randn(len(x), 1)


class Averaging(Rotation):
    def encode(self, x: Tensor) -> Tensor:
        return self.rotated(x - x.mean(0, keepdim=True))


class Moving(Rotation):
    def __init__(self) -> None:
        super().__init__()
        self.uses = nn.Buffer(torch.zeros(()))

    def encode(self, x: Tensor) -> Tensor:
        self.uses.add_(1)
        return self.rotated(x)


class Noisy(Rotation):
    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z) + torch.rand(1)


def test_a_random_draw_is_no_posterior() -> None:
    assert "return mean and log-variance" in refusal(Drawing())


class NearlySure(Codes):
    """One code in 392 is another one in every other call."""

    calls = 0

    def encode(self, x: Tensor) -> Tensor:
        self.calls += 1
        codes = super().encode(x)
        codes[0, 0, 0] = self.calls % 2
        return codes


def test_codes_that_are_drawn_anew_are_refused_however_few() -> None:
    line = refusal(NearlySure(), images(side=14))
    assert "other codes the second time" in line and "(0.26 % of the codes differ)" in line


def test_an_image_must_not_depend_on_its_company() -> None:
    assert "let encode(x) see each by itself" in refusal(Averaging())
    decode = lambda self, z: Rotation.decode(self, z - z.mean(0))  # noqa: E731
    assert "let decode(z) see each by itself" in refusal(type("Company", (Rotation,), {"decode": decode})())


def test_a_model_must_not_move_while_it_encodes() -> None:
    assert "they compute" in refusal(Moving()) and "uses" in refusal(Moving())


def test_a_model_that_moves_later_is_found_by_its_hash() -> None:
    model = Rotation()
    source = Given(model=model)
    loaded = source.load()
    autoencoder = source.autoencoder(loaded, X, 0)
    autoencoder.encode(X)
    autoencoder.check_unchanged(loaded.weights_sha256)
    with torch.no_grad():
        model.matrix[0, 0] += 1e-3
    with pytest.raises(ExternalError, match="belong to no one model"):
        autoencoder.check_unchanged(loaded.weights_sha256)


def test_a_decoder_must_not_draw() -> None:
    assert "let it return the mean of its images" in refusal(Noisy())


def test_numbers_must_be_finite() -> None:
    broken = Rotation()
    broken.matrix.data[0, 0] = torch.nan
    assert "NaN or infinity" in refusal(broken)
    zero = type("Zero", (Normals,), {"encode": lambda self, x: {"mean": self.rotated(x), "std": 0 * self.rotated(x)}})
    assert "zero, negative or not finite" in refusal(zero())


def test_evaluation_mode_is_set_first() -> None:
    class Training(Rotation):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(16), nn.Dropout(0.5)

        def encode(self, x: Tensor) -> Tensor:
            return self.drop(self.norm(self.rotated(x)))

    model = Training().train()
    autoencoder = external(model)
    autoencoder.train()  # whatever Lightning does
    assert not model.norm.training and not any(p.requires_grad for p in model.parameters())
    autoencoder.encode(images(8))
    assert float(model.norm.num_batches_tracked) == 0


class Strided(nn.Module):
    """Two convolutions of stride 2, so that 14 pixels come back as 12."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, 4, 4, stride=4)
        self.outer = nn.ConvTranspose2d(4, channels, 4, stride=4)

    def encode(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.outer(z)


def test_sizes_that_do_not_come_back_name_the_multiple_that_works() -> None:
    x = images(side=14)
    line = refusal(Strided(), x)
    assert "(2, 1, 12, 12) of images (2, 1, 14, 14)" in line
    assert "with vae.multiple=4 it works: padded to 16x16 with their edges, and cropped back" in line
    model = Strided()
    autoencoder = external(model, x, multiple=4)
    posterior = autoencoder.encode(x).posterior
    padded = F.pad(x, (0, 2, 0, 2), mode="replicate")
    assert torch.equal(posterior.mean, model.inner(padded)) and autoencoder.spec.shape == (4, 4, 4)
    assert torch.equal(autoencoder.decode(posterior.mean).mean, model.outer(posterior.mean)[..., :14, :14])


def test_images_without_their_channel() -> None:
    flat = type("Flat", (Rotation,), {"decode": lambda self, z: Rotation.decode(self, z)[:, 0]})
    assert "makes images (2, 4, 4) of images (2, 1, 4, 4); let it reshape them" in refusal(flat())


def test_keys_that_mean_nothing_here() -> None:
    assert "returns point masses" in refusal(Rotation(), second="std")
    assert "returns no codes" in refusal(Rotation(), num_codes=3)


def test_greyscale_images_and_a_net_for_colour() -> None:
    line = refusal(Strided(3), images(side=8))
    assert "RuntimeError" in line and "with vae.channels=repeat it works" in line
    traceback = Path(line.partition("traceback: ")[2].partition(")")[0])
    assert "expected input" in traceback.read_text(encoding="utf-8")
    x = images(side=8)
    autoencoder = external(model := Strided(3), x, channels="repeat")
    decoded = autoencoder.decode(autoencoder.encode(x).posterior.mean).mean
    torch.testing.assert_close(decoded, model.decode(model.encode(x.repeat(1, 3, 1, 1))).mean(1, keepdim=True))
    assert "leave it out" in refusal(Strided(3), images(channels=3, side=8), channels="repeat")


class Signed(Rotation):
    """Knows pixels in [-1, 1] only."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return 2 * (super().decode(z) > 0).float() - 1


def test_the_range_of_pixels() -> None:
    x = (images() > 0.5).float()
    autoencoder = external(Signed(), x, range=(-1.0, 1.0))
    assert torch.equal(autoencoder.decode(autoencoder.encode(x).posterior.mean).mean, x)
    assert autoencoder.guesses == () and "[-1, 1]" in autoencoder.said
    (guess,) = external(Signed(), x).guesses
    assert "vae.range=[-1,1]" in guess
    assert "such as [-1,1]" in refusal(Rotation(), range=(1.0, -1.0))


def test_latents_that_the_decoder_does_not_know_explain_nothing() -> None:
    wrong = type("Wrong", (Rotation,), {"decode": lambda self, z: Rotation.decode(self, -3 * z)})
    autoencoder = external(wrong())
    with pytest.raises(ExternalError, match=r"times as far from them as their mean image is"):
        calibrate(autoencoder, [(images(16), None)])
    bright = type("Bright", (Rotation,), {"decode": lambda self, z: Rotation.decode(self, z) * 2 - 1})
    with pytest.raises(ExternalError, match=r"another brightness and contrast it fits: give vae.range"):
        calibrate(external(bright()), [(images(16), None)])


def test_a_decoder_that_returns_logits_is_told_from_one_of_another_range() -> None:
    decode = lambda self, z: torch.logit(Rotation.decode(self, z).clamp(0.01, 0.99))  # noqa: E731
    with pytest.raises(ExternalError, match=r"it is logits, so let decode\(z\) return torch.distributions.Bernoulli"):
        calibrate(external(type("Logits", (Rotation,), {"decode": decode})()), [(images(16), None)])


def test_what_the_model_raises_is_one_line_with_its_place() -> None:
    def encode(self: Rotation, x: Tensor) -> Tensor:
        raise KeyError("no such\nthing")

    line = refusal(type("Raising", (Rotation,), {"encode": encode})())
    assert "encode(x) of images (2, 1, 4, 4): test_checks.py line" in line and "KeyError" in line
