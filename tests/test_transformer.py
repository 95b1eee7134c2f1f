"""The transformer: exact, causal, and the same from the cache as without it, for every kind of latent."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.prior import PriorError
from stage2_prior.priors.transformer import Transformer
from stage2_prior.sampling import PLAIN, Sampling, draw_categorical

GREEDY = Sampling(temperature=0.0)
SPECS = {
    "two maps": LatentSpec((13,), Support.CODES, ((2, 2), (3, 3)), (5, 7), num_classes=3),
    "long map": LatentSpec((12,), Support.CODES, ((3, 4),), (300,), num_classes=3),
    "map of reals": LatentSpec((3, 2, 4), num_classes=3),
    "vector": LatentSpec((6,), num_classes=3),
    "bits": LatentSpec((9,), Support.BITS, num_classes=3),
}
kinds = pytest.mark.parametrize("kind", SPECS)
both_positions = pytest.mark.parametrize("positions", ["learned", "rotary"])


def make(spec: LatentSpec, positions: str = "learned", conditional: bool = False, **more: object) -> Transformer:
    """A network that has learned nothing but has opinions: its weights are far larger than at the start."""
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 2, "num_heads": 4, "num_components": 4, **more}
    prior = Transformer(spec, positions=positions, conditional=conditional, **sizes).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in prior.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.shape[1]))
        if hasattr(prior.tokens, "head"):  # real numbers would run away
            prior.tokens.head.weight.mul_(0.3)
        else:
            for head in prior.tokens.heads:
                head.weight.mul_(2.0)
    return prior


def latents(spec: LatentSpec, num: int) -> Tensor:
    if spec.support is Support.CODES:
        sizes = torch.tensor(
            [size for (h, w), size in zip(spec.grids, spec.num_codes, strict=True) for _ in range(h * w)]
        )
        return (torch.rand(num, *spec.shape) * sizes).long()
    return (
        torch.randn(num, *spec.shape) if spec.support is Support.REAL else torch.randint(2, (num, *spec.shape)).float()
    )


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


SMALL = {
    "two maps": LatentSpec((4,), Support.CODES, ((1, 1), (1, 3)), (2, 3), num_classes=2),
    "one map": LatentSpec((4,), Support.CODES, ((2, 2),), (3,), num_classes=2),
    "bits": LatentSpec((6,), Support.BITS, num_classes=2),
}


def all_sequences(spec: LatentSpec) -> Tensor:
    """[G, T], in lexicographic order."""
    grids = spec.grids or ((1, spec.num_dims),)
    sizes = [size for (h, w), size in zip(grids, spec.num_codes or (2,), strict=True) for _ in range(h * w)]
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes))


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


def test_dropped_labels_are_no_label() -> None:
    prior = make(SPECS["vector"], conditional=True, dropout=0.0, label_dropout=0.4)
    z, labels = latents(prior.spec, 400), torch.arange(400) % 3
    with torch.no_grad():
        with_label, without = prior.loss(z, labels), prior.loss(z)
        prior.train()
        seen = prior.loss(z, labels)
    dropped = torch.isclose(seen, without, atol=1e-4)
    assert torch.allclose(seen[~dropped], with_label[~dropped], atol=1e-4)
    assert 0.3 < dropped.float().mean() < 0.5
    assert (with_label - without).abs().min() > 0


def test_the_cache_has_the_dtype_of_the_weights_and_bf16_draws_nearly_the_same() -> None:
    prior = make(SPECS["long map"])
    assert prior.net.new_cache(3).keys.dtype == torch.float32
    z = prior.sample(500)
    exact = prior.log_prob(z).mean().item()
    half = make(SPECS["long map"]).to(torch.bfloat16)
    assert half.net.new_cache(3).values.dtype == torch.bfloat16
    assert prior.log_prob(half.sample(500)).mean().item() == pytest.approx(exact, abs=0.05 * abs(exact))


def test_large_batches_are_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = make(SPECS["two maps"], conditional=True)
    z, labels = latents(prior.spec, 50), torch.arange(50) % 3
    whole = prior.log_prob(z, labels)
    greedy = prior.sample(50, labels, GREEDY)
    monkeypatch.setattr("stage2_prior.priors.transformer.DENSITY_TOKENS", 7 * 13)
    monkeypatch.setattr("stage2_prior.priors.transformer.SAMPLE_ROWS", 8)
    seen: list[int] = []
    prior.net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        torch.testing.assert_close(prior.log_prob(z, labels), whole)
    assert max(seen) == 7 and sum(seen) == 50
    assert torch.equal(prior.sample(50, labels, GREEDY), greedy)


def test_knobs_narrow_the_draws() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(20_000, -1)

    def shares(how: Sampling) -> Tensor:
        torch.manual_seed(3)
        return torch.bincount(draw_categorical(logits, how), minlength=4) / 20_000

    plain = torch.tensor([0.5, 0.3, 0.15, 0.05])
    torch.testing.assert_close(shares(PLAIN), plain, atol=0.015, rtol=0)
    torch.testing.assert_close(shares(Sampling(top_k=2)), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015, rtol=0)
    torch.testing.assert_close(shares(Sampling(top_p=0.8)), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015, rtol=0)
    torch.testing.assert_close(shares(Sampling(top_p=0.81))[2:] > 0, torch.tensor([True, False]))
    torch.testing.assert_close(shares(Sampling(temperature=0.5)), plain**2 / (plain**2).sum(), atol=0.015, rtol=0)
    assert shares(Sampling(temperature=1e-3))[0] == 1 and shares(GREEDY)[0] == 1 and shares(Sampling(top_k=1))[0] == 1
    assert shares(Sampling(top_p=1e-6))[0] == 1, "the likeliest code always stays"
    assert torch.equal(shares(Sampling(top_k=4)), shares(PLAIN))


def test_guidance_leads_towards_the_class() -> None:
    """Draws at weight w follow p(z|y)^(1+w) / p(z)^w where that can be computed: one code."""
    prior = make(LatentSpec((1,), Support.CODES, ((1, 1),), (6,), num_classes=2), conditional=True)
    codes, label = torch.arange(6)[:, None], torch.ones(6, dtype=torch.int64)
    with torch.no_grad():
        wanted = (3 * prior.log_prob(codes, label) - 2 * prior.log_prob(codes)).softmax(0)
    torch.manual_seed(4)
    z = prior.sample(20_000, torch.ones(20_000, dtype=torch.int64), Sampling(guidance=2.0))
    torch.testing.assert_close(torch.bincount(z[:, 0], minlength=6) / 20_000, wanted, atol=0.015, rtol=0)


def test_guidance_of_real_numbers_leads_the_same_way() -> None:
    prior = make(LatentSpec((1,), num_classes=2), conditional=True)
    label = torch.ones(4000, dtype=torch.int64)
    axis = torch.linspace(-12, 12, 4000)[:, None]
    with torch.no_grad():
        wanted = (2 * prior.log_prob(axis, label) - prior.log_prob(axis)).softmax(0)
        torch.manual_seed(5)
        z = prior.sample(4000, label, Sampling(guidance=1.0))
    assert z.mean().item() == pytest.approx((wanted @ axis).item(), abs=0.15)
    assert z.std().item() == pytest.approx((wanted @ (axis - wanted @ axis).square()).sqrt().item(), rel=0.1)


def test_a_lower_temperature_narrows_gaussians() -> None:
    prior = make(LatentSpec((1,)), num_components=1)
    torch.manual_seed(6)
    whole, half = prior.sample(20_000), prior.sample(20_000, how=Sampling(temperature=0.5))
    assert half.std().item() == pytest.approx(0.5 * whole.std().item(), rel=0.03)
    assert prior.sample(5, how=GREEDY).unique().numel() == 1


REFUSED = [
    ({"conditional": True}, LatentSpec((4,)), "prior.conditional=true needs labels and these images have none"),
    ({"width": 30}, LatentSpec((4,)), "30 cannot be split over 4 heads; give a multiple of 4"),
    ({"depth": 0}, LatentSpec((4,)), "depth=0, num_heads=4: give at least 1 of each"),
    ({"positions": "sines"}, LatentSpec((4,)), "positions=sines is unknown; choose learned or rotary"),
    ({"positions": "rotary", "width": 24}, LatentSpec((4,)), "rotary positions need heads of a multiple of 4"),
    ({"max_tokens": 3}, LatentSpec((4,)), "4 tokens, more than prior.max_tokens=3"),
    ({"dropout": 1.0}, LatentSpec((4,)), "prior.dropout=1.0"),
    ({"label_dropout": -0.1}, LatentSpec((4,)), "prior.label_dropout=-0.1"),
    ({"num_components": 0}, LatentSpec((4,)), "prior.num_components=0"),
]


@pytest.mark.parametrize(("arguments", "spec", "words"), REFUSED)
def test_bad_arguments_are_refused(arguments: dict[str, object], spec: LatentSpec, words: str) -> None:
    with pytest.raises(PriorError, match=words):
        make(spec, **arguments)  # type: ignore[arg-type]


def test_bad_labels_and_knobs_are_refused() -> None:
    prior = make(SPECS["two maps"], conditional=True)
    with pytest.raises(PriorError, match=r"label 3 is out of range; the classes are 0 to 2"):
        prior.sample(2, torch.tensor([0, 3]))
    with pytest.raises(PriorError, match="label -1 is out of range"):
        prior.log_prob(latents(prior.spec, 1), torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"labels are \(1,\); expected \[2\]"):
        prior.sample(2, torch.tensor([0]))
    with pytest.raises(PriorError, match=r"sample.top_k=6 is more than the 5 codes"):
        prior.sample(2, how=Sampling(top_k=6))
    with pytest.raises(PriorError, match=r"give sample.label"):
        prior.sample(2, how=Sampling(guidance=1.0))
    with pytest.raises(PriorError, match=r"cannot follow sample.top_p"):
        make(SPECS["vector"]).sample(2, how=Sampling(top_p=0.5))
    for bad in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"guidance": -1.0}):
        with pytest.raises(ValueError, match=f"sample.{next(iter(bad))}="):
            Sampling(**bad)  # type: ignore[arg-type]


def test_conditional_on_nothing_is_the_density_over_all_classes() -> None:
    """Without a label the prefix is that of no class, which training with dropped labels makes p(z)."""
    prior = make(SMALL["one map"], conditional=True)
    sequences = all_sequences(prior.spec)
    with torch.no_grad():
        none = prior.log_prob(sequences)
        one, two = (prior.log_prob(sequences, torch.full((len(sequences),), y)) for y in (0, 1))
    for first, second in itertools.combinations((none, one, two), 2):
        assert not torch.allclose(first, second)
    assert none.double().exp().sum().item() == pytest.approx(1, abs=1e-5)
