"""prior=autoregressive picks by the latent, and what the user has changed holds for either."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, run_here
from whole_run import run_lent

from expost.base.command import Command
from expost.base.errors import UserError
from expost.parts.priors import choose_prior, prior_nodes
from stage1_vae.latents import LatentSpec, Support

VECTOR, MAP = LatentSpec((6,)), LatentSpec((3, 2, 4))
CODES, BITS = LatentSpec((4,), Support.CODES, ((2, 2),), (8,)), LatentSpec((9,), Support.BITS)
OFFERED = prior_nodes()
AUTOREGRESSIVE, TRANSFORMER = OFFERED["autoregressive"], OFFERED["transformer"]


def with_fit(node: dict[str, Any], **changes: object) -> dict[str, Any]:
    return node | {"fit": node["fit"] | changes}


def test_a_vector_is_modelled_by_the_masked_network() -> None:
    chosen = choose_prior(AUTOREGRESSIVE, VECTOR, OFFERED, Command())
    assert chosen == {key: value for key, value in AUTOREGRESSIVE.items() if key != "otherwise"}
    assert chosen["_target_"].endswith(".Autoregressive")


@pytest.mark.parametrize("spec", [MAP, CODES, BITS], ids=["map", "codes", "bits"])
def test_all_else_by_the_transformer_as_its_file_has_it(spec: LatentSpec) -> None:
    assert choose_prior(AUTOREGRESSIVE, spec, OFFERED, Command()) == TRANSFORMER


def test_what_was_changed_holds_for_the_other_prior() -> None:
    node = with_fit(AUTOREGRESSIVE, max_epochs=3) | {"conditional": True}
    assert choose_prior(node, CODES, OFFERED, Command()) == with_fit(TRANSFORMER, max_epochs=3) | {"conditional": True}


def test_so_does_what_was_typed_though_it_changes_nothing() -> None:
    same = AUTOREGRESSIVE["fit"]["learning_rate"]
    assert same != TRANSFORMER["fit"]["learning_rate"]
    command = Command(overrides=(f"prior.fit.learning_rate={same}", "prior=autoregressive"))
    assert choose_prior(AUTOREGRESSIVE, CODES, OFFERED, command) == with_fit(TRANSFORMER, learning_rate=same)


def test_a_key_of_the_first_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"prior\.hidden: .*codes of shape \(4\).*leave it out"):
        choose_prior(AUTOREGRESSIVE | {"hidden": [3]}, CODES, OFFERED, Command())


def test_the_user_can_want_the_first_alone() -> None:
    assert "Autoregressive" in choose_prior(AUTOREGRESSIVE | {"otherwise": None}, CODES, OFFERED, Command())["_target_"]


def test_the_report_and_the_key_are_those_of_the_prior_that_was_fitted(tmp_path: Path) -> None:
    small = (*(word for word in SMALL if "num_components" not in word and "hidden" not in word), "vae=fsq")
    small += ("net.channels=[8,8]", "prior.fit.max_epochs=1")
    first = run_lent(tmp_path, *small, "prior=autoregressive")
    assert first.code == 0, first.err
    assert "transformer, for these latents are codes of shape (4)" in first.out
    again = run_here(tmp_path, *small, "prior=transformer", "stage=prior")
    assert again.stages("skipped") == ["vae", "latents", "prior"]
    assert "autoregressive" in json.loads((tmp_path / "runs/latest/report.json").read_text(encoding="utf-8"))["rows"]
