"""Files of arrays that mean harm, or hold what is no array, are refused in one line, with nothing executed."""

from pathlib import Path

import h5py
import pytest
from hostile.formats import HDF5, MATLAB, TEXT_AND_TIFF, TORCH, X
from hostile.watch import refused

from stage1_vae.data.arrays import Arrays
from stage1_vae.data.images import DataError

ATTACKS = {
    **{f"{name}.h5": attack for name, attack in HDF5.items()},
    **{f"{name}.mat": attack for name, attack in MATLAB.items()},
    **{f"{name}.pt": attack for name, attack in TORCH.items()},
    **TEXT_AND_TIFF,
}


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    monkeypatch.chdir(tmp_path)
    make, match = ATTACKS[name]
    path = tmp_path / f"set{Path(name).suffix}"
    make(path)
    with refused(rf"set\..*({match})", tmp_path, kind=DataError):
        Arrays(str(path), memory_limit_gib=limit).load()


def test_what_is_not_asked_for_may_be_anything(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["x"] = X
        file["secret"] = h5py.ExternalLink("secret.h5", "/x")
        file["names"] = h5py.SoftLink("/x")
    data = Arrays(str(tmp_path / "set.h5")).load()
    assert data.shape == (1, 10, 10) and "secret" in data.left_out[0]
