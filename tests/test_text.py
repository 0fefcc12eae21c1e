"""Names from outside: what would steer a terminal or a page is written out, everything else stays as it is."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpruner.text import printable, printable_lines

BIDI = [*"\u061c\u200e\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("cat\nxpruner: error", r"cat\nxpruner: error"),
        ("a\tb\r\x07\x7f\x9b2J", r"a\tb\r\x07\x7f\x9b2J"),
        ("gpj.\u202etac", r"gpj.\u202etac"),
        ("two\u2028lines", r"two\u2028lines"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        ("Käse, 猫, 🐈\u200d⬛, a b, مرحبا", "Käse, 猫, 🐈\u200d⬛, a b, مرحبا"),
    ],
)
def test_what_is_hidden_is_written_out(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters(), max_size=20))
def test_what_is_printable_can_be_shown_anywhere(text):
    shown = printable(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in BIDI for letter in shown)
    assert printable(shown) == shown == shown.encode("utf-8").decode("utf-8")
    kept = [letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp", "Cf")]
    assert [letter for letter in kept if letter not in shown] == []


def test_lines_of_ours_stay():
    assert printable_lines("a: \x1b\nb: 2\n") == "a: \\x1b\nb: 2\n"
