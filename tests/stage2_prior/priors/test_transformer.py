"""The transformer: exact, causal, and the same from the cache as without it, for every kind of latent."""

import math

import pytest
import torch
from torch import Tensor
from untrained_transformer import GREEDY, SMALL, SPECS, all_sequences, latents, make

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.nets.dropout import drop
from stage2_prior.priors.transformer import Transformer
from stage2_prior.sampling import PLAIN, Sampling

kinds = pytest.mark.parametrize("kind", SPECS)
both_positions = pytest.mark.parametrize("positions", ["learned", "rotary"])


def outputs(prior: Transformer, tokens: Tensor, context: Tensor | None) -> Tensor:
    """The network's outputs for all places [B, T, W] in one pass over the tokens that come before each."""
    inputs = prior.tokens.embed(tokens[:, :-1], slice(0, tokens.shape[1] - 1))
    labels = torch.full((len(tokens),), prior.num_classes) if context is None else context
    return prior.net(torch.cat([prior.prefix(labels)[:, None], inputs], 1))


@torch.no_grad()
def without_cache(prior: Transformer, n: int, context: Tensor | None, how: Sampling) -> Tensor:
    """Sampling as the textbook has it: the whole sequence so far goes through the network for every token."""
    tokens = prior.tokens.split(latents(prior.spec, n))  # what stands at later places must not matter
    for t in range(tokens.shape[1]):
        output = outputs(prior, tokens, context)[:, t]
        other = outputs(prior, tokens, None)[:, t] if how.guidance else None
        tokens[:, t] = prior.tokens.draw(output, other, t, how)
    return prior.tokens.join(tokens)


@kinds
@both_positions
@pytest.mark.parametrize("case", ["plain", "conditional", "guided"])
def test_from_the_cache_come_the_same_tokens(kind: str, positions: str, case: str) -> None:
    """Token by token at temperature 0, where a wrong digit anywhere would lead all that follow elsewhere."""
    prior = make(SPECS[kind], positions, conditional=case != "plain")
    context = None if case == "plain" else torch.arange(24) % 3
    how = Sampling(temperature=0.0, guidance=2.0 if case == "guided" else 0.0)
    z = prior.sample(24, context, how)
    torch.testing.assert_close(z, without_cache(prior, 24, context, how), atol=1e-4, rtol=1e-4)
    if context is not None:
        assert not torch.allclose(z[0], z[1]) and torch.equal(z[0], z[3]), "each class has its own likeliest latent"
    if case == "guided":
        assert not torch.allclose(z, prior.sample(24, context, GREEDY))


@kinds
def test_draws_from_the_cache_are_those_without_it(kind: str) -> None:
    """With the same noise, at temperature 1: one generator, asked the same questions in the same order."""
    prior = make(SPECS[kind])
    drawn = prior.tokens.split(latents(prior.spec, 64))  # what stands at later places must not matter
    torch.manual_seed(1)
    z = prior.sample(64)
    torch.manual_seed(1)
    with torch.no_grad():
        for t in range(drawn.shape[1]):
            drawn[:, t] = prior.tokens.draw(outputs(prior, drawn, None)[:, t], None, t, PLAIN)
    torch.testing.assert_close(z, prior.tokens.join(drawn), atol=1e-4, rtol=1e-4)


def as_latents(spec: LatentSpec, sequences: Tensor) -> Tensor:
    return sequences.float() if spec.support is Support.BITS else sequences


