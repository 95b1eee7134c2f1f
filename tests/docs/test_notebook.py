"""The notebook in `docs/` does what it says."""

from pathlib import Path

import pytest
import torch
from documents.notebook import NOTEBOOK, read, run


def test_it_runs_and_its_prior_beats_the_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = read()
    kept = [kinds(cell) for cell in content["cells"]]
    with torch.random.fork_rng():
        names = run(content)
    report = names["report"]
    learned, normal = report.rows["mixture"], report.rows["standard_normal"]
    assert learned.latent_nll_nats < normal.latent_nll_nats - 1
    assert [kinds(cell) for cell in content["cells"]] == kept, "what is kept in the file is what the cells show"
    assert sum("display_data" in shown for shown in kept) == 2


def kinds(cell: dict[str, list[dict[str, str]]]) -> list[str]:
    """Of what a cell shows."""
    return [output["output_type"] for output in cell.get("outputs", [])]


def test_words_stand_before_every_code_cell_and_the_file_is_small() -> None:
    types = [cell["cell_type"] for cell in read()["cells"]]
    assert types == ["markdown", "code"] * (len(types) // 2)
    assert NOTEBOOK.stat().st_size < 300_000
