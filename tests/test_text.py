"""Other people's text: what is replaced, and what stays."""

import unicodedata

import pytest

from resnet_keras.text import one_line, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),  # clears a terminal
        ("a\tb\r\nc", r"a\tb\r\nc"),
        ("\x7f\x85", r"\x7f\x85"),  # delete, next line
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),  # what str.splitlines calls ends of lines
        ("gpj.\u202eexe", r"gpj.\u202eexe"),  # shown as gpj.exe backwards
        ("\u2066x\u2069\u200f", r"\u2066x\u2069\u200f"),
        ("\ufeffx", r"\ufeffx"),  # a byte order mark is invisible
        ("\ud800", r"\ud800"),  # which UTF-8 does not encode
        ("\U000e0041", r"\U000e0041"),  # tags, in which text can be hidden
    ],
    ids=ascii,
)
def test_unsafe_characters_become_python_s_escapes(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    ["Schäfer 犬 \U0001f415", "می\u200cشود", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "a\xa0b",
     "\ue000", "\\x1b", "مرحبا", ""],
    ids=ascii,
)  # fmt: skip
def test_what_only_looks_unusual_stays(text):
    assert printable(text) == text


def test_every_result_is_one_line_that_utf_8_encodes():
    everything = "".join(map(chr, range(0x110000)))
    shown = printable(everything)
    assert shown.splitlines() == [shown] and shown.encode().decode() == shown
    left = {unicodedata.bidirectional(c) for c in shown if unicodedata.category(c) == "Cf"}
    assert left == {"BN"}  # the joiners, which have no direction
    assert printable(shown) == shown


def test_one_line_joins_words():
    assert one_line("  a\n\n b\tc\u2028d\x1b[m ") == r"a b c d\x1b[m"
    assert one_line(" \n ") == ""


def test_a_text_is_cut_in_its_middle():
    assert shortened("x" * 300) == "x" * 300
    cut = shortened("a" * 200 + "b" * 200)
    assert cut == "a" * 177 + " ... " + "b" * 118 and len(cut) == 300
    assert shortened("0123456789ABC", most=10) == "012 ... BC"
    assert shortened("0123456789", most=7) == "01 ... "
