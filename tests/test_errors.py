import pytest

from xpruner.errors import UsageError, XPrunerError, unknown


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
