"""A model that is not ours as an `Autoencoder`: what it owns, where it computes, its likelihood."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from outside.their_models import DIM, Codes, Given, Normals, Rotation, external, images
from torch import Tensor, nn

from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.external.autoencoder import calibrate
from stage1_vae.external.calling import Format
from stage1_vae.external.errors import ExternalError
from stage1_vae.external.weights import modules, sha256, tensors
from stage1_vae.latents import LatentDataset
from stage1_vae.latents.files import LatentWriter
from stage1_vae.rate import rate_nats
from stage1_vae.vae import encode

X = images()


class Named(Normals):
    def encode(self, x: Tensor) -> Any:
        return {"mean": self.rotated(x), "log_std": self.spread(x)}


def test_the_encoder_sees_pixels_without_the_noise_that_dequantises_them() -> None:
    raw = torch.arange(256, dtype=torch.uint8).repeat(2).view(-1, 1, 4, 4)
    dequantised = Preprocess(levels=256, dequantize=True)(raw, torch.Generator().manual_seed(0))
    form = Format((1, 4, 4), levels=256)
    assert torch.equal(form.enter(dequantised), raw / 255)
    centres = (raw.double() + 0.5) / 256  # what the noise is about
    torch.testing.assert_close(form.leave(raw.double() / 255), centres, atol=1e-12, rtol=0)


def test_it_owns_the_scale_of_its_likelihood_and_nothing_else() -> None:
    autoencoder = external(Named())
    assert isinstance(autoencoder, Autoencoder)
    assert list(autoencoder.parameters()) == [] and set(autoencoder.state_dict()) == {"likelihood.log_std"}
    other = external(Named())
    calibrate(other, [(images(64), None)])
    autoencoder.load_state_dict(other.state_dict())
    z = autoencoder.encode(X).posterior.mean
    assert torch.equal(autoencoder.decode(z).log_prob(X), other.decode(z).log_prob(X))


def test_to_moves_the_model_along() -> None:
    model = Named()
    autoencoder = external(model).to("meta")
    assert autoencoder.device.type == "meta" and model.matrix.device.type == "meta"
    double = external(other := Named()).to(torch.float64)
    assert other.matrix.dtype == torch.float64
    posterior: Any = double.encode(X).posterior
    assert posterior.loc.dtype == torch.float32  # whatever it computes in


def test_an_object_that_is_no_module_but_has_some() -> None:
    class Pair:
        def __init__(self) -> None:
            self.encoder, self.decoder = nn.Linear(DIM, 3).train(), nn.Linear(3, DIM)
            self.mean = torch.rand(DIM)

        def encode(self, x: Tensor) -> Tensor:
            return self.encoder(x.flatten(1) - self.mean)

        def decode(self, z: Tensor) -> Tensor:
            return (self.decoder(z) + self.mean).view(-1, 1, 4, 4)

    pair = Pair()
    autoencoder = external(pair)
    assert autoencoder.spec.shape == (3,) and not pair.encoder.training and pair.encoder.weight.requires_grad is False
    assert set(tensors(pair)) == {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "mean"}


GLOBAL = nn.Linear(DIM, 3)


def test_modules_are_found_wherever_the_methods_refer_to_them() -> None:
    held = nn.Linear(3, DIM)

    def encode(x: Tensor) -> Tensor:
        return GLOBAL(x.flatten(1))

    def decode(z: Tensor) -> Tensor:
        return held(z).view(-1, 1, 4, 4)

    for model in (SimpleNamespace(encode=encode, decode=decode), SimpleNamespace(nets=[GLOBAL, {"outer": held}])):
        found = modules(model).values()
        assert {id(module) for module in found} == {id(GLOBAL), id(held)}
        assert len(tensors(model)) == 4

    class Rescaled(Rotation):
        def encode(self, x: Tensor) -> Tensor:
            return GLOBAL(super().encode(x))

    rescaled = Rescaled()
    assert {id(module) for module in modules(rescaled).values()} == {id(rescaled), id(GLOBAL)}


def test_images_outside_of_the_range_are_refused() -> None:
    with pytest.raises(ExternalError, match=r"values from -1 to 1.* vae.range=\[0,1\] hands them over as they are"):
        external(Rotation(), torch.linspace(-1, 1, 32).view(2, 1, 4, 4), range=(-1.0, 1.0))


def test_a_cache_that_is_made_at_the_first_call_is_no_change() -> None:
    class Caching(Rotation):
        def encode(self, x: Tensor) -> Tensor:
            if not hasattr(self, "cache"):
                self.register_buffer("cache", torch.ones(1))
            return super().encode(x) * self.cache

    source = Given(model=Caching())
    source.autoencoder(loaded := source.load(), X, 0).check_unchanged(loaded.weights_sha256)


def test_the_hash_is_of_all_that_it_computes_with() -> None:
    def hashed(change: Any = None) -> str:
        model = Codes()
        model.register_buffer("hidden", torch.zeros(3), persistent=False)
        if change:
            change(model)
        return sha256(tensors(model), [b"source"])

    assert hashed() == hashed()
    assert hashed(lambda m: m.levels.add_(1e-6)) != hashed()
    assert hashed(lambda m: m.hidden.add_(1)) != hashed()  # in no state_dict, and yet what it computes with
    assert hashed(lambda m: m.half()) != hashed()
    assert sha256(tensors(Codes()), [b"other"]) != sha256(tensors(Codes()), [b"source"])
    assert sha256({"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.tensor(1)})


def test_ingredients_are_what_changes_results() -> None:
    source = Given(model=Rotation())
    base = source.ingredients(source.load())
    assert base["range"] == [0.0, 1.0] and base["multiple"] == 1 and base["version"] == 1
    other = Given(model=Rotation(), range=(-1.0, 1.0))
    changed = other.ingredients(other.load())
    assert {key for key in base if base[key] != changed[key]} == {"range"}
    assert Given(model=Rotation(), precision=32).ingredients(source.load()) == base


def test_the_scale_is_the_maximum_likelihood_one() -> None:
    torch.manual_seed(0)
    x = images(4000)
    autoencoder = external(Named())
    result = calibrate(autoencoder, [(part, None) for part in x.split(1000)], max_images=3500)
    assert result.num_images == 3500 and result.scale is not None and result.words.startswith("Gaussian scale 0.")
    assert "maximum likelihood on 3,500 training images" in result.words

    def mean_log_prob(scale: float) -> float:
        torch.manual_seed(1)
        autoencoder.likelihood.log_std.fill_(math.log(scale))
        z = autoencoder.encode(x).posterior.sample()
        return float(autoencoder.decode(z).log_prob(x).mean())

    best = mean_log_prob(result.scale)
    assert best > mean_log_prob(1.03 * result.scale) and best > mean_log_prob(result.scale / 1.03)


def test_rates_and_latents_go_through_the_door(tmp_path: Path) -> None:
    autoencoder = external(Named(), num_classes=2)
    x, labels = images(10), torch.arange(10) % 2
    with LatentWriter.create(tmp_path, autoencoder.spec, autoencoder.family, 10, labelled=True) as writer:
        encode(autoencoder, [(x[:6], labels[:6]), (x[6:], labels[6:])], writer)
        writer.finish({})
    latents = LatentDataset.load(tmp_path)
    posterior = latents.posterior(slice(None))
    torch.testing.assert_close(posterior.mean, autoencoder.encode(x).posterior.mean)
    assert latents.spec.num_classes == 2
    rate = rate_nats(posterior, autoencoder.trained_against, posterior.sample())
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.variance.sqrt()), torch.distributions.Normal(0.0, 1.0)
    ).sum(1)
    torch.testing.assert_close(rate, expected)


def test_gradients_reach_the_latents_and_no_weight() -> None:
    autoencoder = external(model := Named())
    z = autoencoder.encode(X).posterior.mean.requires_grad_()
    autoencoder.decode(z).log_prob(X).sum().backward()
    assert z.grad is not None and bool((z.grad != 0).any()) and model.matrix.grad is None


def test_half_precision_is_for_the_layers_alone() -> None:
    autoencoder = external(Named(), precision="bf16")
    posterior: Any = autoencoder.encode(X).posterior
    exact: Any = external(Named()).encode(X).posterior
    assert posterior.loc.dtype == posterior.log_std.dtype == posterior.sample().dtype == torch.float32
    assert 0 < float((posterior.loc - exact.loc).abs().max()) < 0.05
    assert autoencoder.decode(posterior.loc).mean.dtype == torch.float32
