"""Which labels are kept, and what is refused of them."""

from pathlib import Path

import pytest
import torch
from command_line import assert_refused, run_here

from expost.parts.labels import HIDDEN, hide_labels

FAST = ("debug=fast", "net.hidden=[32]", "logger=csv")


@pytest.mark.parametrize("num", [10, 57, 100, 990])
def test_so_many_are_kept_and_evenly(num: int) -> None:
    labels = torch.arange(1000) % 10
    known = hide_labels(labels, num, 10, seed=3)
    kept = known != HIDDEN
    assert int(kept.sum()) == num and known[kept].equal(labels[kept])
    counts = torch.bincount(known[kept], minlength=10)
    assert int(counts.max() - counts.min()) == (num % 10 > 0)
    assert known.equal(hide_labels(labels, num, 10, seed=3))
    assert not known.equal(hide_labels(labels, num, 10, seed=4))


def test_a_class_that_has_few_gives_all_of_them() -> None:
    labels = torch.cat([torch.zeros(3), torch.ones(50), torch.full((60,), 2)]).long()
    known = hide_labels(labels, 33, 3, seed=0)
    assert torch.bincount(known[known != HIDDEN]).tolist() == [3, 15, 15]
    assert hide_labels(labels, 113, 3, seed=0).equal(labels)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("vae=gmvae", "data.labelled=2000"), ("data.labelled=2000", "1,258 training images")),
        (("vae=gmvae", "data.labelled=9"), ("data.labelled=9", "data.labelled=10 or more")),
        (("vae=gmvae", "data.labelled=0"), ("data.labelled=0", "null for all")),
        (("vae=gmvae", "data.labelled=true"), ("data.labelled=True", "null for all")),
        (("vae=gmvae", "data.labelled=ten"), ("data.labelled=ten", "null for all")),
        (("data.labelled=100",), ("data.labelled=100", "vae=gmvae")),
        (("vae=vamp", "data.labelled=100"), ("data.labelled=100", "vae=gmvae")),
        (("vae=gmvae", "data.labelled=100", "vae.prior.num_components=20"), ("vae.prior.num_components=10",)),
        (("vae=gmvae", "data.labelled=100", "vae.prior=realnvp"), ("vae.prior.prior=mixture",)),
        (("vae=gmvae", "data=mixture_rings", "data.labelled=100"), ("mixture_rings has no labels",)),
        (
            ("vae=gmvae", "data.labelled=100", "prior=mixture", "prior.conditional=true"),
            ("prior.conditional=true needs every label",),
        ),
        (("vae=gmvae", "vae.objective.join_after=-1"), ("join_after must not be negative",)),
        (("vae=gmvae", "vae.objective.labelled_batch=0"), ("labelled_batch must be at least 1",)),
    ],
)
def test_labels_that_cannot_be_kept_are_refused(tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_refused(run_here(tmp_path, *FAST, *words), tmp_path, *parts)
