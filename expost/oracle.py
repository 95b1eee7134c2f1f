"""stage=oracle: the judge is judged, on a model whose log p(x) is known.

Everything that this project claims is read off a bound on log p(x) or the fit of a prior. Here both are asked for what
is known already: the estimators of `evaluation` start from a posterior that is wrong on purpose and must climb back to
log p(x), and the prior is fitted to exact posteriors, whose aggregate is N(0, I), and must find that.

Sign: `oracle.json` holds log p(x), higher is better; `expost.evaluation.bounds` and `expost.evaluation.annealing`
return costs, whose sign `expost.measure.estimators` turns.
"""

import json
import math
import time
from dataclasses import replace
from typing import Any

import torch
import yaml

from expost.base.errors import UserError
from expost.base.terminal import new_console
from expost.config.schema import Oracle
from expost.evaluation.oracle import Compared, terminal_table
from expost.job import Run
from expost.measure.estimators import Judged, PriorRecovered, judge, recover
from expost.parts.assembly import read_images
from expost.parts.dataset import dataset_line
from expost.parts.priors import build_prior
from expost.stages.report import point_latest
from stage1_vae.data.linear_gaussian import LinearGaussianDensity
from stage1_vae.latents import LatentSpec

WHAT = "mean log p(x), nats per image; higher is better"


def run_oracle(run: Run) -> None:
    """Print true value, estimate and error side by side; write `oracle.json` into the run's folder.

    Raises:
        UserError: the data do not know their log p(x) and p(z|x), or the folder cannot be written.
    """
    started = time.perf_counter()
    settings = run.config.oracle
    data = read_images(run)
    run.say("data", dataset_line(data))
    density = data.density
    if not isinstance(density, LinearGaussianDensity):
        raise UserError(
            f"stage=oracle needs images whose log p(x) and p(z|x) are known, {data.name} is none of them; "
            "use experiment=oracle"
        )
    if settings.num_images > len(data.test):
        raise UserError(
            f"oracle.num_images={settings.num_images}: there are {len(data.test)} test images; "
            "give fewer, or a larger data.num_test"
        )
    prior, node = build_prior(run, LatentSpec((density.latent_dim,)), len(data.train))
    run = replace(run, config=run.config.model_copy(update={"prior": node}))
    x = data.test.batch(torch.arange(settings.num_images)).to(run.device)
    with run.seeded(run.config.seeds.sample):
        judged = judge(density, x, settings, run)
    recovered = recover(density, data, prior, run)
    facts = report(judged, recovered, settings) | {
        "data": data.name,
        "latent_dim": density.latent_dim,
        "num_pixels": math.prod(data.shape),
        "seeds": run.config.seeds.model_dump(),
        "data_seed": run.config.data.get("seed"),
        "fingerprint": data.fingerprint,
        "seconds": time.perf_counter() - started,
    }
    write(run, facts)
    console = new_console()
    console.print()
    title = f"{data.name}: the judge against the known truth"
    console.print(terminal_table(title, *shown(judged, recovered, settings), console.width))
    for note in facts["notes"]:
        run.say("oracle", note)
    run.say("oracle", str(run.folder / "oracle.json"))


def rows(judged: Judged, settings: Oracle) -> dict[str, Compared]:
    """Every estimate against the truth, under its key in `oracle.json`."""
    spoiled = f"std x {settings.std_factor:g}, mean + {settings.shift_stds:g} std"
    annealing = f"{settings.num_chains} chains, {settings.num_steps} steps"
    return {
        "elbo_exact_nats": Compared.of("ELBO, exact posterior", judged.truth, judged.elbo_exact),
        "elbo_nats": Compared.of(f"ELBO, wrong posterior ({spoiled})", judged.truth, judged.elbo),
        "iwae_nats": Compared.of(f"IWAE from it, K = {settings.importance_samples:,}", judged.truth, judged.iwae),
        "ais_nats": Compared.of(f"AIS from it, {annealing}", judged.truth, judged.ais),
    }


def shown(judged: Judged, recovered: PriorRecovered, settings: Oracle) -> tuple[list[Compared], str]:
    """Lines and caption of the table."""
    lines = list(rows(judged, settings).values())
    caption = f"log p(x) of {len(judged.truth):,} images, higher is better."
    if recovered.compared is not None:
        lines.append(recovered.compared)
        caption += (
            f" -log p(z) of {recovered.compared.num:,} held-out z, lower is better: the truth is the known aggregate "
            f"N(0, I), the estimate a prior fitted to {recovered.num_fitted:,} posteriors."
        )
    return lines, caption


def report(judged: Judged, recovered: PriorRecovered, settings: Oracle) -> dict[str, Any]:
    """The content of `oracle.json`: finite numbers, or None with a note."""
    table, annealed, notes = rows(judged, settings), judged.annealed, judged.annealed.notes()
    for key, row in table.items():
        if not row.is_finite:
            notes.append(f"{row.label} is not finite: no figure {key}")
    if recovered.compared is None:
        notes.append(f"the prior {recovered.name} has no density: it cannot be compared with the aggregate")
    held_out = recovered.compared
    return {
        "what": WHAT,
        "num_images": len(judged.truth),
        "true_nats": judged.truth.mean().item(),
        "elbo_expected_nats": judged.elbo_expected.mean().item(),
        **{key: row.estimate_nats if row.is_finite else None for key, row in table.items()},
        "error_nats": {key: row.error_nats if row.is_finite else None for key, row in table.items()},
        "standard_error_nats": {key: row.standard_error_nats if row.is_finite else None for key, row in table.items()},
        "standard_error_is": "of the mean error over images, estimate and truth paired",
        "wrong_posterior": {
            "std_factor": settings.std_factor,
            "shift_stds": settings.shift_stds,
            "kl_nats": (judged.truth - judged.elbo_expected).mean().item(),
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
            "name": recovered.name,
            "log_prob_is": recovered.log_prob_is,
            "num_fitted": recovered.num_fitted,
            "num_held_out": None if held_out is None else held_out.num,
            "fitted_nll_nats": None if held_out is None else held_out.estimate_nats,
            "aggregate_nll_nats": None if held_out is None else held_out.true_nats,
            "aggregate_entropy_nats": recovered.entropy_nats,
            "excess_nats": None if held_out is None else held_out.error_nats,
            "standard_error_nats": None if held_out is None else held_out.standard_error_nats,
        },
        "notes": notes,
    }


def write(run: Run, facts: dict[str, Any]) -> None:
    """`oracle.json` and `config.yaml` into the run's folder, and `latest` to it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        (run.folder / "oracle.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (run.folder / "config.yaml").write_text(
            yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
        )
        point_latest(run)
    except OSError as error:
        raise UserError(f"cannot write {run.folder}: {error.strerror}; set paths.root=DIR") from error
