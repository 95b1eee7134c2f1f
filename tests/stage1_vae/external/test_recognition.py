"""What `encode` of other people's models returns is recognised, and said."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from outside.their_models import DIM, Codes, Normals, Rotation, external, images
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize

from stage1_vae.external.errors import ExternalError
from stage1_vae.latents import Support
from stage1_vae.likelihoods import BernoulliImage

X = images()


def written(returns: Any, base: type[Rotation] = Normals) -> Rotation:
    """A model whose `encode` is `returns(self, x)`."""
    return type("Written", (base,), {"encode": returns})()


def test_one_tensor_of_real_numbers_is_a_point_mass() -> None:
    model = Rotation()
    autoencoder = external(model)
    assert autoencoder.family == "delta" and autoencoder.base_prior is None and autoencoder.spec.shape == (DIM,)
    assert torch.equal(autoencoder.encode(X).posterior.mean, model.rotated(X))
    torch.testing.assert_close(autoencoder.decode(model.rotated(X)).mean, X)
    assert "point masses" in autoencoder.said and autoencoder.guesses == ()


NORMALS = {
    "a tuple of mean and log-variance": lambda self, x: (self.rotated(x), 2 * self.spread(x)),
    "a list": lambda self, x: [self.rotated(x), 2 * self.spread(x)],
    "names": lambda self, x: {"mu": self.rotated(x), "logvar": 2 * self.spread(x)},
    "names of pythae": lambda self, x: {"embedding": self.rotated(x), "log_covariance": 2 * self.spread(x)},
    "an object": lambda self, x: SimpleNamespace(mean=self.rotated(x), log_var=2 * self.spread(x)),
    "standard deviations": lambda self, x: {"mean": self.rotated(x), "std": self.spread(x).exp()},
    "variances": lambda self, x: {"mean": self.rotated(x), "var": (2 * self.spread(x)).exp()},
    "log standard deviations": lambda self, x: {"loc": self.rotated(x), "log_scale": self.spread(x)},
    "a torch Normal": lambda self, x: self.posterior(x),
    "an independent one": lambda self, x: Independent(self.posterior(x), 1),
    "one in a wrapper": lambda self, x: SimpleNamespace(latent_dist=self.posterior(x)),
    "stacked": lambda self, x: torch.cat([self.rotated(x), 2 * self.spread(x)], 1),
}


@pytest.mark.parametrize("returns", NORMALS.values(), ids=NORMALS.keys())
def test_means_and_spreads_are_diagonal_normals(returns: Any) -> None:
    model = written(returns)
    autoencoder = external(model)
    posterior: Any = autoencoder.encode(X).posterior
    assert autoencoder.family == "diagonal_normal" and autoencoder.base_prior is not None
    assert torch.equal(posterior.loc, model.rotated(X)) and posterior.log_std.dtype == torch.float32
    torch.testing.assert_close(posterior.log_std, model.spread(X), rtol=1e-4, atol=1e-5)


def test_an_unnamed_second_tensor_is_a_guess_that_names_its_key() -> None:
    model = written(NORMALS["a tuple of mean and log-variance"])
    (guess,) = external(model).guesses
    assert "log-variance" in guess and "vae.second=" in guess
    assert external(model, second="log_var").guesses == ()
    log_std: Any = external(model, second="log_std").encode(X).posterior
    torch.testing.assert_close(log_std.log_std, 2 * model.spread(X))


class Draws(Normals):
    """A mean and a log standard deviation, and a `reparameterize` that draws in training alone."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rotated(x), self.spread(x)

    def reparameterize(self, mean: Tensor, second: Tensor) -> Tensor:
        return mean + second.exp() * torch.randn_like(mean) if self.training else mean


def test_what_stands_beside_the_mean_is_measured_from_draws() -> None:
    state = torch.get_rng_state()
    model = Draws()
    autoencoder = external(model)
    posterior: Any = autoencoder.encode(X).posterior
    torch.testing.assert_close(posterior.log_std, model.spread(X))
    assert "measured from draws" in autoencoder.said and autoencoder.guesses == () and not model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_believed_before_a_name() -> None:
    def returns(self: Normals, x: Tensor) -> Any:
        mean, log_std = self.rotated(x), self.spread(x)
        return SimpleNamespace(mean=mean, logvar=log_std, sample=lambda: mean + log_std.exp() * torch.randn_like(mean))

    autoencoder = external(model := written(returns))
    posterior: Any = autoencoder.encode(X).posterior
    torch.testing.assert_close(posterior.log_std, model.spread(X))
    assert "log standard deviation, measured from draws, though its name is logvar" in autoencoder.said


def test_bits() -> None:
    def returns(self: Rotation, x: Tensor) -> Any:
        return Bernoulli(logits=self.rotated(x).view(-1, 4, 4))

    model = type(
        "Bits", (Rotation,), {"encode": returns, "decode": lambda self, z: super(type(self), self).decode(z.flatten(1))}
    )()
    autoencoder = external(model)
    posterior: Any = autoencoder.encode(X).posterior
    assert (
        autoencoder.family == "bits" and autoencoder.spec.support is Support.BITS and autoencoder.spec.shape == (DIM,)
    )
    torch.testing.assert_close(posterior.logits, model.rotated(X))
    assert autoencoder.decode(posterior.sample()).mean.shape == X.shape


