"""Every layout of files is taken as it is right, or refused in words, and docs/layouts.md tells it."""

from pathlib import Path

import pytest
from layouts.cases import Layout, facts, loaded, said
from layouts.page import MODULES, PAGE, page

ALL = [layout for module in MODULES for layout in module.LAYOUTS]


@pytest.mark.parametrize("layout", ALL, ids=lambda layout: layout.title[:60])
def test_layout(layout: Layout, tmp_path: Path) -> None:
    found = loaded(layout, tmp_path)
    if layout.taken is None:
        assert isinstance(found, str), f"taken: {facts(found)}"
        assert layout.refused and "\n" not in found
        for word in layout.refused:
            assert word in found, found
        return
    assert not isinstance(found, str), f"refused: {found}"
    expected = {key: value for key, value in layout.taken.items() if key != "says"}
    assert expected and {key: facts(found)[key] for key in expected} == expected
    for word in layout.taken.get("says", ()):
        assert word in said(found, tmp_path), said(found, tmp_path)


def test_page_tells_them() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/support/layouts/page.py"
