"""Text tables: separators, quotes that are none, blank lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.train.data import DataError, SourceConfig, open_source
from codesign.train.data.sources.rows import is_strict, split_rows

QUOTES = [
    ('"Hello" she said', '"Hello" she said'),
    ('6" plate', '6" plate'),
    ('"unclosed quote', '"unclosed quote'),
    ("four", "four"),
    ('six "x', 'six "x'),
    ('seven "', 'seven "'),
    ('"both ends"', "both ends"),
    ('"a ""b"" c"', 'a "b" c'),
    ('"two\nlines"', "two\nlines"),
    ('"', '"'),
]


def captions_of(path: Path, **more: str) -> list[tuple[str, ...]]:
    source = open_source(SourceConfig(str(path), **more))
    return [source.captions(i) for i in range(len(source))]


@pytest.fixture
def table(tmp_path: Path, picture: Callable) -> Callable[[str, str | bytes], Path]:
    """(name, text) -> a table in a folder with 0.jpg to 9.jpg."""
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))

    def write(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(("separator", "name"), [("\t", "a.tsv"), ("\t", "a.csv"), (",", "a.csv")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quote_swallows_no_rows(separator: str, name: str, end: str, table: Callable) -> None:
    rows = [f"{i}.jpg{separator}{written}" for i, (written, _) in enumerate(QUOTES)]
    path = table(name, end.join(["filepath" + separator + "title", *rows, ""]))
    assert captions_of(path) == [(meant,) for _, meant in QUOTES]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.csv",
            "file_name,caption\n0.jpg,a red cat, on a mat, at night\n1.jpg,two dogs,,\n",
            [("a red cat, on a mat, at night",), ("two dogs",)],
        ),
        ("a.csv", 'file_name, caption\n0.jpg, "a, b"\n', [("a, b",)]),
        ("a.csv", "file_name;caption\n0.jpg;a red, big cat\n", [("a red, big cat",)]),
        ("a.csv", "image| caption\n0.jpg| a red, big cat\n", [("a red, big cat",)]),
        ("a.csv", "\n \r\nfile_name,caption\n\n0.jpg,a cat\n\n", [("a cat",)]),
        ("a.csv", "\ufefffile_name,caption\n0.jpg,a cat\n", [("a cat",)]),
        ("a.csv", '"file_name","caption"\n"0.jpg","a ""cat"", red"\n', [('a "cat", red',)]),
        ("a.csv", 'file_name,caption\n0.jpg,"one, 2\n\n3, 4.5"\n', [("one, 2\n\n3, 4.5",)]),
        ("a.csv", "file_name,caption\r0.jpg,a cat\r1.jpg,a dog\r", [("a cat",), ("a dog",)]),
        ("a.CSV", "file_name,caption\n0.jpg,{a} cat{}\n", [("{a} cat{}",)]),
        ("a.csv", 'file_name,caption\n0.jpg,"a, b" \n1.jpg,"c" ,\n', [("a, b",), ("c",)]),
        (
            "a.csv",
            'file_name,caption\n0.jpg,"first\n1.jpg, second"\n2.jpg, "x ""y""\n3.jpg,z" \n',
            [("first\n1.jpg, second",), ('x "y"\n3.jpg,z',)],
        ),
        # Of tabs there is mostly no quoting: two quotes that happen to be a field's are none.
        ("a.tsv", 'filepath\ttitle\n0.jpg\t"one\n1.jpg\ttwo"\n', [('"one',), ('two"',)]),
        # A lone quote elsewhere: the quotes are characters.
        (
            "a.csv",
            'file_name,caption\n0.jpg,"first\n1.jpg,second"\n2.jpg,6" plate\n',
            [('"first',), ('second"',), ('6" plate',)],
        ),
        ("a.TSV", "file_name\tcaption\n0.jpg\ta, cat\n", [("a, cat",)]),
    ],
)
def test_rows_as_meant(name: str, text: str, expected: list, table: Callable) -> None:
    assert captions_of(table(name, text)) == expected


def test_rows_that_cannot_be_meant_are_counted(table: Callable) -> None:
    text = (
        b"caption,file_name\na cat,0.jpg\na cat, red,1.jpg\ncaf\xe9,2.jpg\na dog,3.jpg\nx,4.jpg\n"
    )
    path = table("a.csv", text)
    source = open_source(SourceConfig(str(path)))
    assert [source.captions(i) for i in range(len(source))] == [("a cat",), ("a dog",), ("x",)]
    assert source.lost == (
        f"{path} line 3: 3 fields, the header has 2; put the caption in quotes",
        f"{path} line 4: is no text in UTF-8",
    )


def test_lines_of_json_that_cannot_be_read_are_counted(table: Callable) -> None:
    good = [f'{{"image": "{i}.jpg", "text": "{i}"}}' for i in range(5)]
    bad = ["[" * 100_000, '{"image": ' + "9" * 5_000 + "}", "{", "[]"]
    path = table("a.jsonl", "\n".join([*good[:2], *bad, *good[2:]]) + "\n")
    source = open_source(SourceConfig(str(path)))
    assert len(source) == 5 and len(source.lost) == 4
    assert [f"line {n}: is no" in why for n, why in enumerate(source.lost, 3)] == [True] * 4
    only = table("b.jsonl", "\n".join([good[0], *bad]))
    with pytest.raises(DataError, match="line 2 is not JSON"):
        open_source(SourceConfig(str(only)))
    half = table("c.jsonl", '{"image": "0.jpg", "text": "a \\ud83d cat"}\n')
    assert captions_of(half) == [("a \ufffd cat",)]


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ('["a dog", "two, \\"dogs\\""]', ("a dog", 'two, "dogs"')),
        (" ['a dog', \"a dog's\"] ", ("a dog", "a dog's")),
        ('["a", null, ""]', ("a",)),
        ("['a' 'b']", ("['a' 'b']",)),  # NumPy's
        ("[untitled]", ("[untitled]",)),
        ("[1, 2]", ("[1, 2]",)),
        ("['\\d', 2]", ("['\\d', 2]",)),
        ("[" * 5000 + "]", ("[" * 5000 + "]",)),
        ("['" + "[" * 5000 + "]", ("['" + "[" * 5000 + "]",)),
    ],
)
def test_lists_of_captions_in_a_field(field: str, meant: tuple, table: Callable) -> None:
    written = io.StringIO()
    csv.writer(written).writerows([["file_name", "raw"], ["0.jpg", field]])
    path = table("a.csv", written.getvalue())
    assert captions_of(path, caption_column="raw") == [meant]


def test_columns_of_json_are_those_of_most_rows(table: Callable) -> None:
    rows = [
        {"file_name": "0.jpg"},
        {"file_name": "1.jpg", "caption": "one"},
        {"file_name": "2.jpg", "text": "no"},
        {"file_name": "3.jpg", "caption": "three", "text": "no"},
        {"image": "4.jpg", "caption": "four"},
        {"file_name": "5.jpg", "caption": None},
        {},
    ]
    path = table("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(SourceConfig(str(path)))
    assert [source.captions(i) for i in range(len(source))] == [("one",), ("three",)]
    lacking = {1: "caption", 3: "caption", 5: "file_name", 6: "caption", 7: "file_name"}
    assert source.lost == tuple(f"{path} line {n}: no {what}" for n, what in lacking.items())
    with pytest.raises(DataError, match="no column words for captions; its columns are: file_name"):
        open_source(SourceConfig(str(path), caption_column="words"))
    named = open_source(SourceConfig(str(path), caption_column="text"))
    assert [named.captions(i) for i in range(len(named))] == [("no",), ("no",)]
    with pytest.raises(DataError, match="line 1 is an empty object"):
        open_source(SourceConfig(str(table("b.jsonl", "{}\n"))))


@given(
    st.lists(
        st.lists(st.text(alphabet='ab ,;\t"\n\r|.', max_size=8), min_size=2, max_size=2),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([",", "\t", ";"]),
)
@settings(max_examples=300, deadline=None)
def test_what_the_csv_module_writes_is_read(rows: list[list[str]], separator: str) -> None:
    rows = [["0", second or "x"] if first else [first, second] for first, second in rows]
    rows = [[f"n{row[0]}", row[1]] for row in rows]
    file = io.StringIO()
    csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
    lines = io.StringIO(file.getvalue(), newline="")
    # skipinitialspace strips only what stands outside quotes.
    assert [fields for _, fields in split_rows(lines, separator)] == rows


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.text(alphabet='a ,"\n.jpg', max_size=12)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None)
def test_a_strict_table_is_read_as_the_csv_module_reads_it(rows: list[tuple[str, str]]) -> None:
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows(rows)

    def lines() -> io.StringIO:
        return io.StringIO(written.getvalue(), newline="")

    assert is_strict(lines(), ",", 2) and not is_strict(lines(), ",", 3)
    found = split_rows(lines(), ",", 2, lambda: is_strict(lines(), ",", 2))
    assert [tuple(fields) for _, fields in found] == rows


def test_many_unpaired_quotes_take_no_longer() -> None:
    lines = [f'{i}.jpg,"{"x" * 50}\n' for i in range(20_000)]
    assert sum(1 for _ in split_rows(lines, ",", 2)) == 20_000
