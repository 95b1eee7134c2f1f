"""Every `conf/prior/*.yaml` goes through the same life on every kind of latent that it says it models: a new file is
tested from the moment it is there."""

import functools
import math
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from latent_values import means
from prior_cases import (
    CASES,
    NAMES,
    REAL,
    SPECS,
    build,
    config_of,
    data,
    fitted,
    life,
    posteriors,
    real_life,
    run_for,
)
from safetensors.torch import load, save
from torch import Tensor

from expost.store.tensors import layouts
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Exactness
from stage2_prior.sampling import Sampling


@functools.cache
def grid(name: str, kind: str) -> tuple[Tensor, Tensor, float]:
    """Points [G, D] over all the mass, log-densities [G] there, and the area of a cell: a grid finer than any width
    here, or every sequence of codes, whose area is 1."""
    prior, spec = fitted(name, kind), SPECS[kind]
    with torch.no_grad():
        if kind in REAL:
            z = prior.sample(5000).flatten(1)
            low, high = z.min(0).values - 2, z.max(0).values + 2
            axes = [torch.linspace(float(a), float(b), 150) for a, b in zip(low, high, strict=True)]
            area = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
        else:
            grids = spec.grids or ((1, 5),)
            sizes = spec.num_codes or (2,)
            lengths = [h * w for h, w in grids]
            axes = [torch.arange(k) for k, length in zip(sizes, lengths, strict=True) for _ in range(length)]
            area = 1.0
        points = torch.cartesian_prod(*axes).view(-1, *spec.shape)
        points = points.float() if kind == "bits" else points
        log_prob = torch.cat([prior.log_prob(block) for block in points.split(8192)])
        return points.flatten(1), log_prob.double(), area


def test_the_group_is_not_empty_and_every_kind_has_priors() -> None:
    assert {"standard_normal", "gaussian", "mixture", "autoregressive", "transformer"} <= set(NAMES)
    for kind in SPECS:
        assert len([case for case in CASES if case[1] == kind]) >= 2


@life
def test_shapes_and_dtypes(name: str, kind: str) -> None:
    prior, shape = fitted(name, kind), SPECS[kind].shape
    z = prior.sample(7)
    assert z.shape == (7, *shape) and z.isfinite().all()
    assert z.dtype == (torch.int64 if SPECS[kind].support is Support.CODES else torch.float32)
    assert not z.requires_grad
    assert prior.sample(0).shape == (0, *shape) and prior.sample(0).dtype == z.dtype
    log_prob = prior.log_prob(z)
    assert log_prob.shape == (7,) and log_prob.dtype == torch.float32 and log_prob.isfinite().all()
    if prior.loss_is == "nats" and prior.log_prob_is is Exactness.EXACT:
        torch.testing.assert_close(prior.loss(z), -log_prob)
    assert prior.loss(z).shape == (7,) and prior.loss(z).isfinite().all()
    assert prior.log_prob_error_nats >= 0 and all(caveat.endswith(".") for caveat in prior.caveats)
    torch.testing.assert_close(prior.log_prob(z[2:5]), log_prob[2:5])  # each latent by itself


@life
@pytest.mark.parametrize("larger", [False, True])
def test_other_dimensions(name: str, kind: str, larger: bool) -> None:
    others = {
        "vector": LatentSpec((5,) if larger else (1,)),
        "map": LatentSpec((3, 4, 2) if larger else (1, 1, 1)),
        "codes": LatentSpec((12,) if larger else (1,), Support.CODES, ((3, 4) if larger else (1, 1),), (300,)),
        "two maps": LatentSpec((20,), Support.CODES, ((2, 2), (4, 4)), (7, 300)),
        "bits": LatentSpec((9,) if larger else (1,), Support.BITS),
    }
    prior = build(name, others[kind])
    z = prior.sample(11)
    assert z.shape == (11, *others[kind].shape) and prior.log_prob(z).isfinite().all()


@life
def test_wrong_input_is_refused(name: str, kind: str) -> None:
    prior, shape = fitted(name, kind), SPECS[kind].shape
    words = rf"expected \[B, {', '.join(map(str, shape))}\]"
    for wrong in (torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, *shape, 1)):
        with pytest.raises(ValueError, match=words):
            prior.log_prob(wrong)
        with pytest.raises(ValueError, match=words):
            prior.loss(wrong)
    with pytest.raises(ValueError, match="-1"):
        prior.sample(-1)


@life
def test_labels_and_knobs_that_it_does_not_know_are_refused(name: str, kind: str) -> None:
    prior = fitted(name, kind)
    with pytest.raises(PriorError, match=r"no classes; fit one with prior.conditional=true"):
        prior.sample(2, context=torch.tensor([0, 1]))
    with pytest.raises(PriorError, match=r"sample.guidance needs a prior of classes"):
        prior.sample(2, how=Sampling(guidance=1.0))
    for knob, how in {
        "temperature": Sampling(temperature=0.5),
        "top_k": Sampling(top_k=2),
        "top_p": Sampling(top_p=0.5),
    }.items():
        if knob in prior.knobs:
            assert prior.sample(3, how=how).shape == (3, *SPECS[kind].shape)
        else:
            with pytest.raises(PriorError, match=f"cannot follow sample.{knob}"):
                prior.sample(3, how=how)


