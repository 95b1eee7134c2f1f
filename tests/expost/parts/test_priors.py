"""prior=autoregressive picks by the latent, and what the user has changed holds for either."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, assert_refused, run_here
from exported_model import TINY, exported, job
from whole_run import run_lent

from expost import TwoStage
from expost.base.command import Command
from expost.base.errors import UserError
from expost.cli import groups
from expost.job import Job
from expost.parts.priors import build_prior, choose_prior, is_able, prior_nodes
from stage1_vae.latents import LatentSpec, Support
from stage2_prior import wrappers
from stage2_prior.prior import Prior

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


SHIFTED = '''
"""A wrapper with a number of its own."""
from typing import ClassVar
from stage2_prior.prior import Prior, Wrapper

class Shifted(Wrapper):
    version: ClassVar[int] = 1
    num_parameters = 0

    def __init__(self, prior: Prior, by: float = 0.0) -> None:
        super().__init__(prior)
        self.prior, self.by = prior, by

    @property
    def inner(self):
        return self.prior

    @classmethod
    def check(cls, spec):
        return None

    def _log_prob(self, z, context):
        return self.prior.log_prob(z - self.by, context)

    def _sample(self, n, context, how):
        return self.prior.sample(n, context, how) + self.by

    def fit(self, train, val, run):
        return self.prior.fit(train, val, run)
'''


@pytest.fixture
def shifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a class that somebody has put beside the shipped wrappers."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more/shifted.py").write_text(SHIFTED, encoding="utf-8")
    monkeypatch.setattr(wrappers, "__path__", [*wrappers.__path__, str(tmp_path / "more")])
    monkeypatch.delitem(sys.modules, "stage2_prior.wrappers.shifted", raising=False)
    return "stage2_prior.wrappers.shifted.Shifted"


def test_a_wrapper_of_ones_own_is_named_with_its_keywords(shifted: str, tmp_path: Path) -> None:
    """It stands in the key of the prior, with its source, and in what is exported."""
    folder = exported(tmp_path, *TINY, "prior=gaussian", f"+prior.wrap=[standardize,{{_target_:{shifted},by:3.0}}]")
    prior: Any = TwoStage.load(folder).prior
    assert (type(prior).__name__, prior.by, type(prior.inner).__name__) == ("Shifted", 3.0, "Standardized")
    (manifest,) = (json.loads(path.read_text("utf-8")) for path in tmp_path.glob("store/prior/*/manifest.json"))
    assert manifest["ingredients"]["versions"][shifted] == manifest["ingredients"]["versions"]["standardize"] == 1
    assert f"source of {shifted}" in manifest["ingredients"]["versions"]


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        ("{_target_:stage2_prior.priors.gaussian.Gaussian}", "prior.wrap=stage2_prior.priors.gaussian.Gaussian"),
        ("{_target_:nowhere.Wrapper}", "_target_=nowhere.Wrapper: no such class"),
        ("{by:3}", "_target_=None: no such class"),
        ("{_target_:stage2_prior.wrappers.standardize.Standardized,by:3}", "prior.wrap.by: unknown key"),
        (
            "standardise",
            "prior.wrap=standardise: no such wrapper; did you mean 'standardize'? choices: "
            "chart, defensive, flatten, johnson, standardize, whiten",
        ),
        ("3", "prior.wrap=[3]: give a list of names, such as prior.wrap=[standardize]"),
    ],
)
def test_what_is_no_wrapper_is_refused(wrap: str, reason: str, tmp_path: Path) -> None:
    result = run_here(tmp_path, "debug=fast", "logger=csv", "prior=gaussian", f"+prior.wrap=[{wrap}]")
    assert_refused(result, tmp_path, reason)


def test_wrappers_are_no_group_of_the_command_line(tmp_path: Path) -> None:
    assert not any("wrap" in group for group in groups())
    assert_refused(run_here(tmp_path, "wrapper=standardize"), tmp_path, "wrapper")


def of_prior(asked: Job, node: dict[str, Any]) -> Job:
    """The job `asked` with another section `prior`."""
    return replace(asked, config=asked.config.model_copy(update={"prior": node}))


def devices_of(prior: Prior) -> set[str]:
    return {tensor.device.type for tensor in (*prior.buffers(), *prior.parameters())}


@pytest.mark.parametrize("stage", ["vae", "encode"])
def test_a_job_that_ends_before_a_prior_is_there_has_no_memory_for_one(tmp_path: Path, stage: str) -> None:
    """The default mixture, whose 50 covariances of 2,048 dimensions are 1.6 GiB."""
    prior, _ = build_prior(job(tmp_path, "prior=mixture", f"stage={stage}"), LatentSpec((2048,)), 60_000)
    assert devices_of(prior) == {"meta"} and (prior.min_images, prior.spec.num_dims) == (50, 2048)


def test_every_prior_that_is_shipped_is_built_without_memory(tmp_path: Path) -> None:
    asked = job(tmp_path, "stage=encode")
    for name, node in OFFERED.items():
        for spec in (VECTOR, MAP, CODES, BITS):
            if is_able(node, spec, OFFERED):
                prior, _ = build_prior(of_prior(asked, node), spec, 1000)
                assert devices_of(prior) <= {"meta"}, f"{name} of latents that are {spec.words}"


@pytest.mark.parametrize("stage", ["prior", "all", "joint", "sample", "export", "check"])
def test_all_other_jobs_have(tmp_path: Path, stage: str) -> None:
    prior, _ = build_prior(job(tmp_path, "prior=mixture", f"stage={stage}"), VECTOR, 1000)
    assert devices_of(prior) == {"cpu"}


def test_a_prior_that_is_not_shipped_may_look_at_numbers_whatever_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prior_of_a_user.py").write_text(
        "import torch\nfrom expost import Prior\nfrom stage2_prior.prior import Exactness\n\n\nclass Looking(Prior):\n"
        "    log_prob_is = Exactness.EXACT\n    num_parameters = 0\n"
        "    def __init__(self, spec):\n        super().__init__(spec)\n"
        "        self.register_buffer('width', torch.ones(3))\n        self.number = self.width.sum().item()\n"
        "    @classmethod\n    def check(cls, spec):\n        return None\n"
        "    def _log_prob(self, z, context):\n        return z.new_zeros(len(z))\n"
        "    def _sample(self, n, context, how):\n        return torch.zeros(n, *self.spec.shape)\n"
        "    def fit(self, train, val, run):\n        raise NotImplementedError\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked = of_prior(job(tmp_path, "stage=encode"), {"_target_": "prior_of_a_user.Looking"})
    prior, _ = build_prior(asked, VECTOR, 1000)
    assert devices_of(prior) == {"cpu"}
