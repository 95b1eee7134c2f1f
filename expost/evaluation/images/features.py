"""Images to 64 feature vectors, in which sets of images are compared.

Distances between sets of images need features that see content and not pixels (Heusel et al., 2017, use a classifier
of photographs, which says little about digits). Here a small convolutional classifier is trained on the data set's own
labels, once, and its last hidden layer is the feature vector; a data set without labels gets the same net with fixed
random weights, which still separates noise and blur from images (Saxe et al., "On Random Weights and Unsupervised
Feature Learning", 2011), or none where an image has fewer than 64 values: those are their own features. A distance is a
figure of its net: compare only figures of the same one.

Vectors, which are no pictures, are their own features: each number in units of its deviation over the training set, and
projected onto 256 orthonormal directions where there are more; their classifier has no convolutions.

The layer is the one that the field's distances use: the last hidden activations, after their nonlinearity (Inception's
pooled features are rectified too). All 64 are divided by one number, the root of their mean variance over the training
images, so that a distance is free of how large the net happened to make its activations. Dividing each by its own would
blow up units that hardly ever fire.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_FEATURES = 64
MOST_NUMBERS = 256
"""Of a vector that is its own features; a covariance of more needs more vectors than there are."""
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 5000
MAX_BATCH_SIZE = 256
EXTRACTED_AT_ONCE = 500
FEWEST_ROWS = 64
MAX_CALIBRATION = 10_000
IMAGES_SEEN = 200_000
"""Training length in images: four epochs of MNIST; small sets get more epochs, up to `MAX_EPOCHS`."""
MAX_EPOCHS = 40
TINY_VARIANCE = 1e-12
"""Of numbers scaled to [0, 1]: a column of less never varies, and has no unit of its own."""
PEAK_LEARNING_RATE = 8e-3

Log = Callable[[Mapping[str, float], int], None]
"""Takes figures by name and the epoch that they belong to."""


@dataclass(frozen=True)
class FeatureNetConfig:
    """What rebuilds a net around its stored weights.

    Attributes:
        shape: (C, H, W) of the images.
        num_classes: of the classifier on top; 0 for random weights.
        seed: of the weights, and of the training where there was one.
        held_out_accuracy: of the classifier on training images kept aside; None without one.
        of_vectors: whether the images are vectors in one line, (1, 1, D).
    """

    shape: tuple[int, int, int]
    num_classes: int
    seed: int
    held_out_accuracy: float | None = None
    of_vectors: bool = False


class FeatureNet(nn.Module):
    """Strided convolutions down to at most 8 x 8, one hidden layer of 64 units, and a linear classifier."""

    version: ClassVar[int] = 3
    """Part of the key of what is computed with it; raised whenever its results change."""
    feature_mean: Tensor
    scale: Tensor

    def __init__(self, config: FeatureNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, height, width = config.shape
        layers: list[nn.Module] = []
        size, kernel = 16, 5
        while not config.of_vectors and (not layers or max(height, width) > 8):
            layers += [nn.Conv2d(channels, size, kernel, stride=2, padding=kernel // 2, bias=False)]
            layers += [nn.BatchNorm2d(size), nn.ReLU(inplace=True)]
            channels, height, width = size, math.ceil(height / 2), math.ceil(width / 2)
            size, kernel = min(2 * size, 64), 3
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * height * width, NUM_FEATURES)
        self.classifier = nn.Linear(NUM_FEATURES, max(config.num_classes, 1))
        num = math.prod(config.shape) if self.is_raw else NUM_FEATURES
        self.register_buffer("feature_mean", torch.zeros(num))
        self.register_buffer("scale", torch.ones(num) if config.of_vectors else torch.ones(()))

    @property
    def is_raw(self) -> bool:
        """Whether features are the values themselves: fewer than a feature vector has and no labels to learn, or those
        of vectors."""
        return self.config.of_vectors or (self.config.num_classes == 0 and math.prod(self.config.shape) < NUM_FEATURES)

    @property
    def description(self) -> str:
        """What the features are, in words that stand beside every figure made with them."""
        if self.config.of_vectors:
            num = math.prod(self.config.shape)
            words = f"the {num:,} numbers themselves, in units of their training deviations"
            return words if num <= MOST_NUMBERS else f"{words}, in {MOST_NUMBERS} directions that are always the same"
        if self.is_raw:
            return f"the {math.prod(self.config.shape)} values of the pixels themselves (small images without labels)"
        if self.config.num_classes == 0:
            return f"{NUM_FEATURES} features of fixed random convolutions (no labels; seed {self.config.seed})"
        accuracy = self.config.held_out_accuracy
        right = "" if accuracy is None else f", {100 * accuracy:.1f} % right on held-out images"
        return f"{NUM_FEATURES} features of a small classifier of the labels{right} (seed {self.config.seed})"

    def forward(self, x: Tensor) -> Tensor:
        """Images x [B, C, H, W] in [0, 1] to features [B, 64], of mean variance 1 on the training images."""
        features = (self.activations(x) - self.feature_mean) / self.scale  # [B, 64]
        if not self.config.of_vectors or features.shape[1] <= MOST_NUMBERS:
            return features
        return features @ directions(features.shape[1]).to(features)  # [B, 256]

    def activations(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.is_raw else self.hidden_activations(x)  # [B, C * H * W] or [B, 64]

    def hidden_activations(self, x: Tensor) -> Tensor:
        h = self.convolutions(x - 0.5).flatten(1)  # [B, c * h * w]
        hidden = self.hidden(h) if self.training else self.hidden(filled_up(h, FEWEST_ROWS))[: len(h)]
        return F.relu(hidden)  # [B, 64]

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(self.hidden_activations(x))  # [B, num_classes]

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        """Features of many images [N, C, H, W], in batches: [N, 64] float32 on the CPU.

        Raises:
            ValueError: when the images are not of the net's shape.
        """
        if tuple(images.shape[1:]) != tuple(self.config.shape):
            raise ValueError(f"images are {tuple(images.shape[1:])}; this feature net reads {self.config.shape}")
        device = self.feature_mean.device
        self.eval()
        parts = images.split(EXTRACTED_AT_ONCE)
        return torch.cat([self(filled_up(x.to(device, torch.float32), 2))[: len(x)].cpu() for x in parts])

    def to_config(self) -> dict[str, Any]:
        """Plain values for JSON; the weights are `state_dict()`."""
        stored = asdict(self.config)
        return stored if self.config.of_vectors else {key: stored[key] for key in stored if key != "of_vectors"}

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """The class that each of many images [N, C, H, W] is taken for: [N] int64 on the CPU."""
        device = self.feature_mean.device
        self.eval()
        blocks = images.split(EXTRACTED_AT_ONCE)
        return torch.cat([self.logits(x.to(device, torch.float32)).argmax(1).cpu() for x in blocks])

    @classmethod
    def from_config(cls, stored: Mapping[str, Any]) -> "FeatureNet":
        """The net that `to_config` described, in evaluation mode; load its `state_dict` next."""
        channels, height, width = map(int, stored["shape"])
        counts = int(stored["num_classes"]), int(stored["seed"])
        of_vectors = bool(stored.get("of_vectors", False))
        return cls(FeatureNetConfig((channels, height, width), *counts, stored["held_out_accuracy"], of_vectors)).eval()


@functools.cache
def directions(num: int) -> Tensor:
    """Orthonormal columns [num, 256], always the same."""
    drawn = torch.randn(num, MOST_NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q


def filled_up(x: Tensor, num: int) -> Tensor:
    """`x` [B, ...], and its last row again up to `num` rows.

    Products of few rows go another way through the processor and round differently: an image would look other to the
    net at the end of a set than in the middle of it, and repeats would not be seen to be repeats.
    """
    missing = num - len(x)
    return x if missing <= 0 or not len(x) else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])


def make_feature_net(
    images: Tensor,
    labels: Tensor | None,
    num_classes: int,
    seed: int,
    device: torch.device | str,
    log: Log | None = None,
    of_vectors: bool = False,
) -> FeatureNet:
    """A classifier of the labels where there are at least two classes of them, else random convolutions.

    Args:
        images: training images [N, C, H, W] in [0, 1].
        labels: int64 [N] or None.
        num_classes: labels are below it.
        seed: of weights, split and order.
        device: where to train, and where the net stays.
        log: takes the training figures of each epoch.
        of_vectors: see `FeatureNetConfig`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over a batch are rounded as threads divide them: distances would be a machine's
    try:
        if labels is None or len(torch.unique(labels)) < 2:
            _, channels, height, width = images.shape
            net = random_feature_net((channels, height, width), seed, of_vectors)
            return _calibrate(net.to(device), images)
        return train_feature_net(images, labels, num_classes, seed, device, log, of_vectors)
    finally:
        torch.set_num_threads(before)


