"""Priors that are made of whole other ones, each fitted to the same latents by itself, as it would be alone.

What they are together is a mixture, p(z) = sum_k w_k p_k(z), of which a member of weight 0 takes no time. Members that
know classes know the same shares of them, so p(z|y) = sum_k w_k p_k(z|y) has the same weights.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.ranks import ALONE
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.prior import Exactness, Prior
from stage2_prior.sampling import Sampling


class Combined(Prior, ABC):
    """Densities are added in float64; before the fit all weights are equal. Samples follow the knobs of `Sampling` that
    all members of some weight follow.

    Args:
        members: unfitted; with `conditional` each of them knows the classes.
        conditional: whether labels are given.

    Raises:
        PriorError: there are none, one whose density is an estimate or none, or labels that are not there.
    """

    takes_labels: ClassVar[bool] = True
    prior_keys: ClassVar[tuple[str, ...]] = ("members",)
    skips_members: ClassVar[bool] = False
    """Whether members that cannot model the latents are left out; else they are refused."""
    log_weights: Tensor

    def __init__(self, spec: LatentSpec, members: Sequence[Prior], conditional: bool) -> None:
        super().__init__(spec)
        if not members:
            raise PriorError("prior.members is empty: name at least one, such as prior.members=[mixture]")
        for member in members:
            if member.log_prob_is in (Exactness.ESTIMATE, Exactness.NONE):
                what = "is an estimate" if member.log_prob_is is Exactness.ESTIMATE else "is not known"
                raise PriorError(
                    f"prior.members: the density of {title(member)} {what}, so that nothing could be weighed or chosen "
                    "by it; leave it out"
                )
            if conditional and not member.num_classes:
                raise PriorError(f"prior.members: {title(member)} knows no classes; set prior.conditional=false")
        self.members = nn.ModuleList(members)
        self.num_classes = spec.num_classes if conditional else 0
        self.needs_encoder = any(member.needs_encoder for member in members)
        equal = torch.full((len(members),), 1.0 / len(members), dtype=torch.float64)
        self.register_buffer("log_weights", equal.log())  # [members]

    @property
    def parts(self) -> list[Prior]:
        """All members."""
        return [member for member in self.members if isinstance(member, Prior)]

    @property
    def titles(self) -> list[str]:
        """What to call the members."""
        return [title(member) for member in self.parts]

    @property
    def weighed(self) -> list[tuple[int, Prior]]:
        """The members of some weight, each with its place."""
        if self.log_weights.is_meta:
            return list(enumerate(self.parts))
        return [(place, self.parts[place]) for place in self.log_weights.isfinite().nonzero().flatten().tolist()]

    @property
    def log_prob_is(self) -> Exactness:
        exact = all(member.log_prob_is is Exactness.EXACT for _, member in self.weighed)
        return Exactness.EXACT if exact else Exactness.LOWER_BOUND

    @property
    def num_parameters(self) -> int:
        return sum(member.num_parameters for _, member in self.weighed) + len(self.weighed) - 1

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return None  # its members are asked

    def _log_probs(self, z: Tensor, context: Tensor | None) -> Tensor:
        """[B, *shape] -> [B, members of some weight] nats, float64."""
        return torch.stack([member.log_prob(z, context).double() for _, member in self.weighed], 1)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        places = [place for place, _ in self.weighed]
        return torch.logsumexp(self.log_weights[places] + self._log_probs(z, context), 1).float()

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        device = self.anchor.device
        if n == 0:
            return self.weighed[0][1].sample(0, context, how)
        chosen = torch.multinomial(self.log_weights.exp(), n, replacement=True)
        labels = None if context is None else context.to(device)
        drawn, rows = [], []
        for place, member in self.weighed:
            if len(own := (chosen == place).nonzero().squeeze(1)):
                drawn.append(member.sample(len(own), None if labels is None else labels[own], how))
                rows.append(own)
        return torch.cat(drawn)[torch.cat(rows).argsort()]


def fit_alone(member: Prior, train: LatentDataset, val: LatentDataset, lent: FitRun) -> FitReport:
    """Fit a member with its own settings.

    Raises:
        PriorError: what it raises itself, with its title.
    """
    ranks = lent.ranks if member.fits_in_ranks else ALONE
    try:
        return member.fit(train, val, replace(lent, settings=member.fit_settings, ranks=ranks))
    except PriorError as error:
        raise PriorError(f"{title(member)}: {error}") from error


def title(member: Prior) -> str:
    """What to call a member: as its section does, else its class."""
    return member.title or type(member).__name__
