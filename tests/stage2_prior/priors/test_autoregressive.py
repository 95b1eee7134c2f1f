"""The autoregressive prior: its masks, its sampler, what it learns, and the one training loop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from latent_values import means
from torch import Tensor
from training_run import settings as trainer_settings

from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fit import FixedDraws, FreshBatches
from stage2_prior.fitting import FitRun, FitSettings, PriorError
from stage2_prior.nets.made import MADE
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.wrappers.standardize import Standardized


def run(seed: int = 0, **settings: object) -> FitRun:
    fit = lightning_fit(trainer_settings(), [])
    return FitRun(torch.device("cpu"), seed, lambda figures, step: None, fit, {"precision": "32-true", **settings})


def trained_net(dims: int, hidden: tuple[int, ...]) -> MADE:
    torch.manual_seed(0)
    return MADE(dims, hidden, 4)


@pytest.mark.parametrize("hidden", [(64, 64, 64), (48, 64), (3,)])
def test_outputs_see_only_what_came_before(hidden: tuple[int, ...]) -> None:
    net = trained_net(6, hidden)
    jacobian = torch.autograd.functional.jacobian(lambda z: net(z[None])[0].sum(1), torch.randn(6))  # [out d, in d]
    assert torch.equal(jacobian.triu(), torch.zeros(6, 6))
    if min(hidden) >= 5:
        below = jacobian[torch.tril_indices(6, 6, -1).unbind()]
        assert (below != 0).all(), "every earlier dimension must reach every later output"


@pytest.mark.parametrize("hidden", [(64, 64, 64), (48, 64), (3,), (40,)])
@pytest.mark.parametrize("dims", [1, 2, 7])
def test_sampling_passes_agree_with_the_forward_pass(hidden: tuple[int, ...], dims: int) -> None:
    """The outputs that each of the D cheap passes sees are those of one full pass at the finished sample."""
    net, passes = trained_net(dims, hidden), []

    def draw(outputs: Tensor, d: int) -> Tensor:
        passes.append(outputs)
        return outputs[:, 0] + torch.randn(len(outputs))

    with torch.no_grad():
        z = net.generate(9, draw)
        torch.testing.assert_close(torch.stack(passes, dim=1), net(z), atol=1e-5, rtol=1e-5)


def test_density_is_the_product_of_its_conditionals() -> None:
    """Against torch's own mixture of normals, one dimension at a time."""
    torch.manual_seed(0)
    prior = Autoregressive(LatentSpec((4,)), hidden=(32, 32), num_components=5).eval()
    z = torch.randn(50, 4)
    log_weights, means, log_stds = prior._conditionals(prior.net(z), prior.max_log_std)
    conditional = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=log_weights), torch.distributions.Normal(means, log_stds.exp())
    )
    torch.testing.assert_close(prior.log_prob(z), conditional.log_prob(z).sum(1), atol=1e-4, rtol=1e-4)


def test_dimensions_come_by_information_and_samples_come_back() -> None:
    rng = np.random.default_rng(0)
    loc, widths = rng.normal(size=(500, 3)), np.array([0.5, 0.01, 0.1])
    data = LatentDataset(
        LatentSpec((3,)), "diagonal_normal", {"loc": np.float32(loc), "log_std": np.float32(np.log(widths) + 0 * loc)}
    )
    torch.manual_seed(0)
    prior = Autoregressive(data.spec, hidden=(16,), num_components=1)
    prior.prepare(data)
    assert prior.order.tolist() == [1, 2, 0]
    with torch.no_grad():
        prior.net.head.weight.zero_()
        prior.net.head.bias.copy_(torch.tensor([0.0, 1.0, -2.0, 0.0, 2.0, -2.0, 0.0, 3.0, -2.0]))  # means 1, 2, 3
    z = prior.sample(2000)
    torch.testing.assert_close(z.mean(0), torch.tensor([3.0, 1.0, 2.0]), atol=0.03, rtol=0)
    assert prior.log_prob(torch.tensor([[3.0, 1.0, 2.0]])) > prior.log_prob(torch.tensor([[1.0, 2.0, 3.0]])) + 10


def test_conditionals_stay_within_reason_far_from_the_data() -> None:
    """Whatever the network says, no component is wider than twice the aggregate, so no sample is thrown far away."""
    prior = Autoregressive(LatentSpec((4,)), hidden=(16,), num_components=2)
    prior.prepare(little())
    wild = torch.full((5, 4, 6), 80.0, requires_grad=True)
    _, _, log_stds = prior._conditionals(wild, prior.max_log_std)
    widest = means(little()).std(0).max().item() * 2.1
    assert log_stds.exp().max().item() < widest
    mild = torch.full((5, 4, 6), 3.0, requires_grad=True)
    prior._conditionals(mild, prior.max_log_std)[2].sum().backward()
    assert (mild.grad[..., 4:] > 0).all(), "the ceiling must let a gradient through"


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_draws_follow_the_conditional(temperature: float) -> None:
    """A temperature divides logits and multiplies widths; at 0 the mean of the likeliest Gaussian is left."""
    prior = Autoregressive(LatentSpec((1,)), hidden=(8,), num_components=3)
    outputs = torch.tensor([[0.0, 1.0, 2.0, -3.0, 0.0, 4.0, -1.0, 0.0, -2.0]]).expand(200_000, -1)
    torch.manual_seed(0)
    prior.max_log_std.fill_(20.0)  # far away, where it changes nothing
    z = prior._draw(temperature, outputs, 0)
    weights = torch.softmax(torch.arange(3.0) / max(temperature, 1e-6), 0)
    means, stds = torch.tensor([-3.0, 0.0, 4.0]), temperature * torch.tensor([-1.0, 0.0, -2.0]).exp()
    mean = weights @ means
    assert z.mean().item() == pytest.approx(mean.item(), abs=0.03)
    assert z.var().item() == pytest.approx((weights @ (stds**2 + means**2) - mean**2).item(), rel=0.02, abs=1e-9)
    assert (z < -1.5).float().mean().item() == pytest.approx(weights[0].item(), abs=0.03)


