"""stage=oracle: the judge is judged, on a model whose log p(x) is known.

Everything that this project claims is read off a bound on log p(x) or the fit of a prior. Here both are asked for what
is known already. The estimators of `evaluation` start from a posterior that is wrong on purpose and must climb back to
log p(x): standard deviations times `std_factor`, means moved by `shift_stds` of the true ones, so that the ELBO lacks
KL(wrong || exact) of every image,

    D [(std_factor^2 + shift_stds^2 - 1) / 2 - log std_factor] nats.

The prior is fitted to the exact posteriors of the training images, whose aggregate over p(x) is N(0, I), and must find
that.

Sign: `oracle.json` holds log p(x), higher is better; `expost.evaluation.bounds` and `expost.evaluation.annealing`
return costs, whose sign is turned here.
"""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml
from torch import Tensor

from expost.base.errors import UserError
from expost.base.terminal import new_console
from expost.config.schema import Oracle
from expost.evaluation.annealing.path import Annealed, Annealing, Start, annealed_bounds, proposals
from expost.evaluation.bounds import Bounds, importance_bounds
from expost.evaluation.oracle import Compared, terminal_table
from expost.job import Job
from expost.parts.assembly import read_data
from expost.parts.dataset import dataset_line
from expost.parts.priors import build_prior
from expost.stages.report import point_latest
from expost.training.progress import bar
from expost.training.tracking import Tracker
from stage1_vae.data.images import ImageData, ImageSet
from stage1_vae.data.linear_gaussian import LinearGaussianDensity
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.machine import flushed_denormals
from stage1_vae.posteriors import DiagonalNormal
from stage2_prior.prior import Exactness, Prior

WHAT = "mean log p(x), nats per image; higher is better"
BLOCK = 50
"""Images that are bounded at once."""


@dataclass(frozen=True)
class Estimates:
    """Estimates of log p(x) of the same images, log-likelihoods in float64 [N] on the CPU.

    Attributes:
        truth: log p(x), closed form.
        elbo_exact: ELBO at the exact posterior, one sample.
        elbo_expected: ELBO at the wrong posterior, closed form.
        elbo: the same, estimated.
        iwae: from the wrong posterior.
        annealed: of annealed importance sampling from the wrong posterior, costs; its estimate is `ais`.
    """

    truth: Tensor
    elbo_exact: Tensor
    elbo_expected: Tensor
    elbo: Tensor
    iwae: Tensor
    annealed: Annealed

    @property
    def ais(self) -> Tensor:
        """[N]; not a number where its chains are not to be trusted."""
        return -self.annealed.nll_nats.where(self.annealed.trusted.any(), torch.tensor(math.nan, dtype=torch.float64))


@dataclass(frozen=True)
class Recovery:
    """The fitted prior on held-out z ~ q(z), costs in nats, lower is better.

    Attributes:
        name: of the prior.
        compared: -log p(z) under the known aggregate (truth) and under the fitted prior (estimate), on the same z; None
            for a prior without a density.
        log_prob_is: what the prior's number is.
        entropy_nats: of the aggregate, the mean that `true_nats` has over all z.
        num_fitted: images that it was fitted to.
    """

    name: str
    compared: Compared | None
    log_prob_is: str
    entropy_nats: float
    num_fitted: int


@flushed_denormals()
def run_oracle(job: Job) -> None:
    """Print true value, estimate and error side by side; write `oracle.json` into the run's folder.

    Raises:
        UserError: the data do not know their log p(x) and p(z|x), or the folder cannot be written.
    """
    started = time.perf_counter()
    settings = job.config.oracle
    data = read_data(job)
    job.say("data", dataset_line(data))
    density = data.density if isinstance(data, ImageData) else None
    if not isinstance(data, ImageData) or not isinstance(density, LinearGaussianDensity):
        raise UserError(
            f"stage=oracle needs images whose log p(x) and p(z|x) are known, {data.name} is none of them; "
            "use experiment=oracle"
        )
    if settings.num_images > len(data.test):
        raise UserError(
            f"oracle.num_images={settings.num_images}: there are {len(data.test)} test images; "
            "give fewer, or a larger data.num_test"
        )
    prior, node = build_prior(job, LatentSpec((density.latent_dim,)), len(data.train), "diagonal_normal")
    job = replace(job, config=job.config.model_copy(update={"prior": node}))
    x = data.test.batch(torch.arange(settings.num_images)).to(job.device)
    with job.seeded(job.config.seeds.sample):
        estimates = estimate(density, x, settings, job)
    recovery = recover(density, data, prior, job)
    facts = report(estimates, recovery, settings) | {
        "data": data.name,
        "latent_dim": density.latent_dim,
        "num_pixels": math.prod(data.shape),
        "seeds": job.config.seeds.model_dump(),
        "data_seed": job.config.data.get("seed"),
        "fingerprint": data.fingerprint,
        "seconds": time.perf_counter() - started,
    }
    write(job, facts)
    console = new_console()
    console.print()
    title = f"{data.name}: the judge against the known truth"
    console.print(terminal_table(title, *lines_of(estimates, recovery, settings), console.width))
    for note in facts["notes"]:
        job.say("oracle", note)
    job.say("oracle", str(job.folder / "oracle.json"))


