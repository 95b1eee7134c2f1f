"""The feature net: it learns, repeats itself, reads any shape, and leaves the global generator alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor

from expost.evaluation.distances import Reference, distances, frechet_distance
from expost.evaluation.images.features import FeatureNet, make_feature_net, random_feature_net, train_feature_net


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    source = load_digits()
    order = torch.randperm(len(source.images), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(source.images / 16).float()[order, None], torch.from_numpy(source.target)[order]


@pytest.fixture(scope="module")
def net(digits: tuple[Tensor, Tensor]) -> FeatureNet:
    images, labels = digits
    return train_feature_net(images[:1257], labels[:1257], 10, 0, "cpu")


def test_learns_the_digits_and_tells_how_well(net: FeatureNet, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    with torch.no_grad():
        accuracy = (net.logits(images[1257:]).argmax(1) == labels[1257:]).double().mean().item()
    assert accuracy > 0.95
    assert net.config.held_out_accuracy == pytest.approx(accuracy, abs=0.05)
    assert f"{100 * net.config.held_out_accuracy:.1f} %" in net.description


def test_features_are_scaled_on_the_training_images(net: FeatureNet, digits: tuple[Tensor, Tensor]) -> None:
    features = net.extract(digits[0][:1257])
    assert features.shape == (1257, 64) and features.dtype == torch.float32
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    assert features.var(0).mean().item() == pytest.approx(1.0, abs=1e-3)


def test_features_order_images_by_how_damaged_they_are(net: FeatureNet, digits: tuple[Tensor, Tensor]) -> None:
    images = digits[0]
    reference = net.extract(images[:900])
    rest = images[900:]
    noise = torch.randn(rest.shape, generator=torch.Generator().manual_seed(0))
    damaged = [(rest + amount * noise).clamp(0, 1) for amount in (0.0, 0.1, 0.3, 1.0)]
    values = [frechet_distance(reference, net.extract(x)) for x in damaged]
    assert values == sorted(values) and values[-1] > 5 * values[0]


def test_same_seed_same_net_and_the_global_generator_is_untouched(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:300], digits[1][:300]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = train_feature_net(images, labels, 10, 1, "cpu").state_dict()
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(8)
    again = train_feature_net(images, labels, 10, 1, "cpu").state_dict()
    other = train_feature_net(images, labels, 10, 2, "cpu").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hidden.weight"], other["hidden.weight"])
    torch.manual_seed(7)
    random = random_feature_net((1, 8, 8), 3)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(random.hidden.weight, random_feature_net((1, 8, 8), 3).hidden.weight)


def test_config_and_weights_rebuild_the_net(net: FeatureNet, digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    rebuilt = FeatureNet.from_config(json.loads(json.dumps(net.to_config())))
    rebuilt.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert torch.equal(rebuilt.extract(digits[0][:50]), net.extract(digits[0][:50]))
    assert rebuilt.description == net.description


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 8), (1, 5, 17), (3, 33, 20), (2, 1, 1), (3, 64, 64)])
def test_any_shape_trains_and_gives_finite_features(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    images = (torch.rand(60, *shape, generator=generator) * 0.5 + 0.5 * labels.view(-1, 1, 1, 1)).float()
    net = train_feature_net(images, labels, 2, 0, "cpu")
    assert net.config.held_out_accuracy == 1.0
    assert torch.isfinite(net.extract(images)).all()
    assert torch.isfinite(random_feature_net(shape, 0).extract(images)).all()


@pytest.mark.parametrize("labels", [None, torch.zeros(1257, dtype=torch.int64)])
def test_without_classes_the_features_are_random_and_say_so(
    digits: tuple[Tensor, Tensor], labels: Tensor | None
) -> None:
    images = digits[0][:1257]
    net = make_feature_net(images, labels, 1, 5, "cpu")
    assert "random" in net.description and "5" in net.description and net.config.num_classes == 0
    features = net.extract(images)
    assert features.var(0).mean().item() == pytest.approx(1.0, abs=1e-3)
    test = Reference.of(net.extract(digits[0][1257:]))
    noise = torch.rand(600, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    real, fake = distances(test, features), distances(test, net.extract(noise))
    assert fake.frechet_distance > 5 * real.frechet_distance and fake.precision < real.precision


def test_wrong_input_is_refused(net: FeatureNet, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:100], digits[1][:100]
    with pytest.raises(ValueError, match=r"\(1, 9, 9\).*\(1, 8, 8\)"):
        net.extract(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ValueError, match="99 labels for 100"):
        train_feature_net(images, labels[:99], 10, 0, "cpu")
    with pytest.raises(ValueError, match="num_classes is 5"):
        train_feature_net(images, labels, 5, 0, "cpu")


def test_training_reports_each_epoch(digits: tuple[Tensor, Tensor]) -> None:
    losses: list[tuple[float, int]] = []
    images, labels = digits[0][:400], digits[1][:400]
    train_feature_net(images, labels, 10, 0, "cpu", lambda f, e: losses.append((f["features/train_nll_nats"], e)))
    assert [epoch for _, epoch in losses] == list(range(len(losses)))
    assert losses[-1][0] < 0.2 * losses[0][0]


def test_an_image_has_the_same_features_however_many_come_with_it() -> None:
    """Else repeats of one image at the end of a set would not be repeats."""
    net = random_feature_net((1, 12, 12), seed=0)
    images = torch.rand(1, 1, 12, 12).expand(600, -1, -1, -1)
    whole = net.extract(images)
    assert len(torch.unique(whole, dim=0)) == 1
    for num in (1, 2, 3, 5, 17, 501, 502):
        assert torch.equal(net.extract(images[:num]), whole[:num]), num