@pytest.mark.parametrize("kind", SMALL)
@both_positions
@pytest.mark.parametrize("label", [None, 0, 1])
def test_probabilities_of_all_sequences_sum_to_one_and_samples_follow_them(
    kind: str, positions: str, label: int | None
) -> None:
    """Chi-square of 4,000 cached samples over all 54 to 81 sequences, within five of its standard deviations."""
    spec = SMALL[kind]
    prior, sequences = make(spec, positions, conditional=label is not None), all_sequences(spec)
    context = None if label is None else torch.full((len(sequences),), label)
    with torch.no_grad():
        probability = prior.log_prob(as_latents(spec, sequences), context).double().exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    assert probability.max() > 3 * probability.median(), "nothing is tested on a uniform density"
    torch.manual_seed(2)
    z = prior.sample(4000, None if label is None else torch.full((4000,), label)).long()
    found = (z[:, None] == sequences).all(2).sum(0).double()
    expected = 4000 * probability
    rare = expected < 5  # pooled, as the approximation wants it
    found = torch.cat([found[~rare], found[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    chi_square = ((found - expected).square() / expected.clamp_min(1e-9)).sum().item()
    assert chi_square < len(found) + 5 * math.sqrt(2 * len(found))


def test_a_vector_of_two_integrates_to_one() -> None:
    prior = make(LatentSpec((2,)))
    axis = torch.linspace(-10, 10, 250)
    with torch.no_grad():
        mass = prior.log_prob(torch.cartesian_prod(axis, axis)).double().exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-3)


@kinds
@both_positions
def test_the_density_of_a_token_sees_only_those_before(kind: str, positions: str) -> None:
    """Through the embedding, where codes too are real numbers: the gradient of log p(z_t) is zero from token t on, and
    not zero before it."""
    prior = make(SPECS[kind], positions)
    tokens = prior.tokens.split(latents(prior.spec, 2))
    inputs = prior.tokens.embed(tokens, slice(0, tokens.shape[1])).detach().requires_grad_()
    start = prior.prefix(torch.zeros(2, 1, dtype=torch.int64))
    log_prob = prior.tokens.log_prob(prior.net(torch.cat([start, inputs[:, :-1]], 1)), tokens)  # [2, T]
    for t in range(log_prob.shape[1]):
        (gradient,) = torch.autograd.grad(log_prob[:, t].sum(), inputs, retain_graph=True)
        reached = gradient.abs().sum(2) > 0  # [2, T]
        assert not reached[:, t:].any() and reached[:, :t].all()
    assert torch.allclose(prior.log_prob(prior.tokens.join(tokens)), log_prob.sum(1), atol=1e-4)


def test_dropout_is_in_training_alone_and_never_in_sampling() -> None:
    prior = make(SPECS["two maps"], dropout=0.5, label_dropout=0.9, conditional=True)
    z, labels = latents(prior.spec, 64), torch.arange(64) % 3
    sampled = prior.sample(64, labels, GREEDY)
    still = prior.loss(z, labels)
    prior.train()
    assert torch.equal(prior.sample(64, labels, GREEDY), sampled)
    assert not torch.equal(prior.loss(z, labels), prior.loss(z, labels))
    prior.eval()
    assert torch.equal(prior.loss(z, labels), still)


@pytest.mark.parametrize("share", [0.0, 1e-7, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_shares_are_those_asked_for_and_the_rest_makes_up_for_them(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    h = torch.ones(301, 111, 3, dtype=dtype, requires_grad=True)  # no multiple of four
    kept = drop(h, share)
    assert kept.dtype == dtype and kept.shape == h.shape
    assert (kept == 0).float().mean().item() == pytest.approx(share, abs=4 * 0.5 / h.numel() ** 0.5)
    torch.testing.assert_close(kept[kept != 0].float().unique(), torch.tensor([1 / (1 - share)]).to(dtype).float())
    (gradient,) = torch.autograd.grad(kept.sum(), h)
    assert torch.equal(gradient, kept)
    flat = (kept == 0).flatten().float() - share
    assert (flat[:-1] * flat[1:]).mean().abs().item() < 0.01, "neighbours that share a draw are independent"
    assert share == 0 or not torch.equal(drop(h, max(share, 0.1)), drop(h, max(share, 0.1)))


def test_the_cache_has_the_dtype_of_the_weights_and_bf16_draws_nearly_the_same() -> None:
    prior = make(SPECS["long map"])
    assert {layer.dtype for layer in prior.net.new_cache(3)} == {torch.float32}
    z = prior.sample(500)
    exact = prior.log_prob(z).mean().item()
    half = make(SPECS["long map"]).to(torch.bfloat16)
    assert {layer.dtype for layer in half.net.new_cache(3)} == {torch.bfloat16}
    assert prior.log_prob(half.sample(500)).mean().item() == pytest.approx(exact, abs=0.05 * abs(exact))


def test_what_is_drawn_can_be_trained_on() -> None:
    """Draws are made in inference mode, which must not reach those who take them."""
    z = make(SPECS["vector"]).sample(6)
    layer = torch.nn.Linear(z.shape[1], 1)
    layer(z).sum().backward()
    assert layer.weight.grad is not None and not z.is_inference()


def test_large_batches_are_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = make(SPECS["two maps"], conditional=True)
    z, labels = latents(prior.spec, 50), torch.arange(50) % 3
    whole = prior.log_prob(z, labels)
    greedy = prior.sample(50, labels, GREEDY)
    monkeypatch.setattr("stage2_prior.priors.transformer.DENSITY_TOKENS", 7 * 13)
    monkeypatch.setattr("stage2_prior.priors.transformer.SAMPLE_ROWS", 8)
    sizes: list[int] = []
    prior.net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        torch.testing.assert_close(prior.log_prob(z, labels), whole)
    assert max(sizes) == 7 and sum(sizes) == 50
    assert torch.equal(prior.sample(50, labels, GREEDY), greedy)