def spoil(posterior: DiagonalNormal, settings: Oracle) -> DiagonalNormal:
    """`posterior` spoiled: standard deviations times `std_factor`, means moved by `shift_stds` of the true ones."""
    std = torch.exp(posterior.log_std)
    return DiagonalNormal(posterior.loc + settings.shift_stds * std, posterior.log_std + math.log(settings.std_factor))


def kl_of_wrong_nats(latent_dim: int, settings: Oracle) -> float:
    """KL(wrong posterior || exact posterior), the same for every image: what the ELBO lacks."""
    per_dim = 0.5 * (settings.std_factor**2 + settings.shift_stds**2 - 1) - math.log(settings.std_factor)
    return latent_dim * per_dim


def estimate(density: LinearGaussianDensity, x: Tensor, settings: Oracle, job: Job | None = None) -> Estimates:
    """Every estimator on the images x [N, C, H, W], from torch's global generator; `job` shows progress."""
    shows = job is not None and job.shows_progress

    def start_from(posterior: DiagonalNormal) -> Start:
        return Start(lambda n: posterior.rsample((n,)), posterior.log_prob, torch.exp(posterior.log_std))

    def start(x: Tensor) -> Start:
        return start_from(spoil(density.posterior(x), settings))

    def bound(blocks: Iterable[Tensor], start: Callable[[Tensor], Start], num: int) -> Bounds:
        return importance_bounds(blocks, proposals(start), density.log_likelihood, {"p": density.log_prior}, num)["p"]

    exact = bound([x], lambda x: start_from(density.posterior(x)), 1)
    spoiled = bound(bar("importance sampling", shows, x.split(BLOCK)), start, settings.importance_samples)
    annealing = Annealing(settings.num_chains, settings.num_steps, settings.leapfrog_steps)
    blocks = bar("annealing", shows, x.split(BLOCK))
    annealed = annealed_bounds(blocks, start, density.log_likelihood, density.log_prior, annealing)
    assert exact.elbo_nats is not None and spoiled.elbo_nats is not None and spoiled.iwae_nats is not None
    truth = density.log_prob(x).cpu()
    return Estimates(
        truth=truth,
        elbo_exact=-exact.elbo_nats,
        elbo_expected=truth - kl_of_wrong_nats(density.latent_dim, settings),
        elbo=-spoiled.elbo_nats,
        iwae=-spoiled.iwae_nats,
        annealed=annealed,
    )


def exact_latents(density: LinearGaussianDensity, images: ImageSet) -> LatentDataset:
    """The exact p(z|x_i) of every image, as stage 2 gets the q(z|x_i) of a trained VAE."""
    posterior = density.posterior(images.batch(torch.arange(len(images))).cpu())
    params = {name: getattr(posterior, name).float().numpy() for name in ("loc", "log_std")}
    return LatentDataset(LatentSpec((density.latent_dim,)), "diagonal_normal", params)


def recover(density: LinearGaussianDensity, data: ImageData, prior: Prior, job: Job) -> Recovery:
    """Fit `prior` to the exact posteriors of the training images, and ask it about held-out ones.

    Raises:
        PriorError: the fit cannot be done.
    """
    train, val, test = (exact_latents(density, images) for images in (data.train, data.val, data.test))
    tracker = Tracker()
    report = prior.fit(train, val, job.fit_run(tracker, lightning_fit=job.lightning_fit(tracker, "prior")))
    for note in report.notes:
        job.say("prior", note)
    with job.seeded(job.config.seeds.sample), torch.no_grad():
        z = test.draw(torch.arange(len(test))).to(job.device)  # [N, D]
        compared = None
        name = job.command.choices.get("prior", "prior")
        if prior.log_prob_is is not Exactness.NONE:
            fitted = torch.cat([prior.eval().to(job.device).log_prob(block) for block in z.split(4096)])
            label = f"-log p(z), held-out z, prior {name}"
            compared = Compared.of(label, -density.log_prior(z).cpu(), -fitted.double().cpu())
    entropy = 0.5 * density.latent_dim * math.log(2 * math.pi * math.e)
    return Recovery(name, compared, prior.log_prob_is.value, entropy, len(train))


