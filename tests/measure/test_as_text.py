import pytest

from xpruner.measure.as_text import aligned, amount, percent


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (49, "49"),
        (12.5, "12"),
        (1000, "1.00 k"),
        (17680, "17.68 k"),
        (4.608e9, "4.61 G"),
        (22.05e6, "22.05 M"),
    ],
)
def test_amounts_have_a_prefix_and_two_decimals(number, text):
    assert amount(number) == text


def test_shares_are_percent_with_one_decimal():
    assert percent(2 / 3) == "66.7 %"


def test_names_are_aligned_left_and_figures_right():
    assert aligned([("name", "kind", "n"), ("a", "head", "12"), ("longer", "v", "3")], names=2) == (
        "name    kind   n\na       head  12\nlonger  v      3"
    )
