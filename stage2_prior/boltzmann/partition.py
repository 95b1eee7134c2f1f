"""The normaliser of a restricted Boltzmann machine, log Z = log sum_v exp(-F(v)) in nats.

Exactly, where a side has few bits: the other one sums out, so that 2^n terms remain, n of the smaller side.

Otherwise by annealed importance sampling (Neal, "Annealed importance sampling", 2001; Salakhutdinov & Murray, "On the
Quantitative Analysis of Deep Belief Networks", 2008, section 4.1). Chains begin at independent bits with the logits a,
whose normaliser is known, and pass through

    p*_t(v) = exp((1 - t) a v + t b v) prod_j (1 + exp(t (c_j + (v W)_j))),   t from 0 to 1,

a step of block Gibbs at each t. A chain's weight w is the product of p*_t'(v) / p*_t(v) at the moves of t; its mean is
Z / Z_0 without bias, so that log mean w is below log Z - log Z_0 in expectation. By the delta method its standard error
is sqrt((1 / s - 1) / M), with s = (mean w)^2 / mean w^2 the share of M chains that counts.

That error knows nothing of places that no chain has found. So chains also go back from draws of the machine to the
base, which estimates Z_0 / Z (Grosse, Ancha & Roy, "Measuring the reliability of MCMC inference with bidirectional
Monte Carlo", 2016): were the draws exact, -log mean w of those would be above log Z in expectation. They are the chains
that have arrived, drawn by weight, so the distance between both is what annealing can be seen to be off by.

All in float64: weights are sums of thousands of small differences of hundreds of nats.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from stage2_prior.boltzmann.machine import Machine, draw_bits

MOST_UNITS = 24
"""Bits of the smaller side of which all states can be summed: a minute or two."""
BLOCK_ELEMENTS = 2**22
SHARPEST = 1e-3
"""Probability that bits of the base are kept from 0 and 1."""


@dataclass(frozen=True)
class Annealed:
    """Attributes:
    log_normaliser: log Z, nats.
    standard_error: of it, by the delta method.
    counting: chains that their weights are worth.
    backward: log Z by chains that go back; NaN: none did.
    chains: [n, V] float64, draws of the machine, as far as annealing is right.
    """

    log_normaliser: float
    standard_error: float
    counting: float
    backward: float
    chains: Tensor


@torch.no_grad()
def exact_log_normaliser(machine: Machine) -> float:
    """log Z by a sum over all states of the smaller side, nats.

    Raises:
        ValueError: more than `MOST_UNITS` bits there.
    """
    num_visible, num_hidden = machine.weights.shape
    machine = machine.double() if num_visible <= num_hidden else machine.double().transposed()
    num, other = machine.weights.shape
    if num > MOST_UNITS:
        raise ValueError(f"2^{num} states are too many to sum")
    places, rows = torch.arange(num, device=machine.weights.device), max(1, BLOCK_ELEMENTS // (num + other))
    totals = []
    for start in range(0, 2**num, rows):
        numbers = torch.arange(start, min(start + rows, 2**num), device=places.device)
        states = ((numbers[:, None] >> places) & 1).double()  # [rows, n]
        totals.append(torch.logsumexp(-machine.free_energy(states), 0))
    return float(torch.logsumexp(torch.stack(totals), 0))


def logits_of_base(chains: Tensor) -> Tensor:
    """Logits a [V], float64, of independent bits as frequent as in `chains` [n, V]."""
    rates = (chains.double().sum(0) + 0.5) / (len(chains) + 1)
    return rates.clamp(SHARPEST, 1 - SHARPEST).logit()


@torch.no_grad()
def anneal(machine: Machine, base: Tensor, steps: int, num_chains: int, seed: int, back: bool = True) -> Annealed:
    """Estimate log Z from independent bits of the logits `base` [V]; neither reads nor moves torch's global generator.

    Args:
        machine: on any device.
        base: a.
        steps: moves of t.
        num_chains: M.
        seed: of everything random.
        back: whether chains go back too, for twice the time.
    """
    machine, base = machine.double(), base.double()
    generator = torch.Generator(base.device).manual_seed(seed)
    num_hidden = machine.weights.shape[1]
    log_base = float(F.softplus(base).sum()) + num_hidden * math.log(2)  # log Z_0: at t = 0 hidden bits are fair
    levels = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
    begin = draw_bits(base.expand(num_chains, -1), generator=generator)
    arrived, log_weights = _move(machine, base, begin, levels, generator)
    log_mean, error, counting = log_mean_weight(log_weights)
    chosen = torch.multinomial(log_weights.softmax(0), num_chains, replacement=True, generator=generator)
    chains, backward = arrived[chosen], math.nan
    if back:
        _, log_weights = _move(machine, base, chains, levels[::-1], generator)
        backward = log_base - log_mean_weight(log_weights)[0]
    return Annealed(log_base + log_mean, error, counting, backward, chains)


def _move(
    machine: Machine, base: Tensor, v: Tensor, levels: list[float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Chains at v [M, V], draws at the first of the `levels` of t, and their log-weights [M] after the last one."""
    log_weights, tilt = v.new_zeros(len(v)), machine.visible_bias - base
    fields = machine.hidden_logits(v)  # [M, H]
    for before, t in pairwise(levels):
        log_weights += (t - before) * (v @ tilt) + (F.softplus(t * fields) - F.softplus(before * fields)).sum(1)
        h = draw_bits(t * fields, generator=generator)
        v = draw_bits((1 - t) * base + t * machine.visible_logits(h), generator=generator)
        fields = machine.hidden_logits(v)
    return v, log_weights


def log_mean_weight(log_weights: Tensor) -> tuple[float, float, float]:
    """log of the mean of weights [M], its standard error by the delta method, and how many of them count."""
    num, total = len(log_weights), torch.logsumexp(log_weights, 0)
    counting = float(torch.exp(2 * total - torch.logsumexp(2 * log_weights, 0)))
    return float(total) - math.log(num), math.sqrt(max(0.0, 1 / counting - 1 / num)), counting
