"""Do two samples come from one density? Two tests that need no density at all.

Classifier two-sample test (Lopez-Paz & Oquab, "Revisiting Classifier Two-Sample Tests", 2017, section 3): a classifier
learns to tell samples of p from samples of q on one part of them; its accuracy on the part it never saw is 50 % in the
mean exactly when p = q, with the binomial standard error sqrt(0.25 / n) there, and rises with whatever difference it
finds. Here: a small net on standardised z, their squares and, up to 32 dimensions, their products, so that
differences of means, spreads and correlations are linear in what it sees, and on the distances to the nearest samples
of both sets, so that it sees narrow peaks; stopped at its best cross-entropy on samples set aside, so that two equal
densities are not over-fitted.

Maximum mean discrepancy (Gretton, Borgwardt, Rasch, Schoelkopf & Smola, "A Kernel Two-Sample Test", 2012, lemma 6): the
unbiased estimate of |E k(x, .) - E k(y, .)|^2, zero exactly when p = q. k is the mean of five Gaussian kernels whose
bandwidths are 1/2 to 2 times the median distance between samples in steps of sqrt(2) (the median heuristic, widened).
Unbiased, so it may fall below zero. Its standard error comes from the same kernel sums: it is a U-statistic with
h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i), whose variance is
(4 (n - 2) Var_i E_j h + 2 Var h) / (n (n - 1)) (Serfling, "Approximation Theorems of Mathematical Statistics", 1980,
section 5.2.1).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expost.evaluation.errors import EvaluationError

MAX_PRODUCT_DIMS = 32
"""Up to this dimension all products of two dimensions are features: 496 of them."""
MIN_SAMPLES = 50
HIDDEN = 128
BATCH_SIZE = 256
MAX_EPOCHS = 40
PATIENCE = 4
CLIP = 6.0
"""Standardised features beyond this are brought nearer: one stray sample must not blow the net up."""
LEARNING_RATE = 1e-3
NEIGHBOURS = (0, 1, 3, 7, 15)
"""Ranks of the neighbours whose distances are features; 0 is the nearest."""
MEDIAN_SAMPLES = 1000
BLOCK = 512

Pair = tuple[Tensor, Tensor]
"""Samples of one density and of the other."""


@dataclass(frozen=True)
class Accuracy:
    """A classifier's share of right answers on samples that it never saw, and its error where both sets are alike."""

    percent: float
    standard_error_percent: float
    num_held_out: int


@dataclass(frozen=True)
class Discrepancy:
    """Unbiased squared maximum mean discrepancy of `num_samples` of each set; kernel values are at most 1, and the
    median distance between samples set their bandwidths."""

    squared: float
    standard_error: float
    median_distance: float
    num_samples: int


def classifier_two_sample(a: Tensor, b: Tensor, seed: int = 0) -> Accuracy:
    """Train a classifier to tell a [n, *latent] from b [m, *latent]; its accuracy on a third that it never saw.

    Equally many of both are used, at random.

    Raises:
        EvaluationError: fewer than 50 of one, or NaN or infinity among them.
    """
    a, b = _equally_many(a, b, seed)
    num_fitted = len(a) - len(a) // 3
    return _accuracy((a[:num_fitted], b[:num_fitted]), (a[num_fitted:], b[num_fitted:]), None, seed)


def classifier_of_known(train: Pair, judge: Pair, reference: Pair, seed: int = 0) -> Accuracy:
    """The same between two densities that can be drawn from at will, each set [n, *latent] a draw of its own.

    For q(z), an average over finitely many images, the three sets may be fresh draws for the same images: then the
    classifier is asked about that very mixture, peak by peak, and not about what other images would add to it.

    Raises:
        EvaluationError: fewer than 50 in a set, or NaN or infinity among them.
    """
    pairs = [_equally_many(*pair, seed) for pair in (train, judge, reference)]
    return _accuracy(pairs[0], pairs[1], pairs[2], seed)


def _accuracy(train: Pair, judge: Pair, reference: Pair | None, seed: int) -> Accuracy:
    """Held-out accuracy on `judge`; without a `reference`, neighbours are looked up among the training samples."""
    device = train[0].device
    z = torch.cat(train)
    centre, scale = z.mean(0), z.std(0).clamp_min(1e-6)
    z, z_judge = (z - centre) / scale, (torch.cat(judge) - centre) / scale
    near = z if reference is None else (torch.cat(reference) - centre) / scale
    x, x_judge = _features(z, near, skip=int(reference is None)), _features(z_judge, near, skip=0)
    centre, scale = x.mean(0), x.std(0).clamp_min(1e-6)
    x, x_judge = (((values - centre) / scale).clamp_(-CLIP, CLIP) for values in (x, x_judge))
    y, y_judge = (torch.arange(2, device=device).repeat_interleave(len(pair[0])).float() for pair in (train, judge))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        net = _train(x, y)
    with torch.no_grad():
        right = (net(x_judge).squeeze(1) > 0) == (y_judge > 0.5)
    return Accuracy(100 * right.double().mean().item(), 100 * math.sqrt(0.25 / len(right)), len(right))


