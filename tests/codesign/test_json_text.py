"""JSON from outside: what is taken, and every refusal in one line and at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from codesign import json_text
from codesign.errors import UserError
from codesign.json_text import parse_json, read_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, -2.5e-3, "é", true, null]}', {"a": [1, -2.5e-3, "é", True, None]}),
        ('"\\ud83d\\ude00"', "😀"),
        ("\ufeff{}", {}),
        (b"\xef\xbb\xbf[1]", [1]),
        ("9" * 1000, 10**1000 - 1),
        ('"\\ud800"', "\ud800"),
        ("0.1" + "0" * 200, 0.1),
        ("[" * 100 + "]" * 100, json.loads("[" * 100 + "]" * 100)),
        ('[{"a": 1}, {"a": 1}]', [{"a": 1}, {"a": 1}]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values(text: str | bytes, value: Any) -> None:
    assert parse_json(text, "x") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x is not JSON: Expecting value at line 1 column 1"),
        ('{"a": 1,}', "x is not JSON: .* at line 1 column"),
        ("[1]\n[2]", "x is not JSON: Extra data at line 2 column 1"),
        ("9" * 5000, "x: a number has 5000 digits, 1000 at most"),
        ("-0." + "1" * 10**6, "x: a number has 1000003 digits"),
        ("1e999", "x: 1e999 is too large; give a finite number"),
        ("[NaN]", "x: NaN is no value of JSON"),
        ("-Infinity", "x: -Infinity is no value of JSON"),
        ("[" * 10**6, "x is nested too deeply, 100 levels at most"),
        ('{"a":' * 10**5, "x is nested too deeply"),
        ("[" * 101 + "]" * 101, "x is nested too deeply"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "x: key 'b' is given twice; keep one"),
        ('{"' + "k" * 10**6 + '": 1, "' + "k" * 10**6 + '": 1}', "x: key 'k{60}' is given twice"),
        (b'"\xed\xa0\x80"', "x is not a text file in UTF-8"),
        ("[1]".encode("utf-16"), "x is not a text file in UTF-8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_refusals(text: str | bytes, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UserError, match=f"^{message}") as caught:
        parse_json(text, "x")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert time.perf_counter() - start < 2


def test_many_keys_take_linear_time() -> None:
    """Half a megabyte of keys, the last of them twice."""
    keys = [f'"{i}": 0' for i in range(60_000)]
    start = time.perf_counter()
    with pytest.raises(UserError, match="key '59999' is given twice"):
        parse_json("{" + ", ".join([*keys, keys[-1]]) + "}", "x")
    assert time.perf_counter() - start < 2


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"cannot read .*a.json: No such file"):
        read_json(path)
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_json(tmp_path)
    path.write_bytes(b"[1, 2]")
    assert read_json(path) == [1, 2]
    monkeypatch.setattr(json_text, "MOST_BYTES", 5)
    with pytest.raises(UserError, match=r"a.json is larger than 5 bytes"):
        read_json(path)
