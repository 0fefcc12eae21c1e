"""JSON values that were damaged at one place."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

WRONG = [None, True, -1, 0.5, "?", [], [0.5], {"?": 1}, 10**400, float("nan"), float("-inf")]


def places(tree: Any) -> Iterator[tuple]:
    """Yields where values stand in a tree: keys and numbers from the root on."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in inner:
        yield (step,)
        yield from ((step, *rest) for rest in places(value))


def damaged(tree: Any, *, spared: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """Returns trees of which one key is dropped, one item is doubled, or one value has another type or range.

    Args:
        tree: A JSON value.
        spared: Keys below which nothing is changed, as nothing is read there.
    """
    found = [place for place in places(tree) if not set(place) & set(spared)]
    return st.tuples(st.sampled_from(found), st.sampled_from(["drop", "double", *WRONG])).map(
        lambda choice: _change(tree, *choice)
    )


def _change(tree: Any, place: tuple, how: Any) -> Any:
    tree = copy.deepcopy(tree)
    parent = tree
    for step in place[:-1]:
        parent = parent[step]
    if how == "drop":
        del parent[place[-1]]
    elif how == "double" and isinstance(parent, list):
        parent.insert(place[-1], parent[place[-1]])
    else:
        parent[place[-1]] = how
    return tree


def same(found: Any, wanted: Any) -> bool:
    """Returns whether two values are equal, and of one type all the way down."""
    return json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)
