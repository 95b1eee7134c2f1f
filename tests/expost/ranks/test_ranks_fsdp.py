"""Stage 1 cut up over two real processes over gloo (FSDP2): what is kept and what is stored is whole again."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROJECT, SMALL, keys, run_here
from processes import wait_for

pytestmark = [pytest.mark.filterwarnings("ignore:.*litlogger"), pytest.mark.slow]


def test_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    words: tuple[str, ...] = (*SMALL, "trainer=fsdp", "stage=vae", "trainer.max_epochs=60", "trainer.max_steps=null")
    words += ("trainer.keep_share=1.0", "trainer.schedule=cosine", "data.binarize=dynamic", "likelihood=bernoulli")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    assert run_here(whole, *words).code == 0
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "pipeline.py"), *words], cwd=killed, text=True, encoding="utf-8"
    )
    try:
        wait_for(killed, "runs/store/.resume/*/epoch-*.ckpt", process)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    result = run_here(killed, *words)
    assert result.code == 0 and "continues after epoch" in result.out, result
    files = [next(folder.glob("runs/store/vae/*/model.safetensors")).read_bytes() for folder in (whole, killed)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.patience=4", "trainer.precision=bf16"),
        ("net=conv", "net.batch_norm=true"),
        ("vae=iwae", "trainer.weight_decay=0.1"),
    ],
)
def test_whatever_a_trainer_may_do_leaves_equal_ranks(tmp_path: Path, words: tuple[str, ...]) -> None:
    """That they are equal, bit for bit, is checked at the end of each stage."""
    small = [word for word in SMALL if not (word.startswith("net.") and "net=conv" in words)]
    result = run_here(tmp_path, *small, "trainer=fsdp", "stage=vae", *words)
    assert (result.code, result.err) == (0, "")


def test_a_mistake_that_a_rank_meets_is_one_line(tmp_path: Path) -> None:
    result = run_here(tmp_path, *SMALL, "trainer=fsdp", "trainer.lr=1e30", "stage=vae")
    assert result.code == 2 and len(result.lines) == 1, result.err
    assert "NaN or infinite at step 1" in result.err and not keys(tmp_path, "vae")
