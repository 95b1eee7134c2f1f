"""Surgery on the reference VAE against its targets.

    python -m benchmarks.judge.surgery --data DIR [--root DIR] [WORD...]

Trains and encodes the reference VAE as a user does (`pipeline.py stage=encode experiment=mnist_reference`, with further
words of the command line passed on; `--root` keeps its store for the next time), then prints one table:

- the closed-form rate against mutual information + marginal KL, estimated from independent draws of training images;
- the marginal KL to N(0, I) on training images;
- `log_aggregate` against a float64 loop, and its seconds at 10,000 latents against 60,000 components;
- the two-sample test between two draws of one density, and between N(0, I) and q(z): the aggregate of 10,000 training
  images, judged on new draws of each. Against images that it never saw, which no target is set for, the classifier
  can do no better than what 10,000 draws teach of the density of all digits; that figure is printed beside it.

Exits with 1 when a target is missed. Takes several minutes.
"""

import argparse
import math
import operator
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import machine, pipeline

SECONDS, COMPONENTS, DRAWS = 6.0, 60_000, 10_000
SYMBOLS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}


@dataclass(frozen=True)
class Line:
    """What was measured, and the bound on it; `shown` where another text says more than the number."""

    name: str
    value: float
    relation: str | None = None
    target: float = 0.0
    shown: str = ""

    @property
    def reached(self) -> bool:
        return self.relation is None or SYMBOLS[self.relation](self.value, self.target)


def encoded(root: Path, data: Path, words: list[str]) -> Path:
    """The folder of the reference VAE's latents, made by the pipeline where the store has none."""
    pipeline("stage=encode", "experiment=mnist_reference", f"data.root={data}", f"paths.root={root}", *words)
    folders = sorted(root.glob("store/latents/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return folders[-1].parent


def measured(folder: Path) -> list[Line]:
    import numpy as np
    import torch

    from expost.evaluation.latents.surgery import decompose
    from expost.evaluation.latents.two_sample import classifier_of_known, classifier_two_sample
    from expost.evaluation.sections import Decomposition
    from stage1_vae.base_priors import StandardNormal
    from stage1_vae.latents import LatentDataset
    from stage1_vae.rate import rate_nats

    torch.manual_seed(0)
    train, test = (LatentDataset.load(folder / split) for split in ("train", "test"))
    base = StandardNormal(train.spec.shape)
    rows = torch.arange(len(train))[torch.randperm(len(train))[:20_000]]
    posterior = train.posterior(rows)
    exact = rate_nats(posterior, base, posterior.mean).double()

    def taken_apart() -> tuple[torch.Tensor, Decomposition]:
        z = posterior.sample()
        wide = z.double()
        aggregate = train.log_aggregate(wide)
        result = decompose(z, posterior.log_prob(wide), aggregate, len(train), {"base": base.log_prob})
        return aggregate, result

    _, first = taken_apart()
    _, second = taken_apart()
    information, kl = first.mutual_information_nats, second.priors["base"].marginal_kl_nats
    assert kl is not None and kl.standard_error is not None and information.standard_error is not None
    gap = information.value + kl.value - exact.mean().item()
    error = math.hypot(information.standard_error, kl.standard_error)

    z = train.draw(torch.arange(50)).double()
    loc, log_std = (torch.from_numpy(np.array(train.params[name])).double() for name in ("loc", "log_std"))
    family = torch.distributions.Normal(loc, log_std.exp())
    loop = torch.stack([family.log_prob(one).flatten(1).sum(1).logsumexp(0) for one in z]) - math.log(len(train))
    deviation = (train.log_aggregate(z.float()).double() - loop).abs().max().item()

    again = np.arange(COMPONENTS) % len(train)  # as many as the target names, whatever the split left
    full = LatentDataset(train.spec, train.family, {name: np.asarray(v)[again] for name, v in train.params.items()})
    z = train.draw(torch.arange(DRAWS))
    started = time.perf_counter()
    full.log_aggregate(z)
    seconds = time.perf_counter() - started

    def unit() -> torch.Tensor:
        return torch.randn(DRAWS, *train.spec.shape)

    def draws() -> torch.Tensor:
        return train.draw(torch.arange(DRAWS))

    started = time.perf_counter()
    same = classifier_two_sample(unit(), unit())
    same_seconds = time.perf_counter() - started
    same_q = classifier_two_sample(train.draw(rows[:DRAWS]), train.draw(rows[DRAWS:]))
    apart = classifier_of_known((unit(), draws()), (unit(), draws()), (unit(), draws()))
    unseen = classifier_two_sample(torch.randn(len(test), *test.spec.shape), test.draw(torch.arange(len(test))))
    return [
        Line("closed-form rate, nats", exact.mean().item()),
        Line(
            "mutual information, nats",
            information.value,
            shown=f"{information.value:.3f} ± {information.standard_error:.3f} of at most {first.ceiling_nats:.3f}",
        ),
        Line("marginal KL to N(0, I), nats", kl.value, shown=f"{kl.value:.3f} ± {kl.standard_error:.3f}"),
        Line("sum against closed form, standard errors", abs(gap) / error, "<=", 3),
        Line("marginal KL: distance from 13.2 nats", abs(kl.value - 13.2), "<=", 0.5),
        Line("log_aggregate: error against a loop, nats", deviation, "<=", 1e-3, f"{deviation:.1e}"),
        Line(f"log_aggregate: seconds, {DRAWS:,} x {COMPONENTS:,}", seconds, "<", SECONDS),
        Line("classifier, N(0, I) twice: from 50 %", abs(same.percent - 50), "<=", 2, f"{same.percent:.1f} %"),
        Line("classifier, q(z) twice: from 50 %", abs(same_q.percent - 50), "<=", 2, f"{same_q.percent:.1f} %"),
        Line("classifier: seconds", same_seconds),
        Line("classifier, N(0, I) from q(z), %", apart.percent, ">=", 95),
        Line("the same, images it never saw, %", unseen.percent),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, help="where the pipeline keeps its store; a temporary folder by default")
    parser.add_argument("words", nargs="*", help="passed on to the pipeline")
    options = parser.parse_args()
    print(f"{machine()} at the start", flush=True)
    with tempfile.TemporaryDirectory(prefix="expost-surgery-") as temporary:
        root = (options.root or Path(temporary)).absolute()
        lines = measured(encoded(root, options.data.absolute(), options.words))
    print(f"{machine()} at the end\n{'':44}{'measured':>36}{'target':>10}")
    for line in lines:
        bound = "" if line.relation is None else f"{line.relation} {line.target:g}"
        outcome = "" if line.relation is None else "reached" if line.reached else "MISSED"
        print(f"{line.name:44}{line.shown or format(line.value, '.2f'):>36}{bound:>10}  {outcome}")
    return 0 if all(line.reached for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