def random_feature_net(shape: tuple[int, int, int], seed: int, of_vectors: bool = False) -> FeatureNet:
    """A net with fixed random weights for images of `shape` (C, H, W), in evaluation mode, features not yet scaled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FeatureNet(FeatureNetConfig(shape, num_classes=0, seed=seed, of_vectors=of_vectors))
        for module in net.convolutions:
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight, gain=math.sqrt(2))
        nn.init.orthogonal_(net.hidden.weight)
    return net.eval()


def train_feature_net(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    seed: int,
    device: torch.device | str,
    log: Log | None = None,
    of_vectors: bool = False,
) -> FeatureNet:
    """Train the classifier once (Adam, one learning-rate cycle, cross-entropy) and scale its features.

    Same arguments, same machine, same net; torch's global generator is left as it was. One tenth of the images is kept
    aside, only to report an accuracy on it.

    Raises:
        ValueError: when labels and images differ in number or a label is outside [0, num_classes).
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}; num_classes is {num_classes}")
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        _, channels, height, width = images.shape
        config = FeatureNetConfig((channels, height, width), num_classes, seed, of_vectors=of_vectors)
        net = FeatureNet(config).to(device)
        order = torch.randperm(len(images))
        held_out, kept = order.tensor_split([num_held_out(len(images))])
        _train(net, images, labels, kept, log)
    net.eval()
    if len(held_out):
        num_right = int((net.classify(images[held_out]) == labels[held_out]).sum())
        net.config = replace(net.config, held_out_accuracy=num_right / len(held_out))
    return _calibrate(net, images)


