"""A restricted Boltzmann machine over bits, p(z) = exp(-F(z)) / Z (`stage2_prior.boltzmann.machine`).

The gradient of log p is that of -F at the data minus its mean under p. The latter is taken over chains that go on from
where they were while the machine moves little: persistent contrastive divergence (Tieleman, "Training Restricted
Boltzmann Machines using Approximations to the Likelihood Gradient", 2008). Bits count from their mean among training
latents, and hidden ones from a half (Melchior, Fischer & Wiskott, "How to Center Deep Boltzmann Machines", 2016): the
density is the same family, whose gradient no longer follows which of two values is called 1. With visible biases that
are the logits of those means and weights near zero it begins as `unigram`.

Z is known exactly where a side has few bits, else by annealed importance sampling after the fit; while it learns,
held-out figures take a short annealing with the same noise each time. How, and how well:
`stage2_prior.boltzmann.partition`.

Learned with a VAE, the encoder descends F(z), to which Z is a constant, and the machine ascends the likelihood of the
bits of that batch, in one step: what alternates in wake and sleep (Hinton, Dayan, Frey & Neal, "The wake-sleep
algorithm for unsupervised neural networks", 1995) is the chains that dream between batches.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.ranks import ranks_here
from stage2_prior.boltzmann.machine import Machine, draw_bits
from stage2_prior.boltzmann.partition import MOST_UNITS, anneal, exact_log_normaliser, logits_of_base
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.held_out import report
from stage2_prior.prior import Encoder, Exactness, GradientPrior, check_support
from stage2_prior.sampling import Sampling

NEARLY_ZERO = 0.01
"""Scale of the weights at the start."""
CENTRE = 0.5
"""What hidden bits count from."""
QUICK_STEPS, QUICK_CHAINS = 100, 256
"""Of the annealing while it learns."""
SEED = 0
"""Of annealing: one machine has one estimate."""


class RBM(GradientPrior):
    """Binary visible and hidden units. Samples follow `temperature`, which divides all logits.

    Args:
        num_hidden: hidden bits.
        num_chains: that follow the density through training, and that samples begin at.
        training_steps: of block Gibbs, of a chain, a step of training.
        steps: of block Gibbs, of a sample.
        anneal_steps, anneal_chains: of the estimate of Z.
        exact_units: bits of the smaller side up to which Z is a sum over all states; at most 24.

    Raises:
        PriorError: for a number out of range.
    """

    log_prob_is = Exactness.ESTIMATE
    loss_is = "loss"
    learns_jointly = True
    said_when_joined = (
        "training rates under an RBM are up to its log-normaliser and bound nothing; validation estimates it"
    )
    knobs = frozenset({"temperature"})
    offset: Tensor
    chains: Tensor
    log_normaliser: Tensor
    normaliser_error: Tensor
    normaliser_gap: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        num_hidden: int = 128,
        num_chains: int = 512,
        training_steps: int = 1,
        steps: int = 100,
        anneal_steps: int = 1000,
        anneal_chains: int = 500,
        exact_units: int = 20,
    ) -> None:
        super().__init__(spec)
        counts = {"num_hidden": num_hidden, "training_steps": training_steps, "steps": steps}
        for name, count in (counts | {"anneal_steps": anneal_steps}).items():
            if count < 1:
                raise PriorError(f"prior.{name}={count}: give at least 1")
        for name, count in {"num_chains": num_chains, "anneal_chains": anneal_chains}.items():
            if count < 2:
                raise PriorError(f"prior.{name}={count}: give at least 2")
        if not 0 <= exact_units <= MOST_UNITS:
            raise PriorError(f"prior.exact_units={exact_units}: give a number from 0 to {MOST_UNITS}")
        self.training_steps, self.steps = training_steps, steps
        self.anneal_steps, self.anneal_chains = anneal_steps, anneal_chains
        self.summed = min(spec.num_dims, num_hidden)  # bits of the smaller side
        if self.summed <= exact_units:
            self.log_prob_is = Exactness.EXACT
        self.learning = False  # in a fit, or between `join` and `settle`
        self.quick: tuple[Tensor, float] | None = None  # parameters, and log Z by a short annealing there
        self.weights = nn.Parameter(NEARLY_ZERO * torch.randn(spec.num_dims, num_hidden))
        self.visible_bias = nn.Parameter(torch.zeros(spec.num_dims))
        self.hidden_bias = nn.Parameter(torch.zeros(num_hidden))
        self.register_buffer("offset", torch.full((spec.num_dims,), CENTRE))
        self.register_buffer("chains", torch.randint(2, (num_chains, spec.num_dims)).float())
        fair = torch.tensor((spec.num_dims + num_hidden) * math.log(2), dtype=torch.float64)
        self.register_buffer("log_normaliser", fair)
        self.register_buffer("normaliser_error", torch.zeros((), dtype=torch.float64))
        self.register_buffer("normaliser_gap", torch.zeros((), dtype=torch.float64))  # of annealing back and forth

    @property
    def log_prob_error_nats(self) -> float:
        return 0.0 if self.log_prob_is is Exactness.EXACT else float(self.normaliser_error)

    @property
    def caveats(self) -> list[str]:
        drawn = (
            f"its samples take {self.steps} steps of block Gibbs from {len(self.chains)} chains that training and "
            "annealing have left: they follow its density only as far as these lead."
        )
        if self.log_prob_is is Exactness.EXACT:
            return [drawn, f"its normaliser is exact: a sum over all 2^{self.summed} states of its smaller side."]
        return [
            drawn,
            f"its densities share an estimated normaliser, by {self.anneal_chains:,} chains annealed in "
            f"{self.anneal_steps:,} steps (standard error {self.log_prob_error_nats:.2g} nats); annealed back from "
            f"where they arrived it is {float(self.normaliser_gap):+.2g} nats from that.",
        ]

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("an RBM models bits, as vae=bernoulli makes them", spec, Support.BITS)

    def machine(self) -> Machine:
        """What it is now, in bits that count from 0; float32, with the gradient of its parameters."""
        return Machine(
            self.weights,
            self.visible_bias - CENTRE * self.weights.sum(1),
            self.hidden_bias - self.offset @ self.weights,
        )

    def prepare(self, train: LatentDataset) -> None:
        """Begin as independent bits that are as frequent as in `train`, chains too."""
        ones = torch.stack([block.mean.double().sum(0) for block in train.blocks()]).sum(0)
        rates = ((ones + CENTRE) / (len(train) + 1)).float().to(self.anchor.device)
        with torch.no_grad():
            self.offset.copy_(rates)
            self.visible_bias.copy_(rates.logit())
            self.chains.copy_(draw_bits(rates.logit().expand_as(self.chains)))

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Train by gradient, then find the normaliser.

        Raises:
            PriorError: as `fit_by_gradient` does.
        """
        self.learning = True
        fitted = super().fit(train, val, run)
        self._settle()
        return report(self, train, val, run, fitted.seconds, fitted.curve, fitted.notes)

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        """Go on from where it stands, which its chains are draws of."""
        self.learning = True

    def settle(self) -> None:
        if self.learning:
            self.chains.copy_(ranks_here().broadcast(self.chains))  # those of other ranks are elsewhere
            self._settle()

    def _settle(self) -> None:
        """Find the normaliser, and leave chains that have annealed to the density."""
        self.learning, self.quick, machine = False, None, self.machine()
        generator = torch.Generator(self.chains.device).manual_seed(SEED)
        chains = machine.walk(self.chains, self.steps, generator=generator)
        back = self.log_prob_is is not Exactness.EXACT
        found = anneal(machine, logits_of_base(chains), self.anneal_steps, self.anneal_chains, SEED, back)
        log_normaliser, error, gap = found.log_normaliser, found.standard_error, found.backward - found.log_normaliser
        if self.log_prob_is is Exactness.EXACT:
            log_normaliser, error, gap = exact_log_normaliser(machine), 0.0, 0.0
        self.log_normaliser.fill_(log_normaliser)
        self.normaliser_error.fill_(error)
        self.normaliser_gap.fill_(gap)
        order = torch.arange(len(self.chains), device=self.chains.device) % len(found.chains)
        self.chains.copy_(machine.walk(found.chains[order].float(), self.steps, generator=generator))

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        if self.learning and self.training:
            return -self._loss(z, None)
        known = self._quick_log_normaliser() if self.learning else float(self.log_normaliser)
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            return -self.machine().free_energy(z.float()) - known

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        """F(z) minus its mean over the chains, which take their steps before: what has the gradient of -log p."""
        if not self.training:
            return -self._log_prob(z, None)
        with torch.autocast(z.device.type, enabled=False):
            machine = self.machine()
            chains = machine.walk(self.chains, self.training_steps)
            self.chains.copy_(chains)
            return machine.free_energy(z.float()) - machine.free_energy(chains).mean()

    def _quick_log_normaliser(self) -> float:
        """log Z, nats, of a short annealing with the same noise each time; kept while the parameters stay."""
        now = torch.cat([parameter.detach().flatten() for parameter in self.parameters()])
        if self.quick is None or not self.quick[0].equal(now):
            base = logits_of_base(self.chains)
            found = anneal(self.machine(), base, QUICK_STEPS, QUICK_CHAINS, SEED, back=False)
            self.quick = now, found.log_normaliser
        return self.quick[1]

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        begin = torch.randint(len(self.chains), (n,), device=self.chains.device)
        return self.machine().walk(self.chains[begin], self.steps, how.temperature)
