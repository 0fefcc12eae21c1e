import logging
from importlib.metadata import EntryPoint

import pytest

from xpruner import registry
from xpruner.errors import UsageError
from xpruner.registry import Registry


def first():
    return 1


def second():
    return 2


def test_a_thing_is_found_by_its_name_and_an_unknown_one_answered_with_the_nearest():
    things = Registry("dish")
    things.add("soup", 1, first)
    things.add("salad", 2, second)
    assert things.find("soup") == 1 and things.names() == ["salad", "soup"]
    with pytest.raises(UsageError, match="Unknown dish 'soop'; did you mean 'soup'"):
        things.find("soop")


def test_the_same_code_may_register_again_and_other_code_may_not_take_the_name():
    things = Registry("dish")
    things.add("soup", 1, first)
    things.add("soup", 3, first)
    assert things.find("soup") == 3
    with pytest.raises(UsageError, match=r"The dish 'soup' is registered already, by test_registry\.first; choose"):
        things.add("soup", 2, second)


@pytest.fixture
def installed(monkeypatch):
    """Entry points of an installed package, and a record of which were asked for."""
    found, asked = [], []
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.setattr(registry, "entry_points", lambda group: asked.append(group) or found)
    return found, asked


def test_installed_packages_are_imported_once_and_only_where_a_name_is_not_known(installed):
    entries, asked = installed
    entries.append(EntryPoint("mine", "string", "xpruner.dishes"))
    things = Registry("dish", "xpruner.dishes")
    things.add("soup", 1, first)
    assert things.find("soup") == 1 and not asked
    assert things.names() == things.names() == ["soup"] and asked == ["xpruner.dishes"]


def test_an_installed_package_that_is_broken_is_named_and_left_out(installed, caplog):
    entries, _ = installed
    entries.append(EntryPoint("broken", "no_such_module", "xpruner.dishes"))
    things = Registry("dish", "xpruner.dishes")
    things.add("soup", 1, first)
    with caplog.at_level(logging.WARNING, "xpruner"):
        assert things.names() == ["soup"]
    assert "no_such_module" in caplog.text and "cannot be loaded" in caplog.text
