import pytest

from xpruner.errors import LISTED, UsageError, XPrunerError, require, unknown


def test_exit_codes_tell_failures_from_wrong_requests():
    assert (XPrunerError.exit_code, UsageError.exit_code) == (1, 2)


def test_a_wrong_request_can_be_caught_as_either_kind():
    for kind in (XPrunerError, ValueError):
        with pytest.raises(kind, match="out of range"):
            raise UsageError("budget 1.5 is out of range.")


def test_unknown_names_the_nearest():
    error = unknown("method", "x_pruner", ["xpruner", "taylor", "random"])
    assert isinstance(error, UsageError)
    assert str(error) == "Unknown method 'x_pruner'; did you mean 'xpruner'?"


def test_unknown_lists_all_in_order_when_none_is_near():
    error = unknown("method", "zzz", iter(["taylor", "random"]))
    assert str(error) == "Unknown method 'zzz'; known are: random, taylor."


def test_of_too_many_to_be_listed_the_nearest_are_named():
    """Of 25 names without a letter of the one that is asked for, but for the five that have its x."""
    known = [f"{letter}{letter}{letter}" for letter in "abcdefghijklmnopqrst"] + [f"{n}{n}x" for n in range(5)]
    assert len(known) == LISTED + 1
    error = unknown("unit", "yyyyyx", known, "`xpruner inspect` lists them")
    assert str(error) == (
        "Unknown unit 'yyyyyx'; the nearest of 25 are: 44x, 33x, 22x, 11x, 00x; `xpruner inspect` lists them."
    )
    assert str(unknown("unit", "yyyyyx", known)).endswith("22x, 11x, 00x.")
    assert "known are: " in str(unknown("unit", "yyyyyx", known[1:]))


def test_a_library_that_is_there_is_imported():
    assert require("json.decoder", "read").__name__ == "json.decoder"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nosuch.part", "draw", "plots"), "nosuch is needed to draw; pip install 'xpruner[plots]'."),
        (("nosuch", "draw"), "nosuch is needed to draw; pip install 'xpruner[nosuch]'."),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(arguments, said):
    with pytest.raises(UsageError) as raised:
        require(*arguments)
    assert str(raised.value) == said
