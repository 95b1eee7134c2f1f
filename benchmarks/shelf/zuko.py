"""Coupling flows: our fit against zuko's own training loop in the same seconds, side by side.

    python -m benchmarks.shelf.zuko --data DIR [--root runs/bench/shelf] [--flows realnvp nsf] [--seed 0]
                                    [--out docs/measured/flows.md]

DIR holds MNIST's IDX files; the reference VAE is trained once and found in the store under `--root` afterwards. Each
flow of `conf/prior/` is fitted as `prior=NAME` fits it. In as many seconds, the loop of zuko's README, Adam with its
learning rate on the mean of -log p(z), trains twice: what `prior=NAME` builds, its base fitted in the same way within
these seconds; and zuko's flow of that name with as many transformations and hidden widths, on N(0, I). Both see the
latents standardised and drawn anew in each epoch, in batches as large as ours.

Nats are what mean log p(z) of the test latents gains over N(0, I). Exits with 1 when a flow gains less than 3.9 nats,
takes longer than 60 s, gains less than the loop does, or needs more than half a second for 10,000 latents. It takes
five minutes.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import zuko
from torch import Tensor, nn

from benchmarks.child import machine, pipeline
from benchmarks.shelf.table import RECIPE
from expost import fit_prior
from expost.parts.priors import make_prior, prior_nodes
from stage1_vae.latents import LatentDataset
from stage2_prior.fit import FreshBatches
from stage2_prior.fitting import FitRun
from stage2_prior.flows.flow import Flow
from stage2_prior.wrappers.standardize import Standardized

LEAST_NATS, MOST_SECONDS, MOST_SAMPLING_SECONDS = 3.9, 60.0, 0.5
DRAWS = 10_000
WRAP = ["standardize"]
"""What else stands around flows by default leaves posteriors with widths alone."""
LEARNING_RATE = 1e-3
"""Of zuko's README."""
THEIRS: Mapping[str, Callable[..., nn.Module]] = {
    "realnvp": zuko.flows.RealNVP,
    "nsf": lambda *args, **keywords: zuko.flows.NSF(*args, passes=2, **keywords),
    "maf": zuko.flows.MAF,
}


@dataclass(frozen=True)
class Row:
    """One fit.

    Attributes:
        flow: in `conf/prior/`.
        loop: whose fit.
        nats: gained over N(0, I), of a test latent.
        seconds: of the fit.
        sampling_seconds: to draw `DRAWS` latents; of ours alone.
    """

    flow: str
    loop: str
    nats: float
    seconds: float
    sampling_seconds: float = math.nan


def rows(name: str, latents: Mapping[str, LatentDataset], seed: int) -> Iterator[Row]:
    """Ours, then zuko's loop on the same net, then on zuko's."""
    torch.manual_seed(seed)
    test = latents["test"].draw(torch.arange(len(latents["test"])))
    normal = (-0.5 * (test.square() + math.log(2 * math.pi))).sum(1).mean().item()

    def gained(log_prob: Callable[[Tensor], Tensor]) -> float:
        with torch.no_grad():
            return torch.cat([log_prob(block) for block in test.split(1000)]).mean().item() - normal

    learned, report = fit_prior(latents["train"], name, val=latents["val"], seed=seed, wrap=WRAP)
    learned.prior.sample(DRAWS)  # one that warms up
    started = time.perf_counter()
    learned.prior.sample(DRAWS)
    yield Row(name, "ours", gained(learned.log_prob), report.seconds, time.perf_counter() - started)

    node = prior_nodes()[name] | {"wrap": WRAP}
    wrapped = make_prior(node, latents["train"].spec, len(latents["train"]), seed, torch.device("cpu"))
    fitted = learned.prior
    assert isinstance(wrapped, Standardized) and isinstance(fitted, Standardized)
    wrapped.shift.copy_(fitted.shift)
    wrapped.unit.copy_(fitted.unit)
    standard = wrapped._standardise(latents["train"])
    batches = FreshBatches(standard, node["fit"]["batch_size"])

    flow = wrapped.inner
    assert isinstance(flow, Flow)
    started = time.perf_counter()
    if flow.base is not None:
        flow.base.fit(standard, standard, FitRun(torch.device("cpu"), seed, lambda *_: None, lambda *_, **__: None))
    train_as_zuko_does(flow, flow.log_prob, batches, started + report.seconds)
    yield Row(name, "zuko's loop, our net", gained(wrapped.log_prob), time.perf_counter() - started)

    torch.manual_seed(seed)
    spec = {"transforms": node["num_layers"], "hidden_features": node["hidden"]}
    theirs = THEIRS[name](latents["train"].spec.num_dims, 0, **spec)
    started = time.perf_counter()
    train_as_zuko_does(theirs, lambda z: theirs().log_prob(z), batches, started + report.seconds)
    seconds, log_unit = time.perf_counter() - started, wrapped.unit.log().sum()
    nats = gained(lambda z: theirs().log_prob((z - wrapped.shift) / wrapped.unit) - log_unit)
    yield Row(name, "zuko's loop, zuko's net", nats, seconds)


