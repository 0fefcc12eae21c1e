"""Tables on narrow terminals: names fold, figures stay whole, and every line fits."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from xpruner.cli.layout import laid_out
from xpruner.cli.tables import new_table

ROWS = [
    ("Siberian husky", "20", "55.00", "50.00", "29.9–70.1", "5.00", "2", "1", "1.000"),
    ("猫", "1234", "100.00", "0.00", "0.0–16.1", "-5.00", "0", "11", "0.125"),
]
COLUMNS = ("images", "dense %", "pruned %", "pruned, 95 % interval", "points lost", "lost", "gained", "p")


def drawn(rows, width: int) -> list[str]:
    """Returns the lines of a table as a terminal of this width shows them."""
    table = new_table("class", *COLUMNS[: len(rows[0]) - 1])
    for row in rows:
        table.add_row(*row)
    file = io.StringIO()
    for part in laid_out(table, width):
        Console(file=file, width=width).print(part, markup=False, highlight=False, emoji=False)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_every_figure_is_there_whole_and_every_line_fits(width):
    lines = drawn(ROWS, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for _, *figures in ROWS:
        assert [figure for figure in figures if figure not in words] == []


def test_a_table_that_fits_is_one_and_keeps_its_widths():
    lines = drawn(ROWS, 200)
    assert lines[1].split() == ["class", *" ".join(COLUMNS).split()]
    assert lines[3].split() == ["Siberian", "husky", *ROWS[0][1:]]


def test_the_name_folds_before_a_figure_moves():
    lines = drawn([("a-name-of-more-than-thirty-letters", "12345")], 24)
    assert "".join(line.split()[0] for line in lines[3:] if line.split()) == "a-name-of-more-than-thirty-letters"
    assert [line for line in lines if line.rstrip().endswith("12345")]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=8), st.integers(24, 120), st.text("ab c", max_size=40))
def test_no_figure_vanishes_at_any_width(figures, width, name):
    words = " ".join(drawn([(name, *map(str, figures))], width)).split()
    assert [figure for figure in figures if str(figure) not in words] == []


def test_names_cannot_break_out_of_their_cells():
    (line,) = [line for line in drawn([("cat\n\x1b[2J[red]", "1")], 80) if "cat" in line]
    assert line.split() == [r"cat\n\x1b[2J[red]", "1"]
