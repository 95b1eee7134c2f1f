"""What discrete bottlenecks promise: every code can be reached and goes both ways, none collapses on real images."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from training_run import run

from stage1_vae.base_priors import FairBits, UniformCodes
from stage1_vae.bottleneck import Bottleneck
from stage1_vae.bottlenecks.bernoulli import Bernoulli
from stage1_vae.bottlenecks.fsq import FSQ
from stage1_vae.bottlenecks.gumbel import Gumbel
from stage1_vae.bottlenecks.residual_vq import ResidualVQ
from stage1_vae.bottlenecks.vq import VQ
from stage1_vae.bottlenecks.vq2 import VQ2
from stage1_vae.codes.codebook import Codebook
from stage1_vae.codes.maps import Projection, code_spec, to_map, to_vectors
from stage1_vae.codes.usage import CodeUsage, EpochFigures, collapse
from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.conv import Conv
from stage1_vae.posteriors import Bits, CategoricalCodes, Codes
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE

FEATURES = (6, 3, 5)
PLACES = 15
CODES: list[type[Bottleneck]] = [VQ, FSQ, ResidualVQ, VQ2, Gumbel]


def features(num: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(num, *FEATURES, generator=torch.Generator().manual_seed(seed))


def test_residual_codebooks_each_take_something_away() -> None:
    torch.manual_seed(0)
    model = ResidualVQ(FEATURES, num_quantizers=4, num_codes=16, code_dim=6).train()
    for step in range(30):
        model(features(64, step))
    model.eval()
    h = model.project(features(64, 99))
    z = model(features(64, 99)).posterior.codes.view(64, 4, PLACES)
    left, errors = h, [h.square().sum(1).mean().item()]
    for book, codes in zip(model.books(), z.unbind(1), strict=True):
        left = left - book.vectors[codes.flatten()]
        errors.append(left.square().sum(1).mean().item())
    assert all(after < 0.9 * before for before, after in itertools.pairwise(errors)), errors
    total = model.embed(z.flatten(1)).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(h - total, left, rtol=1e-4, atol=1e-4)


def test_the_gradient_passes_residual_codebooks_once() -> None:
    torch.manual_seed(0)
    model = ResidualVQ(FEATURES, num_quantizers=3, num_codes=8, code_dim=6).train()
    inputs: list[Tensor] = []
    model.books()[0].register_forward_hook(lambda book, given, out: inputs.append(given[0]))
    embedded = model(features(64)).embedded
    (found,) = torch.autograd.grad(embedded.sum(), inputs[0])
    assert torch.equal(found, torch.ones_like(found))


def test_the_temperature_falls_and_mixtures_become_codes() -> None:
    torch.manual_seed(0)
    model = Gumbel(
        FEATURES, num_codes=8, code_dim=4, start_temperature=2.0, end_temperature=0.1, anneal_steps=10
    ).train()
    with torch.no_grad():
        model.logits.weight.mul_(10)
    temperatures, nearest = [], []
    for _ in range(15):
        temperatures.append(model.temperature().item())
        embedded = model(features()).embedded.movedim(1, -1).flatten(0, -2)
        nearest.append(torch.cdist(embedded, model.vectors.weight).amin(1).mean().item())
    assert temperatures[0] == 2.0 and temperatures[5] == pytest.approx(1.05)
    assert temperatures[10:] == pytest.approx([0.1] * 5) and temperatures == sorted(temperatures, reverse=True)
    assert nearest[-1] < 0.3 * nearest[0], "at the end a mixture is nearly one code"
    model.eval()
    encoding = model(features())
    assert isinstance(encoding.posterior, Codes) and encoding.embedded is None and model.steps == 15


def test_relaxed_codes_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    model = Gumbel(FEATURES, num_codes=4, code_dim=8, start_temperature=0.01, end_temperature=0.01).train()
    encoding = model(features(1).expand(4000, *FEATURES))
    assert isinstance(encoding.posterior, CategoricalCodes) and encoding.embedded is not None
    vectors = encoding.embedded.movedim(1, -1).reshape(4000 * PLACES, 8)
    drawn = torch.cdist(vectors, model.vectors.weight).argmin(1).view(4000, PLACES)
    shares = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
    torch.testing.assert_close(shares, encoding.posterior.log_probs[0].exp().double(), atol=0.03, rtol=0)


def test_the_rate_of_relaxed_codes_is_their_divergence_from_uniform_ones() -> None:
    torch.manual_seed(0)
    model = Gumbel(FEATURES, num_codes=8, code_dim=4).train()
    posterior = model(features()).posterior
    assert isinstance(posterior, CategoricalCodes)
    reference = torch.distributions.Categorical(logits=posterior.log_probs)
    expected = (math.log(8) - reference.entropy()).sum(1)
    torch.testing.assert_close(rate_nats(posterior, model.base_prior, posterior.sample()), expected)
    z = posterior.sample()
    torch.testing.assert_close(posterior.log_prob(z), reference.log_prob(z).sum(1))


def test_bits_are_hard_and_their_gradient_is_that_of_the_probability() -> None:
    torch.manual_seed(0)
    logits = torch.randn(200, 7, requires_grad=True)
    z = Bits(logits).rsample()
    assert set(z.detach().unique().tolist()) == {0.0, 1.0}
    towards = torch.randn(200, 7)
    (found,) = torch.autograd.grad(z, logits, towards)
    probability = logits.detach().sigmoid()
    torch.testing.assert_close(found, towards * probability * (1 - probability))


def test_no_bit_is_ever_certain() -> None:
    """However loud the features: certain bits would have no gradient and, where they differ, an infinite cost."""
    mean = Bernoulli(FEATURES, 9)(1e6 * features()).posterior.mean
    assert ((mean > 0) & (mean < 1)).all()


def test_bits_sum_to_one_and_their_rate_is_that_of_monte_carlo() -> None:
    torch.manual_seed(0)
    posterior, prior = Bits(2 * torch.randn(6, 5, dtype=torch.float64)), FairBits(5)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)), dtype=torch.float64)
    mass = posterior.log_prob(every[:, None].expand(32, 6, 5)).exp()  # [32, 6]
    torch.testing.assert_close(mass.sum(0), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(
        posterior.log_prob(every[3].expand(6, 5)), TorchBernoulli(logits=posterior.logits).log_prob(every[3]).sum(1)
    )
    exact = rate_nats(posterior, prior, every[:6])
    enumerated = (mass * (mass.log() + 5 * math.log(2))).sum(0)
    torch.testing.assert_close(exact, enumerated)
    z = posterior.sample(torch.Size((20_000,)))
    estimates = posterior.log_prob(z) - prior.log_prob(z)
    assert ((estimates.mean(0) - exact).abs() < 4 * estimates.std(0) / math.sqrt(20_000)).all()


@pytest.mark.parametrize("kind", [VQ, VQ2, ResidualVQ])
def test_the_commitment_is_the_squared_distance_to_the_codes_and_draws_the_features_there(
    kind: type[Bottleneck],
) -> None:
    torch.manual_seed(0)
    model = kind(FEATURES, num_codes=4, code_dim=6, commitment=0.7).train()
    model(features(64))
    model.eval()
    pairs: list[tuple[Tensor, Tensor]] = []
    for book in (part for part in model.modules() if isinstance(part, Codebook)):
        book.register_forward_hook(lambda book, given, out: pairs.append((given[0], book.vectors[out[0]])))
    penalty = model(features(8, 1)).penalty
    distances = [(h - chosen).square().sum(1).view(8, -1).sum(1) for h, chosen in pairs]
    assert len(distances) == {VQ: 1, VQ2: 2, ResidualVQ: 4}[kind]
    torch.testing.assert_close(penalty, 0.7 * torch.stack(distances).sum(0))
    h, chosen = pairs[-1]
    (pull,) = torch.autograd.grad(penalty.sum(), h)
    torch.testing.assert_close(pull, 2 * 0.7 * (h - chosen).detach())


@pytest.mark.parametrize("kind", CODES)
def test_codes_go_to_the_decoder_as_they_did_in_training(kind: type[Bottleneck]) -> None:
    """What the decoder is given of codes alone is what it was given of the image."""
    torch.manual_seed(0)
    model = kind(FEATURES).train()
    model(features(64))
    model.eval()
    encoding = model(features(8, 1))
    z = encoding.posterior.sample()
    assert z.shape == (8, *model.spec.shape) and sum(h * w for h, w in model.spec.grids) == z.shape[1]
    if encoding.embedded is not None:
        torch.testing.assert_close(model.embed(z), encoding.embedded, rtol=1e-4, atol=1e-5)
    assert model.embed(z).shape == (8, *model.decoder_shape)


def test_places_come_row_by_row_and_go_back_where_they_were() -> None:
    x = features(2)
    vectors = to_vectors(x)
    assert torch.equal(vectors[PLACES + 1 * 5 + 2], x[1, :, 1, 2])
    assert torch.equal(to_map(vectors, (3, 5)), x)


def test_uniform_codes_of_two_maps_cost_the_logarithms_of_their_codebooks() -> None:
    prior = UniformCodes(code_spec(((1, 1), (2, 2)), (8, 5), 0))
    assert prior.log_prob(prior.sample(3)).tolist() == pytest.approx([-math.log(8) - 4 * math.log(5)] * 3)


def test_one_vector_alone_is_projected_with_what_was_learned() -> None:
    projection = Projection(6, 4).train()
    projection(features())
    before = projection.norm.get_buffer("running_mean").clone()
    assert torch.isfinite(projection(features(1)[:, :, :1, :1])).all()
    assert torch.equal(projection.norm.get_buffer("running_mean"), before)


def test_usage_is_of_the_whole_epoch() -> None:
    usage = CodeUsage(8, "top").train()
    for codes in ([0, 1], [2, 3], [0, 1]):
        usage.add(torch.tensor([codes]))
    usage.eval()
    usage.add(torch.arange(8))
    figures = usage.read()
    share = torch.tensor([2, 2, 1, 1]) / 6
    perplexity = (-(share * share.log()).sum()).exp().item()
    assert figures == {"top_codes_used": 0.5, "top_code_perplexity": pytest.approx(perplexity)}
    assert usage.read() == {} and not usage.state_dict(), "counts are no part of the model"


def test_a_collapse_is_told_in_words() -> None:
    assert collapse({"codes_used": 0.5, "train_loss": 3.0}) == []
    (line,) = collapse({"top_codes_used": 0.031, "bottom_codes_used": 0.9})
    assert "top codebook has collapsed: 3.1%" in line and "vae=fsq" in line


@pytest.mark.parametrize(("sizes", "stored"), [((256,), "uint8"), ((257,), "uint16"), ((16, 70_000), "uint32")])
def test_codes_are_stored_in_the_smallest_integers(sizes: tuple[int, ...], stored: str) -> None:
    spec = LatentSpec((4 * len(sizes),), Support.CODES, ((2, 2),) * len(sizes), sizes)
    assert spec.dtype("codes") == np.dtype(stored)


@pytest.mark.parametrize("kind", [VQ, FSQ])
def test_codes_stay_in_use_on_real_images(kind: type[Bottleneck]) -> None:
    """At default settings, after a few epochs on the digits, behind an encoder that moves fast."""
    torch.manual_seed(0)
    vae = VAE((1, 8, 8), Conv([64, 128]), partial(kind), BernoulliLikelihood())
    history = run(vae, max_epochs=8, val_every=8)
    last = history[-1]
    assert last["codes_used"] > 0.8 and last["code_perplexity"] > 0.4 * vae.spec.num_codes[0], last
    assert collapse(last) == []
    if kind is VQ:
        assert last["codes_revived"] < 0.1 * vae.spec.num_codes[0], last
    counters = [module for module in vae.modules() if isinstance(module, EpochFigures)]
    assert counters and all(not counter.read().get("codes_used") for counter in counters)
