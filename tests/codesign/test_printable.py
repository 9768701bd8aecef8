"""Commands that a report or a message shows can be typed as they stand."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from codesign.printable import shell_line

WORDS = [
    "codesign",
    "",
    "a b",
    "it's",
    '["x"]',
    """it's "x\"""",
    "it's $HOME `id` \\n",
    "it's!",
    "!'\"",
    "a'\nb",
]


def test_a_shell_reads_a_line_as_the_words_it_was_made_of():
    line = shell_line(WORDS)
    assert shlex.split(line) == WORDS
    said = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert said.stdout.decode().split("\0")[:-1] == WORDS


@pytest.mark.parametrize(
    ("word", "typed"),
    [
        ("plain", "plain"),
        ("[0.5]", "'[0.5]'"),
        ('["x"]', """'["x"]'"""),
        ("['x']", """"['x']\""""),
        ("it's $1", """'it'"'"'s $1'"""),
    ],
)
def test_words_are_quoted_as_a_person_would(word, typed):
    assert shell_line([word]) == typed
