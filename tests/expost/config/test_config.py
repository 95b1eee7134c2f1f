"""The configuration: every file composes, says what its class takes, and is answered without torch."""

import inspect
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import hydra
import pytest
from command_line import PROJECT, SMALL, composed, run_here, run_outside
from omegaconf import OmegaConf

from expost.cli import CONF, choices, groups
from expost.config.schema import Config, Stage, validate

FILES = sorted(CONF.glob("*/*.yaml"))
INJECTED = {"features_shape", "num_classes", "spec", "levels"}
"""What the pipeline gives and no file can."""
NOT_OF_THE_CLASS = {"binarize", "dequantize", "labelled", "wrap", "fit", "_target_", "defaults", "otherwise"}
"""Keys of a node that belong to the pipeline, and Hydra's own."""


def load(path: Path) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(plain, dict)
    return plain


def name_of(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


def test_the_groups_are_those_that_were_promised() -> None:
    promised = "data net vae likelihood prior trainer logger launcher evaluation experiment sweep debug"
    assert set(groups()) == set(promised.split())
    assert all(choices(group) for group in groups())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_composes_and_validates(path: Path) -> None:
    config = validate(composed(name_of(path)))
    assert isinstance(config, Config)
    node = load(path)
    if "_target_" in node:
        assert getattr(config, path.parent.name)["_target_"] == node["_target_"]


def targets() -> list[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, with the file that it is in."""
    found = []
    for path in FILES:
        nodes = {"": load(path), **{k: v for k, v in load(path).items() if isinstance(v, dict)}}
        found += [(f"{name_of(path)} {key}".strip(), node) for key, node in nodes.items() if "_target_" in node]
    return found


@pytest.mark.parametrize(("place", "node"), targets(), ids=lambda value: value if isinstance(value, str) else "")
def test_yaml_mirrors_the_constructor(place: str, node: dict[str, Any]) -> None:
    parameters = inspect.signature(hydra.utils.get_class(node["_target_"])).parameters
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # of modules without a constructor
    named = {name for name, parameter in parameters.items() if parameter.kind not in variadic}
    node = {key: value for key, value in node.items() if key != "conditional" or key in named}  # else of the wrapper
    assert set(node) - NOT_OF_THE_CLASS == named - (INJECTED - set(node))  # FSQ has levels of its own


def test_fit_sections_mirror_the_settings() -> None:
    from stage2_prior.fitting import FitSettings

    for place, node in targets():
        if "fit" in node:
            assert set(node["fit"]) == set(inspect.signature(FitSettings).parameters), place


def test_experiments_win_over_the_defaults_and_leave_the_prior_alone() -> None:
    """Each with another prior: of what an experiment says of priors none depends on which it is."""
    assert load(CONF / "config.yaml")["defaults"][0] == "_self_"
    fitted = [name for name in choices("prior") if name != "learned"]  # which is of the VAE, and knows no labels
    for path, prior in zip(sorted(CONF.glob("experiment/*.yaml")), itertools.cycle(fitted)):
        node = load(path)
        assert node.get("prior", {}).keys() <= {"conditional"}, path  # the one key that all of these have
        chosen = [line for line in node.get("defaults", []) if any("prior" in key for key in line)]
        assert all(set(line) == {"override /prior"} for line in chosen), path  # a choice leaks nothing, keys do
        config = composed(f"experiment={path.stem}", f"prior={prior}")
        for section, values in node.items():
            if isinstance(values, dict):
                assert OmegaConf.to_container(config[section], resolve=True).items() >= _flat(values).items()
        assert set(validate(config).prior) == set(load(CONF / f"prior/{prior}.yaml"))


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, dict)}


def test_seed_sets_all_seeds_that_are_not_given() -> None:
    config = validate(composed("seed=3", "seeds.prior=5"))
    assert (config.seeds.vae, config.seeds.prior, config.seeds.sample) == (3, 5, 3)


def test_the_top_level_forbids_what_it_does_not_know() -> None:
    annotated: list[Any] = [field.annotation for field in Config.model_fields.values()]
    sections = [Config, *(each for each in annotated if hasattr(each, "model_config"))]
    assert len(sections) > 6
    assert all(section.model_config["extra"] == "forbid" for section in sections)


def test_help_lists_stages_and_choices_quickly_and_without_torch(tmp_path: Path) -> None:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(PROJECT / "pipeline.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    seconds = time.perf_counter() - started
    for stage in get_args(Stage):
        assert f"  {stage} " in done.stdout
    for group in groups():
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{group}:"))
        assert all(choice in line for choice in choices(group) if "/" not in choice), line
    assert "questions/quilt" in choices("experiment")
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "omegaconf" in imported
    heavy = {"torch", "pytorch_lightning", "wandb", "matplotlib", "hydra", "pydantic"}
    assert not {name.split(".")[0] for name in imported} & heavy
    assert seconds < 10, "1.5 s on an idle machine"
    assert not list(tmp_path.iterdir())


def test_help_is_what_hydra_prints(tmp_path: Path) -> None:
    """Another word beside it is Hydra's to look at, and changes nothing of what is said."""
    alone, beside = (run_outside(tmp_path, "--help", *words) for words in ((), ("seed=1",)))
    assert alone.code == beside.code == 0
    assert alone.out == beside.out and "Groups and their choices" in alone.out


def test_printing_the_configuration_runs_nothing(tmp_path: Path) -> None:
    result = run_here(tmp_path, *SMALL, "--cfg", "job")
    assert result.code == 0 and "num_components: 5" in result.out and "hydra:" not in result.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("data=linear_gaussian",), ("data=mixture_rings",), ("experiment=oracle",)])
def test_data_of_real_numbers_bring_a_likelihood_and_the_command_line_wins(words: tuple[str, ...]) -> None:
    assert composed(*words).likelihood._target_.endswith("GaussianLikelihood")
    for order in ((*words, "likelihood=bernoulli"), ("likelihood=bernoulli", *words)):
        assert composed(*order).likelihood._target_.endswith("BernoulliLikelihood")
    assert composed(*words, "vae=identity").net._target_.endswith("Identity")


def test_one_run_to_compare_needs_no_brackets() -> None:
    assert validate(composed("stage=compare", "compare.runs=latest")).compare.runs == ["latest"]
    assert validate(composed("stage=compare", "compare.runs=[a,b]")).compare.runs == ["a", "b"]