def train_as_zuko_does(
    net: nn.Module, log_prob: Callable[[Tensor], Tensor], batches: FreshBatches, until: float
) -> None:
    """The loop of zuko's README, until the clock `time.perf_counter` says so."""
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    while True:
        for z, *_ in batches:
            if time.perf_counter() >= until:
                return
            loss = -log_prob(z).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def misses(of_flow: Sequence[Row]) -> Iterator[str]:
    """What of one flow misses its target; ours is the first row."""
    ours, *others = of_flow
    if ours.nats < LEAST_NATS:
        yield f"{ours.flow}: {ours.nats:.2f} nats, at least {LEAST_NATS} are asked for"
    if ours.seconds > MOST_SECONDS:
        yield f"{ours.flow}: {ours.seconds:.0f} s, at most {MOST_SECONDS:.0f} are allowed"
    if ours.sampling_seconds > MOST_SAMPLING_SECONDS:
        yield f"{ours.flow}: {ours.sampling_seconds:.2f} s for {DRAWS:,} latents, at most {MOST_SAMPLING_SECONDS}"
    for other in others:
        if other.nats > ours.nats:
            yield f"{ours.flow}: {ours.nats:.3f} nats, and {other.loop} {other.nats:.3f}"


def section(flows: Sequence[Sequence[Row]], missed: Sequence[str]) -> str:
    """The part of docs/RESULTS.md."""
    lines = [
        f"| {row.flow} | {row.loop} | {row.nats:.3f} | {row.seconds:.0f} | "
        f"{'-' if math.isnan(row.sampling_seconds) else f'{row.sampling_seconds:.2f}'} |"
        for of_flow in flows
        for row in of_flow
    ]
    return "\n\n".join(
        [
            "## Flows beside zuko's own loop",
            "Coupling flows on the latents of the reference VAE, one seed: `prior=NAME`, and in as many seconds the "
            "loop of zuko's README (Adam, one learning rate, no average of weights) on the same net, whose base is a "
            "fitted mixture of 100, and on zuko's flow of that name with as many layers, whose base is N(0, I). Nats "
            "are what mean log p(z) of the 10,000 test latents, one draw each, gains over N(0, I). Targets: "
            f"{LEAST_NATS} nats within {MOST_SECONDS:.0f} s, not below either loop, 10,000 latents in "
            f"{MOST_SAMPLING_SECONDS} s.",
            "    python -m benchmarks.shelf.zuko --data DIR",
            "| flow | loop | nats ↑ | fit, s | 10,000 latents, s |\n|---|---|---:|---:|---:|\n" + "\n".join(lines),
            "\n".join(f"- MISSED: {words}" for words in missed) or "- All targets reached.",
            f"- zuko {zuko.__version__}; {machine()} at the end.",
        ]
    )


def read(root: Path, data: Path) -> dict[str, LatentDataset]:
    """The latents of the reference VAE, made now or found in the store."""
    folder = pipeline(*RECIPE, f"data.root={data}", f"paths.root={root}", "stage=encode").artifact("latents")
    return {split: LatentDataset.load(folder / split) for split in ("train", "val", "test")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/shelf"), help="where the runs are kept")
    parser.add_argument("--flows", nargs="+", default=["realnvp", "nsf"], choices=sorted(THEIRS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    latents = read(options.root.absolute(), options.data.absolute())
    flows = []
    for name in options.flows:
        flows.append(list(rows(name, latents, options.seed)))
        print(*flows[-1], sep="\n", file=sys.stderr, flush=True)
    missed = [words for of_flow in flows for words in misses(of_flow)]
    text = section(flows, missed)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
