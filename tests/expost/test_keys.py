"""Keys of the store outlive what is moved in the code: those of six configurations, recorded at commit ad458c8, and of
fits and what follows them when `FIT_VERSION` became 3, of the autoregressive prior when `johnson` joined it, of
mixtures when EM could begin again, when something always stood behind points and when it did so of few."""

import json
import os
from pathlib import Path

import pytest
from command_line import composed

from expost import pipeline
from expost.base.command import Command
from expost.config.schema import validate
from expost.job import Job
from expost.parts.assembly import assemble
from expost.parts.sections import as_before
from expost.stages.prior import origins_of
from expost.store.artifacts import Store

FLOW = {"_target_": "stage2_prior.flows.flow.Flow", "dropout": 0.0}
RECORDED = json.loads(Path(__file__).with_name("recorded_keys.json").read_text(encoding="utf-8"))
FIT = {"32": "32-true", "bf16": "bf16-mixed"}


@pytest.mark.parametrize("precision", FIT)
@pytest.mark.parametrize("name", RECORDED)
def test_keys_are_those_of_before(name: str, precision: str, tmp_path: Path) -> None:
    """`auto` is left out: it is decided by the processor."""
    recorded = RECORDED[name]
    words = [*recorded["words"], "logger=csv", f"paths.root={tmp_path}", f"trainer.precision={precision}"]
    if recorded["fit"]:
        words.append(f"prior.fit.precision={FIT[precision]}")
    if name == "mnist_reference":
        if (root := os.environ.get("EXPOST_MNIST")) is None:
            pytest.skip("EXPOST_MNIST names no folder with MNIST")
        words.append(f"data.root={root}")
    config = validate(composed(*words))
    job = Job(config, Command(choices={"prior": recorded["choice"]}), Store(tmp_path), quiet=True)
    assert pipeline.keys("evaluation", *assemble(job)) == recorded[precision]


def test_a_fit_that_ends_elsewhere_has_another_key_where_it_does() -> None:
    """Flows drop by other masks than once; those that drop nothing end as they did."""
    changed = origins_of(FLOW | {"dropout": 0.1})
    assert changed == origins_of(FLOW) | {f"fit of {FLOW['_target_']}": 2}


def test_mixtures_that_held_out_latents_have_a_say_in_have_another_key() -> None:
    mixture = {"_target_": "stage2_prior.priors.mixture.Mixture", "num_components": 50}
    fits = [
        origins_of(mixture | changed)[f"fit of {mixture['_target_']}"]
        for changed in ({}, {"pseudo_counts": 4.0}, {"pseudo_counts": 4.0, "num_components": "auto"})
    ]
    assert fits == [5, 2, 3]


def test_a_keyword_that_came_later_is_in_keys_only_where_it_changes_something() -> None:
    drift = {"_target_": "stage2_prior.flows.flow_matching.FlowMatching", "time_mean": 1.0}
    both = {"_target_": "stage2_prior.combined.ensemble.Ensemble", "members": [FLOW, drift | {"base_std": 1.0}]}
    assert as_before(drift | {"base_std": 1.0}) == drift
    assert as_before(drift | {"base_std": 1.1}) == drift | {"base_std": 1.1}
    assert as_before(both) == both | {"members": [FLOW, drift]}
