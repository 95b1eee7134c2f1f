"""Every fitted prior is held against the one Gaussian that has the moments of the latents, on the same held-out draws.

The Gaussian is there in closed form, so that the comparison costs next to nothing; a prior that loses to it has not
been fitted well enough to be worth its parameters, whatever its family.
"""

import math
from dataclasses import replace

import torch

from expost.config.schema import Node
from expost.parts.assembly import LatentParts, Parts
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.rows import spread_rows
from stage2_prior.combined.members import Combined, title
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.held_out import affordable, is_large
from stage2_prior.prior import Exactness, GradientPrior, Prior, innermost
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.defensive import Defensive
from stage2_prior.wrappers.flatten import Flattened
from stage2_prior.wrappers.per_class import PerClass

MOST_DIMS = 512
"""Beyond it the covariance is no longer next to nothing."""
MOST_ROWS, ROWS_AT_ONCE = 2000, 500
"""Held-out latents, one draw each."""
LEAST_NATS, NOISE = 0.01, 2.0
"""What a prior has to lose by, and by how many standard errors, to be told of."""
MOSTLY = 0.5
"""Weight of the Gaussian behind a prior with which that has to be told."""

LENGTHS = {"prior.fit.max_epochs": "fit", "prior.seconds": "seconds"}
"""Keys that let a network learn for longer, and the key of its node without which there is none."""


@torch.no_grad()
def hold_against_gaussian(
    report: FitReport, parts: Parts, node: Node, train: LatentDataset, val: LatentDataset, run: FitRun
) -> FitReport:
    """`report` of the fit of `parts.prior`, with what it gains over the Gaussian, and a note where it loses.

    As it is where there is no such Gaussian (codes, bits, spheres, boxes, very many dimensions), where the prior is
    that, or is not fitted, or has no density.
    """
    report = replace(report, notes=[*report.notes, *words_of_behind(parts.prior, node)])
    gaussian = gaussian_beside(parts)
    if gaussian is None or parts.prior.log_prob_is is Exactness.NONE:
        return report
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(run.seed)
        if any("singular" in note for note in gaussian.fit(train, val, run).notes):
            return report  # its density is as high as what made it regular
        z = val.draw(spread_rows(len(val), affordable(min(MOST_ROWS, len(val)), parts.prior)))
        both = [
            torch.cat([prior.log_prob(block.to(run.device)).double() for block in z.split(ROWS_AT_ONCE)])
            for prior in (parts.prior.to(run.device), gaussian.to(run.device))
        ]
    difference = both[0] - both[1]
    notes = list(report.notes)
    if num_none := int((both[0].isneginf() & both[1].isfinite()).sum()):
        notes.append(
            f"it gives {num_none:,} of {len(z):,} held-out latents no probability, and prior=gaussian does; "
            f"{remedy_of_losing(parts.prior, node)}"
        )
    difference = difference[difference.isfinite()]  # both are 0 off what never varies
    if len(difference) < 2:
        return replace(report, notes=notes)
    gain, error = difference.mean().item(), difference.std().item() / math.sqrt(len(difference))
    over = {"gain_nats": gain, "error_nats": error, "num": len(difference)}
    if loses(over):
        notes.append(
            f"it loses to prior=gaussian, by {-gain:.2f} ± {error:.2f} nats a held-out latent, of {len(difference):,}"
            f"{'' if is_beyond_noise(over) else ', most of it by a few that it gives next to no probability'}; "
            f"{remedy_of_losing(parts.prior, node)}"
        )
    return replace(report, over_gaussian=over, notes=notes)


def words_of_behind(prior: Prior, node: Node) -> list[str]:
    """That a prior, or one that it weighs, is mostly the Gaussian which stands behind it, and what to do."""
    inner = innermost(prior)
    if isinstance(inner, Combined):
        parts = [(f"{title(member)}: ", member) for _, member in inner.weighed]
    else:
        parts = [("", prior)]
    said = []
    for name, part in parts:
        shares = [module.share_behind for module in part.modules() if isinstance(module, Defensive)]
        if shares and (share := max(shares)) >= MOSTLY:
            remedy = remedy_of_losing(part, node)
            said.append(f"{name}{100 * share:.0f} % of it is the Gaussian that stands behind it; {remedy}")
    return said


def loses(over: dict[str, float]) -> bool:
    """Whether a prior with that gain over the Gaussian is behind it beyond noise, or by a few latents to which it gives
    next to no probability."""
    return is_beyond_noise(over) or is_large(-over["gain_nats"], over["error_nats"])


def is_beyond_noise(over: dict[str, float]) -> bool:
    """Whether it is behind by what many latents tell."""
    return over["gain_nats"] < -max(LEAST_NATS, NOISE * over["error_nats"])


def gaussian_beside(parts: Parts) -> Prior | None:
    """The Gaussian of these latents, unfitted, on what varies of them; None where there is none, or it is the prior."""
    inner = innermost(parts.prior)
    is_one = isinstance(inner, StandardNormal) or (isinstance(inner, Gaussian) and not is_per_class(parts.prior))
    if is_one or parts.spec.num_dims > MOST_DIMS:
        return None

    is_vector = len(parts.spec.shape) == 1
    if Gaussian.check(parts.spec if is_vector else Flattened.inner_spec(parts.spec)) is not None:
        return None

    def of(spec: LatentSpec) -> Prior:
        return (
            Gaussian(spec)
            if is_vector
            else Flattened(Gaussian(Flattened.inner_spec(spec)), **Flattened.keywords_of(spec))
        )

    return parts.beside_constants(of) if isinstance(parts, LatentParts) else of(parts.spec)


def is_per_class(prior: Prior) -> bool:
    """Whether there is a density a class in it, each of which has the latents of its class alone to learn from; of
    several priors, in one that has weight."""
    if isinstance(prior, Combined):
        return any(is_per_class(member) for _, member in prior.weighed)
    return any(isinstance(module, PerClass) for module in prior.modules())


def remedy_of_losing(prior: Prior, node: Node) -> str:
    """What can be done, in words."""
    of_family = remedy_of_family(prior, node)
    if is_per_class(prior):
        return f"{of_family}, give more latents of each class, or set prior.conditional=false"
    return of_family


def remedy_of_family(prior: Prior, node: Node) -> str:
    """What its own settings, or another prior, can do."""
    modules = list(prior.modules())
    if prior.memorises:
        return "it blurs what it has seen, and learns nothing; choose prior=mixture"
    if any(isinstance(module, GradientPrior) for module in modules):
        longer = next((f"raise {key}, " for key, section in LENGTHS.items() if section in node), "")
        both = ", or both by prior=ensemble" * ("members" not in node)
        return f"{longer}give more latents of fewer dimensions, or choose prior=mixture{both}"
    if any(isinstance(module, Mixture) for module in modules) and node.get("pseudo_counts", "held_out") != "held_out":
        return "set prior.pseudo_counts=held_out, or prior.num_components=auto"
    return "choose prior=gaussian" + ", or prior=mixture prior.num_components=auto" * (
        node.get("num_components") != "auto"
    )