def num_held_out(num: int) -> int:
    """Of `num` images, how many are kept aside for the reported accuracy."""
    return min(MAX_HELD_OUT, int(HELD_OUT_SHARE * num))


def training_length(num: int) -> tuple[int, int, int]:
    """Epochs, batches an epoch and batch size for `num` images; an incomplete last batch is left out, for the
    statistics of one image are none."""
    batch_size = max(2, min(MAX_BATCH_SIZE, num // 20))
    return max(1, min(MAX_EPOCHS, IMAGES_SEEN // num)), max(1, num // batch_size), batch_size


def _train(net: FeatureNet, images: Tensor, labels: Tensor, kept: Tensor, log: Log | None) -> None:
    device = net.feature_mean.device
    num_epochs, num_batches, batch_size = training_length(len(kept))
    optimizer = torch.optim.Adam(net.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=num_epochs * num_batches, pct_start=0.2
    )
    net.train()
    for epoch in range(num_epochs):
        total = torch.zeros((), device=device)
        for index in kept[torch.randperm(len(kept))].split(batch_size)[:num_batches]:
            loss = F.cross_entropy(net.logits(images[index].to(device)), labels[index].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        if log is not None:
            log({"features/train_nll_nats": total.item() / num_batches}, epoch)


def _calibrate(net: FeatureNet, images: Tensor) -> FeatureNet:
    """Set the scale of the features from training images [N, C, H, W]."""
    net.feature_mean.zero_()
    net.scale.fill_(1.0)
    if net.config.of_vectors:
        variance, mean = torch.var_mean(images.flatten(1).double(), dim=0, correction=0)
        net.feature_mean.copy_(mean)
        net.scale.copy_(torch.where(variance > TINY_VARIANCE, variance.sqrt(), torch.ones_like(variance)))
        return net
    features = net.extract(images[:MAX_CALIBRATION]).double()  # [n, 64]
    variance, mean = torch.var_mean(features, dim=0)
    net.feature_mean.copy_(mean)
    net.scale.copy_(variance.mean().sqrt().clamp_min(1e-6))
    return net