def ring(num: int, seed: int) -> np.ndarray:
    """Two correlated dimensions: z_0 of two modes, z_1 = z_0^2 / 2 +- 1 with noise, [num, 2]."""
    rng = np.random.default_rng(seed)
    first = rng.choice([-1.5, 1.5], num) + 0.5 * rng.normal(size=num)
    second = 0.5 * first**2 + rng.choice([-1, 1], num) + 0.2 * rng.normal(size=num)
    return np.stack([first, second], 1)


def ring_nll_nats(z: np.ndarray) -> np.ndarray:
    """-log of the true density at z [num, 2], [num]."""

    def two(x: np.ndarray, reach: float, std: float) -> np.ndarray:
        parts = [-0.5 * ((x - m) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi)) for m in (-reach, reach)]
        return np.logaddexp(*parts) - math.log(2)

    return -(two(z[:, 0], 1.5, 0.5) + two(z[:, 1] - 0.5 * z[:, 0] ** 2, 1.0, 0.2))


def test_a_known_density_is_learned() -> None:
    """Point masses of a bent density with four modes: held-out log-likelihood within 0.05 nats of the truth."""
    spec = LatentSpec((2,))
    train, val = (LatentDataset(spec, "delta", {"loc": np.float32(ring(n, s))}) for n, s in ((12_000, 0), (2000, 1)))
    torch.manual_seed(0)
    prior = Standardized(Autoregressive(spec, hidden=(64, 64), num_components=5))
    state = torch.get_rng_state()
    report = prior.fit(train, val, run(max_epochs=20, learning_rate=5e-3, batch_size=256))
    assert torch.equal(torch.get_rng_state(), state)
    held_out = ring(20_000, 2)
    gap = -prior.log_prob(torch.from_numpy(np.float32(held_out))).mean().item() - ring_nll_nats(held_out).mean()
    assert -0.01 < gap < 0.05
    torch.manual_seed(0)
    sampled = ring_nll_nats(prior.sample(20_000).double().numpy())
    true = ring_nll_nats(held_out)
    # Not the mean: the few samples between two modes cost a hundred nats each under a density as sharp as this one.
    assert np.median(sampled) == pytest.approx(np.median(true), abs=0.1)
    assert (sampled > 8).mean() < 0.02 and (true > 8).mean() < 0.002
    assert report.val_nll_nats == pytest.approx(min(row["val_nll_nats"] for row in report.curve), abs=1e-3)
    assert report.curve[-1]["val_nll_nats"] < report.curve[0]["val_nll_nats"]


def little(num: int = 96) -> LatentDataset:
    loc = np.float32(np.random.default_rng(0).normal(size=(num, 4)))
    return LatentDataset(LatentSpec((4,)), "diagonal_normal", {"loc": loc, "log_std": np.full_like(loc, -3)})


def test_overfitting_stops_early_and_the_best_weights_return() -> None:
    train = little()
    rng = np.random.default_rng(1)
    val = LatentDataset(train.spec, "delta", {"loc": np.float32(rng.normal(size=(500, 4)))})
    torch.manual_seed(0)
    prior = Autoregressive(train.spec, hidden=(128, 128))
    report = prior.fit(train, val, run(max_epochs=400, patience=5, learning_rate=3e-3, average=0.9))
    assert len(report.curve) < 400 and "stopped after epoch" in report.notes[0]
    values = [row["val_nll_nats"] for row in report.curve]
    assert values[-1] > min(values) and len(values) - 1 - int(np.argmin(values)) == 5
    assert report.val_nll_nats == pytest.approx(min(values), abs=1e-3)
    assert not prior.training


def test_a_time_limit_is_kept_and_said() -> None:
    prior = Autoregressive(LatentSpec((4,)), hidden=(16,))
    report = prior.fit(little(), little(), run(max_epochs=50, patience=50, max_seconds=0.001))
    assert len(report.curve) == 1 and "limit of 0.001 seconds" in report.notes[0]


def test_a_loss_that_explodes_names_the_step() -> None:
    prior = Autoregressive(LatentSpec((4,)), hidden=(16,))
    with torch.no_grad():
        prior.net.head.bias[0] = math.inf
    with pytest.raises(PriorError, match=r"loss of the prior is nan at step 0 .*learning_rate"):
        prior.fit(little(), little(), run(max_epochs=2))


