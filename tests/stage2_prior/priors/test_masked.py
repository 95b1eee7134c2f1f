"""The masked network: its estimate against all orders of all sequences, its masks, its samples, its knobs."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL as LITTLE
from command_line import report_of, run_here
from prior_cases import SPECS, run_for
from torch import Tensor
from untrained_transformer import SMALL, all_sequences

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import PriorError
from stage2_prior.priors.masked import Masked, first_of
from stage2_prior.sampling import Sampling

kinds = pytest.mark.parametrize("kind", SMALL)


def make(spec: LatentSpec, **more: Any) -> Masked:
    """A network that has learned nothing but has opinions, which differ between orders."""
    torch.manual_seed(0)
    prior = Masked(spec, width=32, depth=2, num_heads=4, **more).eval().requires_grad_(False)
    for parameter in prior.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.shape[1]))
    return prior


def every_order(prior: Masked, z: Tensor, label: int = 0) -> Tensor:
    """log p_sigma(z) of all T! orders, [T!, B], by one pass for each set of known codes."""
    num = z.shape[1]
    labels = torch.full((len(z),), label)
    of_set: dict[frozenset[int], Tensor] = {}
    for known in itertools.chain(*(itertools.combinations(range(num), size) for size in range(num))):
        masked = torch.ones_like(z, dtype=torch.bool)
        masked[:, list(known)] = False
        outputs = prior._outputs(prior.tokens.split(z), masked, labels)
        of_set[frozenset(known)] = prior.tokens.log_prob(outputs, prior.tokens.split(z))
    orders = itertools.permutations(range(num))
    return torch.stack([chain(of_set, order) for order in orders]).double()


def chain(of_set: dict[frozenset[int], Tensor], order: tuple[int, ...]) -> Tensor:
    return torch.stack([of_set[frozenset(order[:t])][:, i] for t, i in enumerate(order)]).sum(0)


def as_latents(spec: LatentSpec, sequences: Tensor) -> Tensor:
    return sequences.float() if spec.support is Support.BITS else sequences


@kinds
@pytest.mark.parametrize("num_masks", [1, 3, 4])
def test_the_estimate_is_the_mean_over_orders_without_bias(kind: str, num_masks: int) -> None:
    """Within four standard errors, of 64 sets of masks for every sequence; and below the density of the mixture."""
    spec = SMALL[kind]
    prior = make(spec, num_masks=num_masks)
    z = as_latents(spec, all_sequences(spec))
    chains = every_order(prior, z)
    density = torch.logsumexp(chains, 0) - math.log(len(chains))
    assert float(density.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert (density - chains.mean(0)).max() > 0.01, "orders agree, and nothing is tested"
    torch.manual_seed(1)
    strata = torch.arange(num_masks)
    errors = []
    for _ in range(64):
        level = (strata + torch.rand(len(z), num_masks)) / num_masks
        costs = [
            prior._cost(z, prior._all(len(z), 0), level[:, m], torch.rand(len(z), z.shape[1])) for m in range(num_masks)
        ]
        errors.append(-torch.stack(costs).mean(0) - chains.mean(0))
    error = torch.stack(errors)  # [64, G]
    assert error.mean().abs() < 4 * error.std() / math.sqrt(error.numel())
    of_its_own = prior._estimate(z, prior._all(len(z), 0)).double() - chains.mean(0)
    assert of_its_own.mean().abs() < 4 * of_its_own.std() / math.sqrt(len(z))
    assert of_its_own.std() < 1.5 * error.std()


@kinds
@pytest.mark.parametrize("label", [None, 1])
def test_of_few_codes_it_is_the_density_over_all_orders(kind: str, label: int | None) -> None:
    spec = SMALL[kind]
    prior = make(spec, conditional=label is not None)
    z = as_latents(spec, all_sequences(spec))
    chains = every_order(prior, z, label or 0)
    expected = (torch.logsumexp(chains, 0) - math.log(len(chains))).float()
    labels = torch.full((len(z),), label or 0)
    torch.testing.assert_close(prior._over_all_orders(z, labels), expected, atol=1e-4, rtol=1e-4)
    if spec.num_dims < 6:
        given = prior.log_prob(z, None if label is None else labels)
        torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)


def test_the_error_bar_covers_the_truth() -> None:
    """Of a fitted prior of six codes of eight: the mean of estimates is within two standard errors of the mean
    log p(z), although it is a bound."""
    spec = LatentSpec((6,), Support.CODES, ((2, 3),), (8,))
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(2, (1500, 6), generator=generator)
    steps[:, 0] = torch.randint(8, (1500,), generator=generator)
    codes = (steps.cumsum(1) % 8).to(torch.uint8).numpy()
    train, val = (LatentDataset(spec, "codes", {"codes": part}) for part in (codes[:1400], codes[1400:]))
    torch.manual_seed(0)
    prior = Masked(spec, width=64, depth=2)
    prior.fit(train, val, replace(run_for(prior), settings={"max_epochs": 16, "learning_rate": 0.003, "average": 0.98}))
    z = train.draw(torch.arange(1400)).unique(dim=0)
    labels = prior._all(len(z), 0)
    with torch.no_grad():
        truth, estimate = prior._over_all_orders(z, labels).double(), prior.log_prob(z).double()
    error = float((estimate - truth).std()) / math.sqrt(len(z))
    assert error < 0.15 and abs(float((estimate - truth).mean())) < 2 * float(estimate.std()) / math.sqrt(len(z))
    assert -float(truth.mean()) < 6 * math.log(8) - 3, "nothing was learned"


def test_what_is_masked_is_not_looked_at_and_all_else_is() -> None:
    spec = SMALL["two maps"]
    prior = make(spec)
    inputs = torch.randn(2, 4, 32, requires_grad=True)
    prior.tokens.embed = lambda tokens, at: inputs  # type: ignore[method-assign]  # codes as real numbers
    masked = torch.tensor([[True, False, True, False], [False, False, False, True]])
    outputs = prior._outputs(torch.zeros(2, 4, dtype=torch.int64), masked, torch.zeros(2, dtype=torch.int64))
    weight = torch.randn(32)
    for t in range(4):
        (gradient,) = torch.autograd.grad((outputs[:, t] @ weight).sum(), inputs, retain_graph=True)
        assert torch.equal(gradient.abs().sum(2) > 0, ~masked)


@kinds
@pytest.mark.parametrize("label", [None, 1])
def test_one_code_a_step_follows_the_density(kind: str, label: int | None) -> None:
    """Chi-square of 4,000 samples over all sequences, within five of its standard deviations."""
    spec = SMALL[kind]
    prior, sequences = make(spec, num_steps=None, conditional=label is not None), all_sequences(spec)
    chains = every_order(prior, as_latents(spec, sequences), label or 0)
    probability = torch.logsumexp(chains, 0).exp() / len(chains)
    assert probability.max() > 3 * probability.median()
    torch.manual_seed(2)
    z = prior.sample(4000, None if label is None else torch.full((4000,), label)).long()
    found = (z[:, None] == sequences).all(2).sum(0).double()
    expected = 4000 * probability
    rare = expected < 5  # pooled, as the approximation wants it
    found = torch.cat([found[~rare], found[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    chi_square = ((found - expected).square() / expected.clamp_min(1e-9)).sum().item()
    assert chi_square < len(found) + 5 * math.sqrt(2 * len(found))


@pytest.mark.parametrize("num_steps", [1, 3, 8, None])
def test_a_sample_takes_as_many_passes_as_it_says(num_steps: int | None) -> None:
    """Codes that are drawn stay; fewer are masked each step, down to none."""
    prior, known = make(LatentSpec((12,), Support.CODES, ((3, 4),), (5,)), num_steps=num_steps), []
    prior.label.weight.zero_()

    def look(net: object, inputs: tuple[Tensor, ...]) -> None:
        known.append((inputs[0] != prior.mask).any(2).sum(1))

    prior.net.register_forward_pre_hook(look)
    torch.manual_seed(1)
    z = prior.sample(6)
    assert len(known) == (num_steps or 12) and z.min() >= 0 and z.max() < 5
    counts = torch.stack(known)
    assert (counts[0] == 0).all() and (counts.diff(dim=0) > 0).all() and (counts == counts[:, :1]).all()
    if num_steps == 3:
        assert counts[:, 0].tolist() == [0, 2, 6]  # 12 cos(pi / 6) = 10.4 masked, 12 cos(pi / 3) = 6


def test_knobs_and_guidance_change_the_samples() -> None:
    prior = make(SMALL["one map"], conditional=True, num_steps=2)
    greedy = Sampling(temperature=0.0)
    z = prior.sample(20, torch.arange(20) % 2, greedy)
    assert torch.equal(z[0], z[2]) and torch.equal(z[1], z[3])
    one = prior.sample(20, torch.arange(20) % 2, Sampling(top_k=1))
    assert one.shape == z.shape and not torch.equal(one, z), "which codes stay is drawn"
    guided = prior.sample(20, torch.arange(20) % 2, Sampling(temperature=0.0, guidance=5.0))
    assert not torch.equal(guided, z)


def test_the_lowest_are_found() -> None:
    score, among = torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[True, True, True, False]])
    assert first_of(score, among, 2).tolist() == [[False, True, True, False]]
    assert not first_of(score, among, 0).any()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_steps", 0, "or null for one a code"),
        ("num_masks", 0, "at least 1"),
        ("choice_temperature", -1.0, "0 or more"),
        ("max_tokens", 3, "4 tokens, more than prior.max_tokens=3"),
        ("dropout", 1.0, "a share from 0"),
    ],
)
def test_numbers_out_of_range(key: str, value: Any, words: str) -> None:
    with pytest.raises(PriorError, match=words):
        Masked(SPECS["codes"], **{key: value})


def test_a_run_in_little(tmp_path: Path) -> None:
    """Codes get it; vectors get what `otherwise` names."""
    small = [word for word in LITTLE if "num_components" not in word and "net." not in word]
    result = run_here(tmp_path, *small, "vae=vq", "prior=masked", "prior.width=16", "prior.depth=1")
    assert result.code == 0, result.err
    assert "masked" in str(report_of(tmp_path)["rows"])


def test_a_fit_takes_one_mask_a_latent() -> None:
    prior = make(LatentSpec((9,), Support.BITS)).train()
    z = torch.randint(2, (64, 9)).float()
    assert not torch.equal(prior.loss(z), prior.loss(z))
    prior.eval()
    assert torch.equal(prior.loss(z), prior.loss(z)) and prior.caveats
    assert not torch.allclose(prior.loss(z), -prior.log_prob(z))