def rows(estimates: Estimates, settings: Oracle) -> dict[str, Compared]:
    """Every estimate against the truth, under its key in `oracle.json`."""
    spoiled = f"std x {settings.std_factor:g}, mean + {settings.shift_stds:g} std"
    annealing = f"{settings.num_chains} chains, {settings.num_steps} steps"
    return {
        "elbo_exact_nats": Compared.of("ELBO, exact posterior", estimates.truth, estimates.elbo_exact),
        "elbo_nats": Compared.of(f"ELBO, wrong posterior ({spoiled})", estimates.truth, estimates.elbo),
        "iwae_nats": Compared.of(f"IWAE from it, K = {settings.importance_samples:,}", estimates.truth, estimates.iwae),
        "ais_nats": Compared.of(f"AIS from it, {annealing}", estimates.truth, estimates.ais),
    }


def lines_of(estimates: Estimates, recovery: Recovery, settings: Oracle) -> tuple[list[Compared], str]:
    """Lines and caption of the table."""
    lines = list(rows(estimates, settings).values())
    caption = f"log p(x) of {len(estimates.truth):,} images, higher is better."
    if recovery.compared is not None:
        lines.append(recovery.compared)
        caption += (
            f" -log p(z) of {recovery.compared.num:,} held-out z, lower is better: the truth is the known aggregate "
            f"N(0, I), the estimate a prior fitted to {recovery.num_fitted:,} posteriors."
        )
    return lines, caption


def report(estimates: Estimates, recovery: Recovery, settings: Oracle) -> dict[str, Any]:
    """The content of `oracle.json`: finite numbers, or None with a note."""
    table, annealed, notes = rows(estimates, settings), estimates.annealed, estimates.annealed.notes()
    finite = {key: row for key, row in table.items() if row.is_finite}
    notes += [f"{row.label} is not finite: no figure {key}" for key, row in table.items() if key not in finite]
    held_out = recovery.compared
    if held_out is None:
        notes.append(f"the prior {recovery.name} has no density: it cannot be compared with the aggregate")

    def by_row(figure: str) -> dict[str, float | None]:
        return {key: getattr(finite.get(key), figure, None) for key in table}

    return {
        "what": WHAT,
        "num_images": len(estimates.truth),
        "true_nats": estimates.truth.mean().item(),
        "elbo_expected_nats": estimates.elbo_expected.mean().item(),
        **by_row("estimate_nats"),
        "error_nats": by_row("error_nats"),
        "standard_error_nats": by_row("standard_error_nats"),
        "standard_error_is": "of the mean error over images, estimate and truth paired",
        "wrong_posterior": {
            "std_factor": settings.std_factor,
            "shift_stds": settings.shift_stds,
            "kl_nats": (estimates.truth - estimates.elbo_expected).mean().item(),
        },
        "importance_samples": settings.importance_samples,
        "annealing": {
            "num_chains": settings.num_chains,
            "num_steps": settings.num_steps,
            "leapfrog_steps": settings.leapfrog_steps,
            "acceptance": None if annealed.acceptance is None else annealed.acceptance.mean().item(),
            "diverged_share": annealed.diverged.mean().item(),
        },
        "prior": {
            "what": "mean -log p(z) of held-out z ~ q(z), nats per image; lower is better",
            "name": recovery.name,
            "log_prob_is": recovery.log_prob_is,
            "num_fitted": recovery.num_fitted,
            "num_held_out": held_out and held_out.num,
            "fitted_nll_nats": held_out and held_out.estimate_nats,
            "aggregate_nll_nats": held_out and held_out.true_nats,
            "aggregate_entropy_nats": recovery.entropy_nats,
            "excess_nats": held_out and held_out.error_nats,
            "standard_error_nats": held_out and held_out.standard_error_nats,
        },
        "notes": notes,
    }


def write(job: Job, facts: dict[str, Any]) -> None:
    """`oracle.json` and `config.yaml` into the run's folder, and `latest` to it.

    Raises:
        UserError: the folder cannot be written.
    """
    config = yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False)
    try:
        (job.folder / "oracle.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (job.folder / "config.yaml").write_text(config, encoding="utf-8")
        point_latest(job)
    except OSError as error:
        raise UserError(f"cannot write {job.folder}: {error.strerror}; set paths.root=DIR") from error