def test_unknown_settings_and_latents_that_are_not_finite_are_refused() -> None:
    prior = Autoregressive(LatentSpec((4,)), hidden=(16,))
    with pytest.raises(PriorError, match=r"prior.fit.epochs is unknown; the keys are max_epochs"):
        prior.fit(little(), little(), run(epochs=3))
    bad = little()
    bad.params["log_std"][5, 0] = np.nan
    with pytest.raises(PriorError, match=r"log_std of the training latents .*first: 5"):
        prior.fit(bad, little(), run())
    with pytest.raises(PriorError, match="validation"):
        prior.fit(little(), bad, run())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_components": 0}, "num_components=0"),
        ({"hidden": ()}, "hidden="),
        ({"hidden": (64, 0)}, "hidden="),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"min_std": 0.0}, "min_std=0.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        Autoregressive(LatentSpec((4,)), **arguments)


def test_every_epoch_draws_anew_and_held_out_draws_stay() -> None:
    data = little(100)
    torch.manual_seed(0)
    batches = FreshBatches(data, 32)
    first, second = (torch.cat([z for z, *_ in batches]) for _ in range(2))
    assert first.shape == (96, 4) and len(batches) == 3
    assert not torch.isin(first, second).any()
    fixed = FixedDraws(data, 250, 128)
    again = [torch.cat([z for z, *_ in fixed]) for _ in range(2)]
    assert torch.equal(*again) and again[0].shape == (300, 4)


def test_labels_stay_with_their_latents() -> None:
    loc = np.float32(np.arange(50.0)[:, None].repeat(4, axis=1))
    data = LatentDataset(LatentSpec((4,), num_classes=50), "delta", {"loc": loc}, labels=np.arange(50))
    for source in (FreshBatches(data, 16), FixedDraws(data, 120, 64)):
        for z, labels, _ in source:
            assert torch.equal(z[:, 0].long(), labels)


def test_posteriors_stay_with_their_draws() -> None:
    loc = np.float32(np.arange(50.0)[:, None].repeat(4, axis=1))
    log_std = np.full_like(loc, -5.0)
    data = LatentDataset(LatentSpec((4,)), "diagonal_normal", {"loc": loc, "log_std": log_std})
    for source in (FreshBatches(data, 16), FixedDraws(data, 120, 64)):
        for z, _, posterior in source:
            torch.testing.assert_close(z, posterior["loc"], rtol=0, atol=0.05)
            assert len(z) and (posterior["log_std"] == -5.0).all()


def test_settings_mirror_the_yaml() -> None:
    assert FitSettings.of(run(max_epochs=3)).max_epochs == 3
    assert FitSettings().patience > 0


def test_a_floor_bounds_the_density_of_repeated_points() -> None:
    """One point, over and over: without a floor the likelihood would grow for ever."""
    data = LatentDataset(LatentSpec((2,)), "delta", {"loc": np.zeros((200, 2), np.float32)})
    prior = Autoregressive(data.spec, hidden=(16,), num_components=2, min_std=0.1)
    prior.fit(data, data, run(max_epochs=60, learning_rate=0.1, patience=60))
    peak = -2 * math.log(0.1 * math.sqrt(2 * math.pi))
    log_prob = prior.log_prob(torch.zeros(1, 2)).item()
    assert peak - 1.0 < log_prob <= peak + 1e-4


@pytest.mark.parametrize("family", ["delta", "codes"])
def test_point_masses_are_held_out_once(family: str) -> None:
    """Drawn again they would give the same figure, at many times the cost; what has noise is drawn again."""
    spec = LatentSpec((4,), Support.CODES, ((2, 2),), (9,)) if family == "codes" else LatentSpec((4,))
    name = "codes" if family == "codes" else "loc"
    values = np.random.default_rng(0).integers(0, 9, (5, 4)).astype(spec.dtype(name))
    data = LatentDataset(spec, family, {name: values})
    assert data.is_certain and not little(5).is_certain
    drawn = [z for z, *_ in FixedDraws(data, 4096, 4096)]
    assert len(drawn) == 1 and torch.equal(drawn[0], torch.from_numpy(values).to(drawn[0]))
    assert sum(len(z) for z, *_ in FixedDraws(little(5), 4096, 4096)) == 4100


def test_a_fit_that_only_gets_worse_keeps_what_it_began_as() -> None:
    """Held-out latents of N(0, I), near which it begins; a learning rate that ruins it in the first epoch."""
    torch.manual_seed(0)
    latents = LatentDataset.of(torch.randn(500, 4))
    prior = Autoregressive(LatentSpec((4,)), hidden=(16,))
    prior.prepare(latents)
    before = prior.eval().log_prob(torch.zeros(1, 4))
    notes = prior.fit(latents, latents, run(max_epochs=3, learning_rate=3.0)).notes
    assert any("where the network began, which is what is kept" in note for note in notes)
    assert torch.equal(prior.log_prob(torch.zeros(1, 4)), before)
