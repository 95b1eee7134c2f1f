"""A prior's section may hold other priors' sections: by name, by name with changes, or whole."""

from collections.abc import Sequence

import pytest
import torch

from expost.base.errors import UserError
from expost.config.schema import Limits, Node
from expost.export.config import Exported, build_prior
from expost.export.description import prior_description
from expost.parts.priors import make_prior, prior_nodes, suited
from expost.parts.sections import title_of, written_out
from expost.store.tensors import layouts
from stage1_vae.latents import LatentSpec, Support
from stage2_prior.prior import Prior, Wrapper
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture

VECTOR, CPU = LatentSpec((3,), num_classes=2), torch.device("cpu")
OFFERED = prior_nodes()


class Based(Gaussian):
    """A Gaussian that holds others, and does nothing with them."""

    prior_keys = ("base", "others")

    def __init__(self, spec: LatentSpec, base: Prior | None = None, others: Sequence[Prior] = ()) -> None:
        super().__init__(spec)
        self.parts = torch.nn.ModuleList([*([base] if base else []), *others])


BASED: Node = {"_target_": f"{__name__}.Based"}


def made(**given: object) -> list[Prior]:
    prior = make_prior(BASED | given, VECTOR, 100, 0, CPU)
    assert isinstance(prior, Based)
    return [part for part in prior.parts if isinstance(part, Prior)]


def inner(prior: Prior) -> Prior:
    return inner(prior.inner) if isinstance(prior, Wrapper) else prior


def test_by_name_with_changes_or_whole_and_in_their_wrappers() -> None:
    whole = {"_target_": "stage2_prior.priors.gaussian.Gaussian", "conditional": True, "wrap": ["standardize"]}
    parts = made(base="autoregressive", others=["gaussian", {"prior": "mixture", "num_components": 7}, whole])
    assert [type(part).__name__ for part in parts] == ["Defensive", "Gaussian", "Mixture", "Standardized"]
    assert isinstance(parts[2], Mixture) and parts[2].num_components == 7
    assert [part.num_classes for part in parts] == [0, 0, 0, 2]
    assert [part.title for part in parts] == ["autoregressive", "gaussian", "mixture num_components=7", "gaussian"]
    assert parts[0].fit_settings["max_epochs"] == OFFERED["autoregressive"]["fit"]["max_epochs"]
    assert parts[0].fit_settings["precision"] != "auto"


def test_each_begins_with_the_weights_that_it_would_have_alone() -> None:
    alone = make_prior(OFFERED["autoregressive"], VECTOR, 100, 5, CPU).state_dict()
    prior = make_prior(BASED | {"others": ["gaussian", "autoregressive"]}, VECTOR, 100, 5, CPU)
    assert isinstance(prior, Based)
    state = prior.parts[1].state_dict()
    assert alone.keys() == state.keys() and all(torch.equal(alone[name], state[name]) for name in alone)


def test_limits_hold_for_each_and_what_models_other_latents_takes_over() -> None:
    node = written_out(BASED | {"others": ["mixture", "autoregressive"]}, OFFERED)
    mixture, _ = suited(node, VECTOR, 100, Limits(steps=3, tokens=None), OFFERED)["others"]
    assert mixture["max_iter"] == 3
    codes = LatentSpec((4,), Support.CODES, ((2, 2),), (8,))
    _, transformer = suited(node, codes, 100, Limits(steps=None, tokens=None), OFFERED)["others"]
    assert transformer["_target_"].endswith(".Transformer") and "otherwise" not in transformer


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base": "mixtur"}, "prior.base: mixtur: no such prior; did you mean .mixture"),
        ({"base": {"prior": "mixture", "num_component": 3}}, "prior.base: mixture has no key num_component"),
        ({"base": {"num_components": 3}}, "prior.base: {'num_components': 3} is no prior; give a name"),
        ({"others": [3]}, "prior.others: 3 is no prior"),
        ({"base": {"prior": "mixture", "num_components": 0}}, "num_components=0"),
        ({"base": {"prior": "mixture", "num_components": "ten"}}, "prior.base.num_components=ten"),
        ({"others": ["unigram"]}, "unigram.*these latents are real"),
        ({"base": {"prior": "transformer", "fit": {"max_epoch": 3}}}, "transformer has no key max_epoch"),
    ],
)
def test_mistakes_are_one_line(given: Node, words: str) -> None:
    with pytest.raises(UserError, match=words):
        made(**given)


def test_an_export_holds_them_with_their_wrappers() -> None:
    node = BASED | {"base": "autoregressive", "others": [{"prior": "gaussian", "conditional": True}]}
    prior = make_prior(node, VECTOR, 100, 0, CPU)
    described = prior_description(written_out(node, OFFERED), VECTOR)
    described["prior"]["_target_"] = "stage2_prior.priors.gaussian.Gaussian"  # a test's own class may not be named
    parts = [described["prior"].pop("base"), *described["prior"].pop("others")]
    facts = {"made_with": {}, "files": {}, "format": "", "sha256": ""}
    for part, expected in zip(parts, prior.get_submodule("parts").children(), strict=True):
        alone = {key: value for key, value in part.items() if key not in ("wrap", "title")}
        wrap = {"wrap": [wrapper["_target_"] for wrapper in part["wrap"]]}
        config = Exported.model_validate({**described, **facts, **wrap, "prior": alone})
        assert layouts(build_prior(config, VECTOR, 1000)) == layouts(expected)


def test_titles_are_of_the_file_that_it_is_nearest_to() -> None:
    assert title_of(OFFERED["mixture"], OFFERED) == "mixture"
    assert title_of(OFFERED["mixture"] | {"num_components": 9, "covariance": "tied"}, OFFERED) == (
        "mixture num_components=9 covariance=tied"
    )
    assert title_of(BASED, OFFERED) == "based"
