"""Every layout of files is taken as it is right, or refused in words, and docs/layouts.md tells it."""

from pathlib import Path

import layouts
import pytest

ALL = [layout for _, some in layouts.named_modules() for layout in some]


@pytest.mark.parametrize("layout", ALL, ids=lambda layout: layout.title[:60])
def test_layout(layout: layouts.Layout, tmp_path: Path):
    found = layouts.loaded(layout, tmp_path)
    if layout.taken is None:
        assert isinstance(found, str), f"taken: {layouts.facts(found)}"
        assert layout.refused and "\n" not in found
        for word in layout.refused:
            assert word in found, found
        return
    assert not isinstance(found, str), f"refused: {found}"
    expected = {key: value for key, value in layout.taken.items() if key != "says"}
    assert expected and {key: layouts.facts(found)[key] for key in expected} == expected
    for word in layout.taken.get("says", ()):
        assert word in layouts.said(found, tmp_path), layouts.said(found, tmp_path)


def test_page_tells_them():
    assert layouts.PAGE.read_text(encoding="utf-8") == layouts.page(), "run: python tests/layouts.py"
