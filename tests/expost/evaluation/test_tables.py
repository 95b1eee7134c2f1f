"""Tables on terminals of every width: nothing cut, nothing taken for markup."""

import io
import re

import pytest
from rich.console import Console, Group
from stored_reports import row, run

from expost.evaluation import oracle
from expost.evaluation.comparison import views
from expost.evaluation.comparison.compare import compare
from expost.evaluation.oracle import Compared
from expost.evaluation.report import Report, Row
from expost.evaluation.tables import Column, lay_out, printable
from expost.evaluation.verdict import conclude
from expost.evaluation.views import terminal_table
from expost.plan.command import terminal_plan
from expost.plan.costs import Cost

NUMBER = re.compile(r"(?<![\w.,])[-+]?\d+(?:,\d{3})*(?:\.\d+)?%?")


def shown(group: Group, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, height=25, color_system=None, highlight=False).print(group)
    return file.getvalue()


def a_report(width: int, name: str = "autoregressive") -> Group:
    rows = {
        key: Row(
            kernel_distance=value,
            rate_nats=-123456.78,
            num_samples=1_234_567,
            memorisation=0.051,
            spread={"kernel_distance": 0.0021, "rate_nats": 1.25} if key == name else {},
        )
        for key, value in zip(
            ("standard_normal", name, "aggregate_draws", "reconstructions", "train_against_test"),
            (0.0123, 1.4567, 0.9876, 1.1111, -0.0293),
            strict=True,
        )
    }
    return terminal_table(conclude(Report("data [red]x[/] \x1b[31m 50%", "f", rows=rows)), width)


def a_comparison(width: int) -> Group:
    runs = [run(f"m{s}", "wrap=[standardize] hidden=[1024,2048,4096]", row(3.0 + s, 21.0, 90.0), s) for s in range(3)]
    runs.append(run("f", "[/] 100% \\ café", row(2.0, 20.0, 80.0, samples_per_second=12_345.6)))
    return views.terminal(compare(runs), width)


def a_plan(width: int) -> Group:
    costs = [Cost(stage, {"a": 1234567890}, 987654321, 4321.0, "123,456 steps of 128") for stage in ("vae", "evaluate")]
    counts = {"train": 60000, "val": 1, "test": 10000}
    facts = {"images": {"name": "[red]", "noun": "images", "shape": [3, 256, 256], "num": counts}}
    return terminal_plan(costs, facts, ["[/] 1,234,567 notes"], width)


def an_oracle(width: int) -> Group:
    rows = [Compared(f"AIS, {n} chains, 20000 steps", -12345.6789, -12346.1234, -0.4445, 0.0123, 20) for n in (16, 32)]
    return oracle.terminal_table("[red] title", rows, "caption of 12,345 images", width)


@pytest.mark.parametrize("width", [20, 32, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("table", [a_report, a_comparison, a_plan, an_oracle])
def test_no_digit_is_lost_and_no_line_too_long(table: object, width: int) -> None:
    wide, narrow = (shown(table(w), w) for w in (200, width))
    assert max(map(len, narrow.splitlines())) <= width and "…" not in narrow
    numbers = set(NUMBER.findall(wide)) if table is not a_report else {"-0.0293", "-123456.78", "1,234,567", "5.1%"}
    whole = {word for word in numbers if len(word) <= width - 4}
    assert len(whole) > 3 and whole <= set(NUMBER.findall(narrow))


@pytest.mark.parametrize("width", [20, 80])
def test_brackets_are_shown_and_characters_that_move_the_cursor_are_spelt(width: int) -> None:
    assert "[red]x[/]" in shown(a_report(width), width) and "\x1b" not in shown(a_report(width), width)
    flat = "".join(shown(a_comparison(width), width).split())
    assert "wrap=[standardize]" in flat and "[/]100%\\café" in flat
    assert "[red]:" in shown(a_plan(width), width) and "[/] 1,234,567" in shown(a_plan(width), width)
    assert "[red] title" in shown(an_oracle(width), width)
    assert printable("a\x1b[31m\n\udcff") == "a\\x1b[31m\\n\\udcff" and printable("[é字]") == "[é字]"


def test_what_does_not_fit_follows_below_under_the_same_labels() -> None:
    columns = [Column("", ["first", "second"], is_label=True)]
    columns += [Column(name, ["-0.0293", "1.5"]) for name in ("one", "two", "three")]
    text = shown(Group(*lay_out(columns, 26)), 26)
    assert [line.split() for line in text.splitlines() if "first" in line] == [
        ["first", "-0.0293", "-0.0293"],
        ["first", "-0.0293"],
    ]
    lines = shown(Group(*lay_out(columns, 14)), 14).splitlines()
    assert [line.strip() for line in lines[:4]] == ["first", "one -0.0293", "two -0.0293", "three"]