def _equally_many(a: Tensor, b: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Random rows of both, flattened, in float32: as many as the smaller set has.

    Sets of one size are put in one order: two draws for each of the same images, row by row, stay side by side, and no
    image is learned from one and judged in the other.

    Raises:
        EvaluationError: too few, or not finite.
    """
    num = min(len(a), len(b))
    if num < MIN_SAMPLES:
        raise EvaluationError(f"{num} latents are too few for a two-sample test: at least {MIN_SAMPLES} of each")
    both = []
    for values in (a, b):
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        rows = order[:num].to(values.device)
        both.append(values[rows].flatten(1).float())
        if not torch.isfinite(both[-1]).all():
            raise EvaluationError("the latents or the prior's samples hold NaN or infinity: one of them diverged")
    return both[0], both[1].to(both[0].device)


def _features(z: Tensor, near: Tensor, skip: int) -> Tensor:
    """What the net sees of z [n, D]: [n, F].

    z, its squares and, where D is small, its products of two; then logarithms of the distances to its k-th nearest
    neighbours in `near` [m, D], the `skip` nearest left out: 1 where z is `near` itself, since no sample is its own
    neighbour. `near` holds both sets together and not which is which: a sample's own set lacks the sample itself, and
    where both sets hold one draw an image, that alone would tell them apart.
    """
    if z.shape[1] <= MAX_PRODUCT_DIMS:
        i, j = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
        products = z[:, i] * z[:, j]
    else:
        products = z.square()
    ranks = [rank + skip for rank in NEIGHBOURS]
    nearest = [torch.cdist(rows, near).topk(ranks[-1] + 1, largest=False).values[:, ranks] for rows in z.split(BLOCK)]
    return torch.cat([z, products, torch.cat(nearest).clamp_min(1e-6).log()], dim=1)


def _train(x: Tensor, y: Tensor) -> nn.Module:
    """A net for `x` [n, F], `y` [n] in {0, 1}: trained on most of it, stopped at its best on the rest."""
    order = torch.randperm(len(x), device=x.device)
    rest, most = order.tensor_split([len(x) // 5])
    net = nn.Sequential(
        nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
    ).to(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    loss = nn.BCEWithLogitsLoss()
    best, waited = math.inf, 0
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(MAX_EPOCHS):
        for rows in most[torch.randperm(len(most), device=x.device)].split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(net(x[rows]).squeeze(1), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            held_out = loss(net(x[rest]).squeeze(1), y[rest]).item()
        if held_out < best:
            best, waited = held_out, 0
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        else:
            waited += 1
            if waited == PATIENCE:
                break
    net.load_state_dict(kept)
    return net


@torch.no_grad()
def maximum_mean_discrepancy(a: Tensor, b: Tensor, seed: int = 0) -> Discrepancy:
    """Unbiased squared MMD between a [n, *latent] and b [m, *latent], equally many of both.

    Raises:
        EvaluationError: fewer than 50 of one, or NaN or infinity among them.
    """
    a, b = _equally_many(a, b, seed)
    num = len(a)
    median = torch.pdist(torch.cat([a[:MEDIAN_SAMPLES], b[:MEDIAN_SAMPLES]])).median().clamp_min(1e-12)
    centre = torch.cat([a, b]).mean(0)
    a, b = ((values - centre) / median for values in (a, b))  # the median distance is 1 from here on
    row_sums = a.new_zeros(num, dtype=torch.float64)
    square_sum = 0.0
    for start in range(0, num, BLOCK):
        rows = slice(start, start + BLOCK)
        # Symmetry would save half of it, and cost the reader more.
        h = _kernel(a[rows], a).add_(_kernel(b[rows], b)).sub_(_kernel(a[rows], b)).sub_(_kernel(b[rows], a))
        diagonal = torch.arange(len(h), device=h.device)
        h[diagonal, start + diagonal] = 0  # no pair of a sample with itself: unbiased
        row_sums[rows] = h.sum(1, dtype=torch.float64)
        square_sum += h.square().sum(dtype=torch.float64).item()
    pairs = num * (num - 1)
    squared = row_sums.sum().item() / pairs
    of_rows = (row_sums / (num - 1)).var().item()
    of_pairs = max(0.0, square_sum / pairs - squared**2)
    # The variance of row means holds Var h / n of noise from the finite rows, which is no variance of E_j h.
    between = max(0.0, of_rows - of_pairs / (num - 1))
    error = math.sqrt((4 * (num - 2) * between + 2 * of_pairs) / pairs)
    return Discrepancy(squared, error, median.item(), num)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean of exp(-d^2 / (2 s^2)) over s^2 = 4, 2, 1, 1/2, 1/4 for squared distances d^2 [n, m]."""
    squared = a.square().sum(1, keepdim=True) + b.square().sum(1)
    # Below exp(-5) next to nothing is added to a sum of kernel values; its fourth power squared stays a normal float32.
    widest = squared.addmm_(a, b.T, alpha=-2).clamp_(min=0).mul_(-0.125).clamp_(min=-5).exp_()
    total, power = widest.clone(), widest
    for _ in range(4):
        power = power.square_()
        total += power
    return total.div_(5)
