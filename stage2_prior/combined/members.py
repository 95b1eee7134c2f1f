"""Priors that are made of whole other ones, each fitted to the same latents by itself, as it would be alone."""

from abc import ABC
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import nn

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.ranks import ALONE
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.in_turn import FitsInTurn
from stage2_prior.prior import Exactness, Prior


class Combined(Prior, ABC):
    """Args:
        members: unfitted; with `conditional` each of them knows the classes.
        conditional: whether labels are given.

    Raises:
        PriorError: there are none, one whose density is an estimate or none, or labels that are not there.
    """

    takes_labels: ClassVar[bool] = True
    prior_keys: ClassVar[tuple[str, ...]] = ("members",)

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
        self.min_images = max(member.min_images for member in members)
        self.min_images_a_class = max(member.min_images_a_class for member in members)
        self.needs_widths = any(member.needs_widths for member in members)

    @property
    def parts(self) -> list[Prior]:
        return [member for member in self.members if isinstance(member, Prior)]

    @property
    def titles(self) -> list[str]:
        """What to call the members."""
        return [title(member) for member in self.parts]

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return None  # its members are asked

    def check_family(self, family: str) -> None:
        """As for any prior: its members are asked."""
        for member in self.parts:
            member.check_family(family)

    def _fit_members(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> list[FitReport]:
        """Every member fitted, or found fitted, and what its fit reported."""
        if run.fitted_member is not None:
            return [run.fitted_member(member, place) for place, member in enumerate(self.parts)]
        states = FitsInTurn(run, len(self.parts))
        for place, member in enumerate(self.parts):
            if not states.restore(place, member):
                states.finish(place, member, fit_alone(member, train, val, states.fit_of(place)))
        return states.reports


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