def test_a_decoder_that_returns_a_distribution_is_used_as_it_is() -> None:
    decode = lambda self, z: Bernoulli(logits=Rotation.decode(self, z))  # noqa: E731
    autoencoder = external(model := type("Own", (Rotation,), {"decode": decode})())
    density = autoencoder.decode(z := model.rotated(X))
    assert isinstance(density, BernoulliImage) and autoencoder.likelihood.pixels.value == "binary"
    torch.testing.assert_close(density.logits, Rotation.decode(model, z))
    normal = external(type("Own", (Rotation,), {"decode": lambda self, z: Normal(Rotation.decode(self, z), 0.3)})())
    assert normal.decode(z).log_prob(X).shape == (2,)
    with pytest.raises(ExternalError, match=r"or give vae.range=\[0,1\]$"):
        external(model, range=(-1.0, 1.0))


# ---- codes --------------------------------------------------------------------------------------------------------


def test_codes_of_a_map() -> None:
    autoencoder = external(model := Codes(), num_classes=3)
    spec = autoencoder.spec
    assert (spec.shape, spec.grids, spec.num_codes, spec.num_classes) == ((16,), ((4, 4),), (8,), 3)
    codes = autoencoder.encode(X).posterior.sample()
    assert torch.equal(codes, model.encode(X).flatten(1)) and "num_codes" in autoencoder.said
    assert torch.equal(autoencoder.decode(codes).mean, model.decode(model.encode(X)))
    assert not autoencoder.is_differentiable and external(Rotation()).is_differentiable


def test_codes_of_several_levels() -> None:
    class Levels(Codes):
        def encode(self, x: Tensor) -> Any:
            fine = super().encode(x)
            return [fine[:, ::2, ::2], fine]

        def decode(self, z: Any) -> Any:
            coarse, fine = z
            assert coarse.shape[1:] == (2, 2)
            return super().decode(fine)

    autoencoder = external(Levels(), num_codes=[8, 9])
    assert autoencoder.spec.grids == ((2, 2), (4, 4)) and autoencoder.spec.num_codes == (8, 9)
    assert autoencoder.decode(autoencoder.encode(X).posterior.sample()).mean.shape == X.shape


def test_a_codebook_size_is_never_guessed() -> None:
    class Unnamed(Codes):
        num_codes: Any = None

    with pytest.raises(ExternalError, match=r"names no codebook size: give it, vae.num_codes=NUMBER"):
        external(Unnamed())
    assert external(Unnamed(), num_codes=8).spec.num_codes == (8,)
    with pytest.raises(ExternalError, match=r"the code 7 of a codebook of 4 "):
        external(Unnamed(), x=torch.ones(2, 1, 4, 4), num_codes=4)
    with pytest.raises(ExternalError, match=r"2 to 65,536"):
        external(Unnamed(), num_codes=2**17)
    several = Unnamed()
    several.coarse, several.fine = nn.Embedding(8, 2), nn.Embedding(9, 2)
    with pytest.raises(ExternalError, match=r"several sizes of codebooks \(coarse.num_embeddings=8, fine"):
        external(several)


class Quantised(nn.Module):
    """One convolution to 8 channels, a quantiser of vector-quantize-pytorch, one back."""

    def __init__(self, quantiser: nn.Module) -> None:
        super().__init__()
        self.inner, self.outer, self.quantiser = nn.Conv2d(1, 8, 2, 2), nn.ConvTranspose2d(8, 1, 2, 2), quantiser

    def encode(self, x: Tensor) -> Tensor:
        vectors = self.inner(x).movedim(1, -1).flatten(1, 2)  # [B, 4, 8]
        codes = self.quantiser(vectors)[1]
        return codes.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        codes = z.view(len(z), 4, -1) if isinstance(self.quantiser, ResidualVQ) else z
        lookup = getattr(self.quantiser, "get_output_from_indices", None) or self.quantiser.indices_to_codes
        return self.outer(lookup(codes).view(len(z), 2, 2, 8).movedim(-1, 1))


QUANTISERS = {
    "VectorQuantize": (lambda: VectorQuantize(dim=8, codebook_size=32), 32, 4),
    "FSQ": (lambda: FSQ([5, 3, 3], dim=8), 45, 4),
    "ResidualVQ": (lambda: ResidualVQ(dim=8, codebook_size=16, num_quantizers=2), 16, 8),
}


@pytest.mark.parametrize(("make", "num_codes", "length"), QUANTISERS.values(), ids=QUANTISERS.keys())
def test_quantisers_of_vector_quantize_pytorch(make: Any, num_codes: int, length: int) -> None:
    torch.manual_seed(0)
    autoencoder = external(Quantised(make()))
    assert autoencoder.spec.num_codes == (num_codes,) and autoencoder.spec.shape == (length,)
    codes = autoencoder.encode(X).posterior.sample()
    assert autoencoder.decode(codes).mean.shape == X.shape


def test_what_nobody_knows_is_described() -> None:
    with pytest.raises(
        ExternalError, match=r"encode\(x\) returns a tuple of 3 .*float32 tensor \(2, 16\).*: return a float"
    ):
        external(written(lambda self, x: (self.rotated(x),) * 3))
    with pytest.raises(ExternalError, match=r"returns None: return"):
        external(written(lambda self, x: None))
    with pytest.raises(ExternalError, match=r"of 2 images returns a float32 tensor \(1, 16\)"):
        external(written(lambda self, x: self.rotated(x).mean(0, keepdim=True)))
    with pytest.raises(ExternalError, match=r"codes of shape \(32,\): return \(B, T\)"):
        external(type("Flat", (Codes,), {"encode": lambda self, x: Codes.encode(self, x).flatten()})())
