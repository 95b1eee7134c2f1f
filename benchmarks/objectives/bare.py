"""The mathematics of each objective of stage 1, written out for the reference net 784-512-(16)-512-784."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

PIXELS, HIDDEN, DIMS = 784, 512, 16
LOG_2PI = math.log(2 * math.pi)
Loss = Callable[["Bare", Tensor], Tensor]


class Bare:
    """Layers of the reference net, as functions."""

    def __init__(self) -> None:
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * DIMS))
        self.decoder = nn.Sequential(nn.Linear(DIMS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
        self.extra: list[nn.Parameter] = []
        self.is_normed = False

    def parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.decoder.parameters(), *self.extra]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_std = self.encoder(x).chunk(2, 1)
        return loc, log_std.clamp(-8, 5)

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loc, log_std = self.encode(x)
        return loc, log_std, loc + log_std.exp() * torch.randn_like(loc)


def distortion(net: Bare, z: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(net.decoder(z), x.expand(*z.shape[:-1], -1), reduction="none").sum(-1)


def kl(loc: Tensor, log_std: Tensor) -> Tensor:
    return (0.5 * (loc.square() + torch.exp(2 * log_std) - 1) - log_std).sum(1)


def log_normal(z: Tensor, loc: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * (((z - loc) * torch.exp(-log_std)).square() + LOG_2PI) - log_std).sum(-1)


def elbo(net: Bare, x: Tensor) -> Tensor:
    loc, log_std, z = net.draw(x)
    return (distortion(net, z, x) + kl(loc, log_std)).mean()


def bounds(net: Bare, x: Tensor, num: int, of: int, doubly: bool = False) -> Tensor:
    """Importance-weighted bounds, `num` of them an image, of so many draws each."""
    loc, log_std = net.encode(x)
    z = loc + log_std.exp() * torch.randn(num * of, *loc.shape)
    fixed = (loc.detach(), log_std.detach()) if doubly else (loc, log_std)
    zero = torch.zeros(())
    weights = log_normal(z, zero, zero) - distortion(net, z, x) - log_normal(z, *fixed)  # [M K, B]
    weights = weights.view(num, of, -1)
    if doubly:
        share = weights.detach().softmax(1).view(num * of, -1, 1)
        z.register_hook(lambda gradient: gradient * share)
    return (math.log(of) - weights.logsumexp(1)).mean()


def tc(net: Bare, x: Tensor) -> Tensor:
    loc, log_std, z = net.draw(x)
    per_dim = -0.5 * (((z[:, None] - loc) * torch.exp(-log_std)).square() + LOG_2PI) - log_std
    log_num = math.log(len(z))
    joint, marginals = per_dim.sum(2).logsumexp(1) - log_num, (per_dim.logsumexp(1) - log_num).sum(1)
    return (distortion(net, z, x) + kl(loc, log_std)).mean() + 5 * (joint - marginals).mean()


def mmd(a: Tensor, b: Tensor) -> Tensor:
    both, num = torch.cat([a, b]), len(a)
    squares = both.square().sum(1)
    distance = (squares[:, None] + squares - 2 * both @ both.T).clamp_min(0)
    widths = 2 * DIMS * torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0])
    kernel = (widths / (widths + distance[:, :, None])).mean(2)
    within = kernel[:num, :num].sum() + kernel[num:, num:].sum() - kernel.diagonal().sum()
    return within / (num * (num - 1)) - 2 * kernel[:num, num:].mean()


def wae(net: Bare, x: Tensor) -> Tensor:
    loc, log_std, z = net.draw(x)
    with torch.no_grad():
        kl(loc, log_std)  # which a history shows
    return distortion(net, z, x).mean() + 300 * mmd(z, torch.randn_like(z))


def infovae(net: Bare, x: Tensor) -> Tensor:
    loc, log_std, z = net.draw(x)
    return (distortion(net, z, x) + 0.5 * kl(loc, log_std)).mean() + 299.5 * mmd(z, torch.randn_like(z))


def rae(net: Bare, x: Tensor, regulariser: str) -> Tensor:
    z = net.encode(x)[0]
    raw = net.decoder(z)
    loss = F.binary_cross_entropy_with_logits(raw, x, reduction="none").sum(1) + 0.005 * z.square().sum(1)
    if regulariser == "gradient_penalty":
        (gradient,) = torch.autograd.grad(raw, z, torch.randn_like(raw), create_graph=True)
        return loss.mean() + 1e-4 * gradient.square().sum() / len(z)
    if regulariser == "spectral_norm" and not net.is_normed:
        spectral_norm(net.decoder[0])
        net.is_normed = True
        return rae(net, x, regulariser)
    if regulariser == "spectral_norm":
        return loss.mean()
    return loss.mean() + 1e-4 * torch.stack([layer.weight.square().sum() for layer in net.decoder[::2]]).sum()


def mixture(net: Bare, x: Tensor) -> Tensor:
    """Ten diagonal Gaussians whose numbers are parameters, in float64."""
    if not net.extra:
        net.extra = [nn.Parameter(torch.zeros(10)), *(nn.Parameter(torch.randn(10, DIMS)) for _ in range(2))]
    logits, means, log_stds = (part.double() for part in net.extra)
    return against(net, x, logits, means, log_stds)


def vamp(net: Bare, x: Tensor) -> Tensor:
    """The posteriors of five hundred images that are parameters, in float64."""
    if not net.extra:
        net.extra = [nn.Parameter(torch.zeros(500)), nn.Parameter(torch.rand(500, PIXELS))]
    loc, log_std = net.encode(net.extra[1].clamp(0, 1))
    return against(net, x, net.extra[0].double(), loc.double(), log_std.double())


def against(net: Bare, x: Tensor, logits: Tensor, means: Tensor, log_stds: Tensor) -> Tensor:
    """The bound where the prior is a mixture, of one draw."""
    loc, log_std, z = net.draw(x)
    precision, points = torch.exp(-2 * log_stds), z.double()
    quadratic = points.square() @ precision.T - 2 * points @ (means * precision).T + (means.square() * precision).sum(1)
    log_prior = (logits.log_softmax(0) - log_stds.sum(1) - 0.5 * (quadratic + DIMS * LOG_2PI)).logsumexp(1)
    return (distortion(net, z, x) + log_normal(z, loc, log_std) - log_prior).mean()


LOSSES: dict[str, tuple[str, dict[str, Any], Loss]] = {
    "gaussian": ("gaussian", {}, elbo),
    "iwae, 5 draws": ("iwae", {}, lambda net, x: bounds(net, x, 1, 5)),
    "iwae, 5 draws, doubly reparameterised": (
        "iwae",
        {"doubly_reparameterised": True},
        lambda net, x: bounds(net, x, 1, 5, doubly=True),
    ),
    "miwae, 2 bounds of 5": ("iwae", {"num_bounds": 2}, lambda net, x: bounds(net, x, 2, 5)),
    "tc": ("tc", {}, tc),
    "infovae": ("infovae", {}, infovae),
    "wae": ("wae", {}, wae),
    "rae, gradient penalty": ("rae", {}, lambda net, x: rae(net, x, "gradient_penalty")),
    "rae, l2": ("rae", {"regulariser": "l2"}, lambda net, x: rae(net, x, "l2")),
    "rae, spectral norm": ("rae", {"regulariser": "spectral_norm"}, lambda net, x: rae(net, x, "spectral_norm")),
    "gmvae, 10 components": ("gmvae", {}, mixture),
    "vamp, 500 pseudo-inputs": ("vamp", {}, vamp),
}
"""What it is called -> the VAE of conf/vae, what of its objective is changed, and the bare loss."""