@life
def test_truncation_keeps_the_likeliest(name: str, kind: str) -> None:
    prior = fitted(name, kind)
    if prior.log_prob_is is Exactness.NONE:
        pytest.skip("no density")
    torch.manual_seed(1)
    with torch.no_grad():
        plain, kept = prior.sample(600), prior.sample(300, how=Sampling(truncation=0.5))
        floor = prior.log_prob(plain).quantile(0.35)  # the median, but for its noise over 600 draws
        assert kept.shape == (300, *SPECS[kind].shape) and (prior.log_prob(kept) >= floor - 1e-4).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_it_does_not_model_is_refused_in_words(name: str) -> None:
    cls: Any = hydra.utils.get_class(config_of(name)["_target_"])
    for spec in (*SPECS.values(), LatentSpec((3,), Support.SPHERE)):
        if (why := cls.check(spec)) is not None:
            assert spec.support.value in why and "these latents" in why


@life
def test_gradient_reaches_every_parameter_and_z(name: str, kind: str) -> None:
    prior = build(name, SPECS[kind])
    z = data(kind, 64, 3).draw(torch.arange(64))
    if kind in REAL:
        z.requires_grad_()
    loss = prior.loss(z).mean()
    if not loss.requires_grad:
        assert kind not in REAL and not list(prior.parameters())
        return
    loss.backward()
    assert kind not in REAL or (z.grad is not None and (z.grad.flatten(1) != 0).any(1).all())
    for key, parameter in prior.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@life
def test_density_integrates_to_one(name: str, kind: str) -> None:
    prior = fitted(name, kind)
    if prior.log_prob_is is not Exactness.EXACT:
        pytest.skip("no exact density")
    _, log_prob, area = grid(name, kind)
    assert float(log_prob.exp().sum()) * area == pytest.approx(1, abs=2e-3 if kind in REAL else 1e-5)


@life
def test_samples_follow_the_density(name: str, kind: str) -> None:
    prior = fitted(name, kind)
    if prior.log_prob_is is not Exactness.EXACT:
        pytest.skip("no exact density")
    points, log_prob, area = grid(name, kind)
    mass = log_prob.exp() * area
    entropy = -float((mass * log_prob).sum())
    mean = (mass[:, None] * points).sum(0)
    covariance = (mass[:, None, None] * (points - mean)[:, :, None] * (points - mean)[:, None, :]).sum(0)
    torch.manual_seed(3)
    with torch.no_grad():
        count = 20_000 if kind in REAL else 6000
        z = prior.sample(count)
        nll = -prior.log_prob(z).double()
    z = z.flatten(1)
    assert float(nll.mean()) == pytest.approx(entropy, abs=5 * float(nll.std()) / math.sqrt(count) + 2e-3)
    if kind not in REAL:
        num = frequencies(z.long(), points.long())
        expected = count * mass
        chi_square = float(((num - expected).square() / expected).sum())
        free = len(points) - 1
        assert chi_square < free + 5 * math.sqrt(2 * free)  # five standard deviations of the statistic
    spread = covariance.diagonal().sqrt()
    assert ((z.double().mean(0) - mean).abs() < 5 * spread / math.sqrt(count) + 1e-3).all()
    reach = 0.06 * math.sqrt(20_000 / count)
    assert ((torch.cov(z.double().T) - covariance).abs() < reach * spread[:, None] * spread).all()


def frequencies(z: Tensor, sequences: Tensor) -> Tensor:
    """How often each of `sequences` [G, T] is among z [N, T], float64 [G]."""
    base = int(sequences.max()) + 1
    digits = base ** torch.arange(z.shape[1])
    order = (sequences * digits).sum(1)
    found = torch.bincount((z * digits).sum(1), minlength=base ** z.shape[1])
    assert found.sum() == found[order].sum(), "a sequence that does not exist"
    return found[order].double()


@life
def test_state_survives_safetensors(name: str, kind: str) -> None:
    prior, other = fitted(name, kind), build(name, SPECS[kind])
    z = data(kind, 50, 4).draw(torch.arange(50))
    other.load_state_dict(load(save(prior.state_dict())))
    other.eval()
    assert torch.equal(other.log_prob(z), prior.log_prob(z))


@life
def test_seeds_reproduce_fit_and_samples(name: str, kind: str) -> None:
    first = fitted(name, kind)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = build(name, SPECS[kind])
    torch.set_rng_state(state)
    second.fit(data(kind, 600, 1), data(kind, 200, 2), run_for(second))
    assert torch.equal(torch.get_rng_state(), state), "the fit left its mark on torch's global generator"
    for (key, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=key)
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(first.sample(9))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@real_life
def test_point_masses_are_fitted(name: str, kind: str) -> None:
    prior, spec = build(name, SPECS[kind]), SPECS[kind]
    smooth = posteriors(600, spec, 1)
    values = np.array(smooth.params["loc"])
    values[:100] = values[0]  # what sends a likelihood to infinity
    points = LatentDataset(spec, "delta", {"loc": values})
    if prior.needs_widths:
        with pytest.raises(PriorError, match="points without a width"):
            prior.fit(points, points, run_for(prior))
        return
    report = prior.fit(points, points, run_for(prior))
    assert prior.log_prob(means(points)).isfinite().all()
    if name != "standard_normal":
        assert report.train_nll_nats is not None and np.isfinite(report.train_nll_nats)


@life
def test_its_shapes_are_known_without_memory(name: str, kind: str) -> None:
    """An exported model is made on torch's `meta` device before its files are read."""
    with torch.device("meta"):
        found = build(name, SPECS[kind])
    assert layouts(found) == layouts(build(name, SPECS[kind]))
