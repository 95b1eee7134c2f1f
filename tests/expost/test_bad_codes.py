"""Mistakes with discrete latents: one line with the remedy, exit code 2; and what looks like one and is none."""

from pathlib import Path

import pytest
from command_line import run_here

REFUSED = {
    "no_map": (["vae=fsq", "net=mlp"], "use net=map, net=conv or net=resnet"),
    "one_level": (["vae=fsq", "vae.bottleneck.levels=[8,1]"], "each at least 2"),
    "no_level": (["vae=fsq", "vae.bottleneck.levels=[]"], "at least one number"),
    "lattice_too_large": (["vae=fsq", "vae.bottleneck.levels=[64,64,64]"], "give 2 to 65,536"),
    "codebook_too_large": (["vae=vq", "vae.bottleneck.num_codes=65537"], "give 2 to 65,536"),
    "more_codes_than_places": (["vae=vq", "vae.bottleneck.num_codes=6000"], "5,032 places in all"),
    "one_code": (["vae=vq2", "vae.bottleneck.num_codes=1"], "give 2 to 65,536"),
    "no_code": (["vae=gumbel", "vae.bottleneck.num_codes=0"], "must be at least 1"),
    "no_quantizer": (["vae=residual_vq", "vae.bottleneck.num_quantizers=0"], "give 1 to 256"),
    "endless_quantizers": (["vae=residual_vq", "vae.bottleneck.num_quantizers=100000"], "give 1 to 256"),
    "no_memory": (["vae=vq", "vae.bottleneck.code_dim=1000000000000"], "no memory for a tensor of 476,837 GiB"),
    "no_memory_in_the_net": (["vae=vq", "net.channels=[8,1000000000000]"], "net: no memory for a tensor"),
    "neither_true_nor_false": (["prior=mixture", "prior.conditional=maybe"], "give true or false"),
    "label_of_nobody": (["vae=fsq", "prior.conditional=true", "sample.label=10"], "the classes are 0 to 9"),
    "label_of_truth": (["stage=sample", "prior.conditional=true", "sample.label=true"], "a valid integer"),
    "label_to_an_unconditional_prior": (["vae=fsq", "stage=check", "sample.label=3"], "prior.conditional=true"),
    "more_than_all_codes": (["vae=fsq", "sample.top_k=241"], "give at most 240"),
    "no_bit": (["vae=bernoulli", "vae.bottleneck.latent_dim=0"], "must be at least 1"),
    "decay": (["vae=vq", "vae.bottleneck.decay=1"], "from 0 to below 1"),
    "commitment": (["vae=vq", "vae.bottleneck.commitment=-1"], "must not be negative"),
    "rising_temperature": (["vae=gumbel", "vae.bottleneck.end_temperature=2"], "in that order"),
    "free_nats": (["vae=fsq", "vae.objective.free_nats=0.5"], "set vae.objective.free_nats=0"),
    "several_draws": (
        ["vae=fsq", "~vae.objective", "+vae.objective={_target_: stage1_vae.objectives.iwae.IWAE}"],
        "use the ELBO",
    ),
    "penalty_on_codes": (
        [
            "vae=fsq",
            "~vae.objective",
            "+vae.objective={_target_: stage1_vae.objectives.reconstruction.Reconstruction, latent_penalty: 0.1}",
        ],
        "set vae.objective.latent_penalty=0",
    ),
    "annealing": (["vae=fsq", "evaluation=tight"], "set evaluation.annealing=null"),
    "continuous_prior": (["vae=fsq", "prior=mixture"], "priors that do: "),
    "prior_of_codes": (["vae=gaussian", "prior=unigram"], "priors that do: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_with_the_remedy(name: str, tmp_path: Path) -> None:
    words, remedy = REFUSED[name]
    result = run_here(tmp_path, *words, "logger=csv")
    assert result.code == 2, result.err
    assert len(result.lines) == 1 and remedy in result.lines[0], result.err
    assert not (tmp_path / "runs").exists()


def test_a_map_of_one_place_is_no_mistake(tmp_path: Path) -> None:
    result = run_here(tmp_path, "vae=fsq", "net.channels=[8,8,8]", "prior=bigram", "stage=check", "logger=csv")
    assert result.code == 0, result.err
