"""Shards with hostile or damaged members: the rest is read, and what is not is named."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codesign.train.data import DataError, SourceConfig, open_source
from codesign.train.data.sources import shard_index

GIB = 1 << 30


def write(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    with tarfile.open(path, "w", errors="surrogateescape", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "number", [b"12345678901", b"2147483648", b"cat", b"", b"1.5", b"1_0", b"9" * 5000]
)
def test_a_wrong_class_number(number: bytes, tmp_path: Path, picture: Callable) -> None:
    members = [("a.png", picture(0)), ("a.cls", number)]
    members += [("b.png", picture(1)), ("b.cls", b"1"), ("c.png", picture(2)), ("c.cls", b"-5")]
    (tmp_path / "classnames.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    path = write(tmp_path / "x.tar", members)
    for _ in range(2):  # walked, and from the cache
        source = open_source(SourceConfig(str(path)))
        assert source.lost == (f"{path}: a: member 'a.cls' holds no class number",)
        assert source.labels.tolist() == [1, -1] and source.class_names == ("cat", "dog")


def test_names(tmp_path: Path, picture: Callable) -> None:
    latin = b"caf\xe9".decode("utf-8", "surrogateescape")
    members = [(f"{latin}.png", picture(0)), (f"{latin}.txt", b"one")]
    members += [("n" * 5000 + ".png", picture(1)), ("n" * 5000 + ".txt", b"two")]
    members += [("a\nb\x1b[1m.png", picture(2)), ("a\nb\x1b[1m.txt", b"three")]
    members += [("alone.txt", b"four"), ("deep.png", picture(4)), ("deep.json", b"[" * 100_000)]
    path = write(tmp_path / "x.tar", members)
    source = open_source(SourceConfig(str(path)))
    assert [source.captions(i) for i in range(3)] == [("one",), ("three",), ()]
    assert source.image(0) == picture(0) and source.where(0) == f"{path}: caf\ufffd"
    assert source.where(1) == f"{path}: a\\nb\\x1b[1m"
    assert len(source.lost) == 2
    assert "a name of 5,000 bytes; up to 255 are read" in source.lost[0]
    assert len(source.lost[0]) < 400
    assert source.lost[1] == f"{path}: alone: no picture that can be read"


@pytest.mark.parametrize("suffix", ["txt", "json", "cls", "jpg"])
def test_members_of_8_gb(suffix: str, tmp_path: Path, picture: Callable) -> None:
    path = tmp_path / "x.tar"
    info = tarfile.TarInfo(f"big.{suffix}")
    info.size = 8 * GIB
    with open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + info.size)
        rest = io.BytesIO()
        with tarfile.open(fileobj=rest, mode="w") as tar:
            small = [("ok.png", picture(3)), ("ok.txt", b"ok")]
            small += [] if suffix == "jpg" else [("big.png", picture(0))]
            for name, data in small:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        file.write(rest.getvalue())
    source = open_source(SourceConfig(str(path)))
    assert len(source) == 1 and source.captions(0) == ("ok",) and source.image(0) == picture(3)
    assert len(source.lost) == 1 and source.lost[0].startswith(f"{path}: big: ")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [8 * GIB, -512])
def test_headers_of_no_such_size(kind: bytes, size: int, tmp_path: Path, picture: Callable) -> None:
    path = write(tmp_path / "x.tar", [("a.png", picture(0)), ("a.txt", b"a"), ("b.png", b"")])
    info = tarfile.TarInfo("long")
    info.size, info.type = size, kind
    begin = shard_index.index_shard(path).image[1, 0] - 512
    with open(path, "r+b") as file:
        file.truncate(begin)
        file.seek(begin)
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(begin + 9 * GIB)
    index = shard_index.index_shard(path)
    assert len(index.label) <= 1 and index.lost.startswith("cut short or damaged after a")


def test_labels_beyond_the_names(tmp_path: Path, picture: Callable) -> None:
    members = [
        (f"{i}.{s}", d) for i in range(3) for s, d in (("png", picture(i)), ("cls", b"%d" % i))
    ]
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    path = write(tmp_path / "x.tar", members)
    with pytest.raises(
        DataError, match=r"x\.tar: 2 is of class 2, but there are names for 2 classes"
    ):
        open_source(SourceConfig(str(path)))
    (tmp_path / "classnames.txt").write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match=r"classnames\.txt line 2 is blank"):
        open_source(SourceConfig(str(path)))


def samples_of(path: Path, number_of: Callable) -> list[tuple[int, tuple[str, ...], int]]:
    source = open_source(SourceConfig(str(path)))
    return [
        (number_of(s.image), s.captions, s.label)
        for s in map(source.__getitem__, range(len(source)))
    ]


@pytest.mark.parametrize("between", [0, 1])
def test_a_key_that_comes_again_is_another_sample(
    between: int, tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    (tmp_path / "classnames.txt").write_text("cat\ndog\nyak\n")
    members, expected = [], []
    for i, key in enumerate("aba" if between else "aaa"):
        members += [
            (f"{key}.cls", b"%d" % i),
            (f"{key}.png", picture(i)),
            (f"{key}.txt", b"%d" % i),
        ]
        expected.append((i, (str(i),), i))
    path = write(tmp_path / "x.tar", members)
    for _ in range(2):  # walked, and from the cache
        assert samples_of(path, number_of) == expected
    assert open_source(SourceConfig(str(path))).lost == ()
    # A run of its own whose other members are elsewhere is no sample: of which would it be?
    torn = write(tmp_path / "torn.tar", [*members, ("c.png", picture(7)), (members[0][0], b"0")])
    assert samples_of(torn, number_of) == [*expected, (7, (), -1)]
    assert open_source(SourceConfig(str(torn))).lost == (
        f"{torn}: {members[0][0][0]}: no picture that can be read",
    )


def test_many_runs_of_one_key_take_no_longer(tmp_path: Path, picture: Callable) -> None:
    members = [(f"{'ab'[i % 2]}.png", b"") for i in range(6000)]
    index = shard_index.index_shard(write(tmp_path / "x.tar", members))
    assert len(index.label) == 6000


def test_members_of_a_sample_may_stand_apart(
    tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    members = [(f"{i}.png", picture(i)) for i in range(3)]
    members += [(f"{i}.json", b'{"caption": "no"}') for i in range(3)]
    members += [(f"{i}.txt", b"%d" % i) for i in range(3)]
    path = write(tmp_path / "x.tar", members)
    assert samples_of(path, number_of) == [(i, (str(i),), -1) for i in range(3)]


def test_second_pictures_are_named_and_hidden_files_are_none(
    tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    members = [("./._a.jpg", b"Mac OS X"), ("./a.jpg", picture(1)), ("./a.png", picture(2))]
    members += [("./._a.txt", b"Mac OS X"), ("./a.txt", b"one"), (".DS_Store", b"")]
    path = write(tmp_path / "x.tar", members)
    assert samples_of(path, number_of) == [(1, ("one",), -1)]
    lost = open_source(SourceConfig(str(path))).lost
    assert lost == (f"{path}: ./a: a second picture, ./a.png, is not read",)


@pytest.mark.parametrize("after", ["archive", "cut", "text", "zeros"])
def test_what_follows_the_end_of_an_archive(
    after: str, tmp_path: Path, picture: Callable, number_of: Callable
) -> None:
    """As `cat a.tar b.tar` makes it: read on, or named."""
    first = write(tmp_path / "a.tar", [("0.png", picture(0)), ("0.txt", b"zero")]).read_bytes()
    second = write(tmp_path / "b.tar", [("0.png", picture(1)), ("0.txt", b"one")]).read_bytes()
    added, lost = {
        "archive": (bytes(1 << 20) + second, ()),
        "cut": (second[:560], ("cut short within 0.png",)),
        "text": (b"and so on" * 200, ("no tar file from byte 10,240 on, after the end of the ",)),
        "zeros": (bytes(3000), ()),
    }[after]
    path = tmp_path / "x.tar"
    path.write_bytes(first + added)
    expected = [(0, ("zero",), -1), (1, ("one",), -1)]
    assert samples_of(path, number_of) == expected[: 1 + (after == "archive")]
    found = open_source(SourceConfig(str(path))).lost
    starts = [f"{path}: {start}" for start in lost]
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts
