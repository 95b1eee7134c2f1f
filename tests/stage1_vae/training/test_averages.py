"""What is averaged beside weights: every statistic of batches that belongs to them, in real training runs."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from training_run import STEPS, Watch, equal, make_vae, run, weights

from stage1_vae.bottleneck import Encoding
from stage1_vae.bottlenecks.gaussian import AbsorbedGaussian, Gaussian
from stage1_vae.bottlenecks.vq import VQ
from stage1_vae.codes.codebook import Codebook
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.conv import Conv
from stage1_vae.statistics import BatchStatistics
from stage1_vae.training.module import TrainingError
from stage1_vae.vae import VAE

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")
DECAY = 0.7


def averaged(steps: list[dict[str, Tensor]], names: list[str]) -> dict[str, Tensor]:
    """By the definition, over all steps."""
    average = {name: steps[0][name] for name in names}
    for n, step in enumerate(steps[1:], start=1):
        decay = min(DECAY, (1 + n) / (10 + n))
        average = {name: decay * average[name] + (1 - decay) * step[name] for name in names}
    return average


def vq_vae() -> VAE:
    torch.manual_seed(0)
    return VAE((1, 8, 8), Conv([8, 16]), partial(VQ, num_codes=16, code_dim=4), BernoulliLikelihood())


def test_a_codebook_is_that_of_the_averaged_encoder() -> None:
    vae, watch = vq_vae(), Watch(lambda vae, trainer: weights(vae))
    run(vae, ema_decay=DECAY, watchers=(watch,), max_epochs=2)
    (place,) = (name for name, part in vae.named_modules() if isinstance(part, Codebook))
    names = [f"{place}.counts", f"{place}.sums"]
    final, expected = weights(vae), averaged(watch.seen, names)
    assert len(watch.seen) == 2 * STEPS
    for name in names:
        torch.testing.assert_close(final[name], expected[name], rtol=1e-4, atol=1e-5)
        assert not torch.equal(final[name], watch.seen[-1][name])
    means = expected[names[1]] / expected[names[0]][:, None]
    torch.testing.assert_close(final[f"{place}.vectors"], means, rtol=1e-4, atol=1e-5)


def test_codes_of_averages_cost_no_more_than_those_of_the_last_weights() -> None:
    raw, average = (run(vq_vae(), ema_decay=decay, max_epochs=10)[-1]["val_loss"] for decay in (None, 0.97))
    assert average < raw + 1


@pytest.mark.parametrize("decay", [0.99, 0.9999])
def test_a_short_run_is_not_its_first_steps(decay: float) -> None:
    raw, average = (run(make_vae(), ema_decay=given, max_epochs=8)[-1]["val_loss"] for given in (None, decay))
    assert average < raw + 1


def test_batch_statistics_and_moments_are_averaged() -> None:
    torch.manual_seed(0)
    vae = VAE((1, 8, 8), Conv([8, 16], batch_norm=True), partial(AbsorbedGaussian, latent_dim=4), BernoulliLikelihood())
    watch = Watch(lambda vae, trainer: weights(vae))
    run(vae, ema_decay=DECAY, watchers=(watch,), max_epochs=1)
    names = [name for name in watch.seen[0] if name.endswith(("running_mean", "running_var", ".mean", ".variance"))]
    final, expected = weights(vae), averaged(watch.seen, names)
    assert len(names) > 3
    for name in names:
        torch.testing.assert_close(final[name], expected[name], rtol=1e-4, atol=1e-5)
        assert not torch.equal(final[name], watch.seen[-1][name])


class Following(Gaussian):
    """Keeps the mean of its features, and tells nobody."""

    def __init__(self, features_shape: tuple[int, ...], latent_dim: int, num_classes: int = 0) -> None:
        super().__init__(features_shape, latent_dim, num_classes)
        self.centre = nn.Buffer(torch.zeros(features_shape))

    def forward(self, features: Tensor) -> Encoding:
        if self.training:
            self.centre.lerp_(features.detach().float().mean(0), 0.1)
        return super().forward(features - self.centre)


class Telling(Following, BatchStatistics):
    statistics = ("centre",)


def test_what_moves_by_batches_and_is_claimed_by_nobody_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"bottleneck\.centre of this VAE .* set trainer\.ema_decay=null") as caught:
        run(make_vae(bottleneck=Following), ema_decay=DECAY, max_epochs=1)
    assert "\n" not in str(caught.value)
    run(make_vae(bottleneck=Following), max_epochs=1)
    vae, watch = make_vae(bottleneck=Telling), Watch(lambda vae, trainer: weights(vae))
    run(vae, ema_decay=DECAY, watchers=(watch,), max_epochs=1)
    torch.testing.assert_close(
        weights(vae)["bottleneck.centre"], averaged(watch.seen, ["bottleneck.centre"])["bottleneck.centre"]
    )
    assert not equal(weights(vae), watch.seen[-1])
