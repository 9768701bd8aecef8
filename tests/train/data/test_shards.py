"""Tar shards: pairing, the kept index, damage, and names with braces."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.train.data import DataError, SourceConfig, open_source
from codesign.train.data.sources import shard_index
from codesign.train.data.sources.braces import expand
from simulators.samples import all_of


def numbered(start: int, count: int, picture: Callable) -> dict[str, bytes]:
    """Members as img2dataset writes them."""
    members = {}
    for i in range(start, start + count):
        members[f"{i:05}.jpg"] = picture(i)
        members[f"{i:05}.json"] = json.dumps({"caption": f"other {i}", "width": 9}).encode()
        members[f"{i:05}.txt"] = f"caption {i}\n".encode()
    return members


def test_every_way_to_name_shards(
    write_tar: Callable, picture: Callable, number_of: Callable, tmp_path: Path
) -> None:
    for shard in range(3):
        write_tar(f"data/{shard:03}.tar", numbered(4 * shard, 4, picture))
    # Beside its shards img2dataset leaves what is no data.
    (tmp_path / "data" / "000.parquet").write_bytes(b"statistics")
    (tmp_path / "data" / "000_stats.json").write_text("{}")
    expected = [(i, (f"caption {i}",), -1) for i in range(12)]
    data = f"{tmp_path}/data"
    for path in (data, f"{data}/*.tar", f"{data}/{{000..002}}.tar", f"{data}/00[0-2].tar"):
        assert all_of(open_source(SourceConfig(path)), number_of) == expected
    joined = f"{data}/002.tar::{data}/{{000,001}}.tar"
    found = all_of(open_source(SourceConfig(joined)), number_of)
    assert found == expected[8:] + expected[:8]
    one = open_source(SourceConfig(f"{data}/001.tar"))
    assert all_of(one, number_of) == expected[4:8]
    assert one.where(1) == f"{data}/001.tar: 00005" and one.lost == ()


def test_members_are_paired_by_name(
    write_tar: Callable, picture: Callable, number_of: Callable
) -> None:
    long = "a/" * 60 + "deep"
    path = write_tar(
        "x.tar",
        {
            "b.json": json.dumps({"text": ["one", " two ", ""], "n": 1}).encode(),
            "b.png": picture(1),
            "lone.txt": b"no picture",
            "c.seg.png": picture(9),
            "c.webp": picture(2, "PNG"),
            "c.txt": b" ",
            f"{long}.jpg": picture(3),
            f"{long}.txt": "déjà vu".encode(),
            "d/b.PNG": picture(4),
            "d/b.json": b"{broken",
        },
        format=tarfile.PAX_FORMAT,
    )
    source = open_source(SourceConfig(str(path)))
    assert all_of(source, number_of) == [
        (1, ("one", "two"), -1),
        (2, (), -1),
        (3, ("déjà vu",), -1),
        (4, (), -1),
    ]
    other = open_source(SourceConfig(str(path), caption_column="n"))
    assert other.captions(0) == () and other.captions(2) == ("déjà vu",)


def test_classes_of_shards(
    write_tar: Callable, picture: Callable, number_of: Callable, tmp_path: Path
) -> None:
    members = {}
    for i in range(4):
        members |= {f"{i}.png": picture(i), f"{i}.cls": f"{i % 2}\n".encode()}
    path = write_tar("data/test/0.tar", members)
    with pytest.raises(DataError, match="has classes without names; give classes"):
        open_source(SourceConfig(str(path)))
    (tmp_path / "data" / "classnames.txt").write_text("yak\nox\n")
    source = open_source(SourceConfig(str(path)))
    assert source.class_names == ("yak", "ox") and source.labels.tolist() == [0, 1, 0, 1]
    split = open_source(SourceConfig(str(tmp_path / "data"), split="test"))
    assert all_of(split, number_of) == all_of(source, number_of)


def test_shards_with_names_of_their_own_are_joined_by_name(
    write_tar: Callable, picture: Callable, number_of: Callable, tmp_path: Path
) -> None:
    for split, start in (("train", 0), ("test", 4)):
        members = {}
        for i in range(3):
            members |= {f"{i}.png": picture(start + i), f"{i}.cls": str(i).encode()}
        write_tar(f"data/{split}/0.tar", members)
    own = {split: tmp_path / "data" / split / "classnames.txt" for split in ("train", "test")}
    own["train"].write_text("cat\ndog\nyak\n")
    own["test"].write_text("yak\nbee\ncat\n")
    for path in (str(tmp_path / "data"), f"{tmp_path}/data/{{train,test}}/0.tar"):
        source = open_source(SourceConfig(path, split="all"))
        named = {
            number_of(source.image(i)): source.class_names[label]
            for i, label in enumerate(source.labels)
        }
        assert named == {0: "cat", 1: "dog", 2: "yak", 4: "yak", 5: "bee", 6: "cat"}
        assert sorted(source.class_names) == ["bee", "cat", "dog", "yak"]
    for names, why in {
        "yak\ncat\ncat": "has two classes called cat",
        "yak\nbee": "has a class 2, but names for 2",
        "": "has classes without names",
    }.items():
        own["test"].write_text(names)
        with pytest.raises(DataError, match=f"{why}, and .* names its classes otherwise") as caught:
            open_source(SourceConfig(str(tmp_path / "data"), split="all"))
        assert "\n" not in str(caught.value)
    own["test"].write_text("cat\ndog\nyak")
    assert open_source(SourceConfig(path, split="all")).labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("kind", ["retrieval\n", "zeroshot_classification", None])
def test_lines_of_a_text_are_captions_of_retrieval(
    kind: str | None, write_tar: Callable, picture: Callable, tmp_path: Path
) -> None:
    text = "a dog runs\n\n the brown dog\n"
    write_tar("data/test/0.tar", {"0.png": picture(0), "0.txt": text.encode()})
    if kind is not None:
        (tmp_path / "data" / "dataset_type.txt").write_text(kind)
    captions = open_source(SourceConfig(str(tmp_path / "data"), split="test")).captions(0)
    lines = ("a dog runs", "the brown dog")
    assert captions == (lines if kind == "retrieval\n" else (text.strip(),))


def test_the_index_is_kept_until_the_shard_changes(
    write_tar: Callable,
    picture: Callable,
    number_of: Callable,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_tar("x.tar", numbered(0, 3, picture))
    config, walked = SourceConfig(str(path)), []
    walk = shard_index.index_shard
    monkeypatch.setattr(shard_index, "index_shard", lambda p: walked.append(p) or walk(p))
    progress: list[tuple[int, int]] = []
    first = open_source(config, progress=lambda *done: progress.append(done))
    assert walked == [path] and progress == [(1, 1)]
    again = open_source(config)
    assert len(walked) == 1 and all_of(again, number_of) == all_of(first, number_of)
    assert [file.suffix for file in cache.iterdir()] == [".npz"]
    for file in cache.iterdir():  # a damaged index is made anew
        file.write_bytes(file.read_bytes()[:50])
    assert len(open_source(config)) == 3 and len(walked) == 2
    write_tar("x.tar", numbered(5, 2, picture))
    os.utime(path, ns=(1, 1))
    assert [number for number, *_ in all_of(open_source(config), number_of)] == [5, 6]
    assert len(walked) == 3


@pytest.mark.slow  # two processes start
def test_processes_walk_many_shards(
    write_tar: Callable, picture: Callable, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(5):
        write_tar(f"data/{i}.tar", numbered(2 * i, 2, picture))
    bad = write_tar("data/5.tar", {"../x.jpg": b""})
    monkeypatch.setattr(shard_index, "_SHARDS_A_PROCESS", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    walked: list[Path] = []
    walk = shard_index.index_shard
    monkeypatch.setattr(shard_index, "index_shard", lambda p: walked.append(p) or walk(p))
    config = SourceConfig(str(bad.parent))
    with pytest.raises(DataError, match="points outside"):
        open_source(config)
    assert walked == [bad] and len(list(cache.iterdir())) == 5
    bad.unlink()
    shutil.rmtree(cache)
    progress: list[tuple[int, int]] = []
    source = open_source(config, progress=lambda *done: progress.append(done))
    assert len(source) == 10 and walked == [bad]
    assert sorted(progress) == [(i, 5) for i in range(1, 6)]
    # Where they cannot start, it is done here.
    shutil.rmtree(cache)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert len(open_source(config)) == 10 and len(walked) == 6


def test_a_shard_that_shrinks_is_a_failed_reading(write_tar: Callable, picture: Callable) -> None:
    path = write_tar("x.tar", numbered(0, 3, picture))
    source = open_source(SourceConfig(str(path)))
    path.write_bytes(path.read_bytes()[:5000])
    assert source.image(0)
    with pytest.raises(OSError, match="the shard has become shorter since it was indexed"):
        source.image(2)
    assert source.captions(2) == ()


def test_a_truncated_shard_keeps_what_is_whole(
    write_tar: Callable, picture: Callable, number_of: Callable, tmp_path: Path
) -> None:
    whole = write_tar("x.tar", numbered(0, 6, picture)).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        ends = {m.name: m.offset_data + m.size for m in tar.getmembers()}
    last = max(ends.values())
    cut = tmp_path / "cut.tar"
    for length in (*range(600, last, 700), *range(1024, last, 4096), last - 1, last):
        cut.write_bytes(whole[:length])
        index = shard_index.index_shard(cut)
        # The picture and the last caption of each sample that lie before the cut.
        complete = [i for i in range(6) if ends[f"{i:05}.txt"] <= length]
        keys = [key.decode() for key in index.key]
        # Of the last it may be unknown whether it is all there.
        assert keys == [f"{i:05}" for i in complete][: len(keys)]
        assert len(keys) >= len(complete) - 1
        assert index.lost.startswith(("cut short within 0000", "cut short or damaged after 0000"))
    cut.write_bytes(whole[: ends["00004.txt"] - 3])
    source = open_source(SourceConfig(f"{cut}::{tmp_path}/x.tar"))
    assert source.lost == (f"{cut}: cut short within 00004.txt",)
    assert [number for number, *_ in all_of(source, number_of)] == [0, 1, 2, 3, *range(6)]
    cut.write_bytes(b"")
    assert open_source(SourceConfig(f"{cut}::{tmp_path}/x.tar")).lost == (f"{cut}: empty file",)
    with pytest.raises(DataError, match=r"cut\.tar holds no pictures"):
        open_source(SourceConfig(str(cut), holdout=0.5))


def test_a_damaged_header_ends_a_shard(
    write_tar: Callable, picture: Callable, tmp_path: Path
) -> None:
    path = write_tar("x.tar", numbered(0, 6, picture))
    with tarfile.open(path) as tar:
        at = tar.getmember("00003.json").offset
    data = bytearray(path.read_bytes())
    data[at : at + 512] = b"x" * 512
    path.write_bytes(data)
    index = shard_index.index_shard(path)
    assert [key.decode() for key in index.key] == ["00000", "00001", "00002"]
    assert index.lost == "cut short or damaged after 00003"


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg"])
def test_members_that_point_outside(name: str, write_tar: Callable, picture: Callable) -> None:
    path = write_tar("x.tar", {"ok.jpg": picture(0), name: picture(1)})
    with pytest.raises(DataError, match=r"x\.tar: member .* points outside; rebuild") as caught:
        open_source(SourceConfig(str(path)))
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("00001.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    link = "no plain file" if kind == tarfile.CHRTYPE else "a link"
    with pytest.raises(DataError, match=f"member '00001.jpg' is {link}; rebuild the shard"):
        open_source(SourceConfig(str(path)))


def test_files_that_are_no_shards(write_tar: Callable, picture: Callable, tmp_path: Path) -> None:
    path = write_tar("x.tar", numbered(0, 1, picture))
    data = tmp_path / "bad"
    data.mkdir()
    (data / "gz.tar").write_bytes(gzip.compress(path.read_bytes()))
    (data / "text.tar").write_text("no tar at all, but text " * 50)
    (data / "x.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    (data / "cls.tar").write_bytes(
        write_tar("y.tar", {"0.png": picture(0), "0.cls": b"cat"}).read_bytes()
    )
    for name, message in {
        "gz.tar": "gz.tar is no plain tar file: unpack it where it is compressed",
        "text.tar": "text.tar is no plain tar file",
        "x.tar.gz": "x.tar.gz is an archive that cannot be read in place: unpack it first",
        "cls.tar": "member '0.cls' holds no class number",
        "*.tarr": "matches no file",
        "{000..002}.tar": "000.tar does not exist, but .* names it",
        "*": "bad/x.tar.gz is an archive",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            open_source(SourceConfig(f"{data}/{name}"))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="only local files are read; copy or mount"):
        open_source(SourceConfig("s3://bucket/x.tar"))


# Braces

_bounds = st.tuples(
    st.integers(-12, 120), st.integers(-12, 120), st.integers(1, 4), st.booleans(), st.booleans()
)


@st.composite
def patterns(draw: Callable) -> str:
    """Text with up to two pairs of braces."""
    parts = [draw(st.sampled_from(["", "a", "x-", ".tar"]))]
    for _ in range(draw(st.integers(0, 2))):
        first, last, step, padded, stepped = draw(_bounds)
        digits = 4 if padded else 0
        counted = f"{first:0{digits}d}..{last:0{digits}d}" + (f"..{step}" if stepped else "")
        parts.append("{" + draw(st.sampled_from([counted, "a,b", "x,,y", "1,02", "a", ""])) + "}")
        parts.append(draw(st.sampled_from(["", "b", "_"])))
    return "".join(parts)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash to compare with")
def test_braces_expand_as_in_bash() -> None:
    cases: list[str] = []

    @given(patterns())
    @settings(max_examples=150, deadline=None, database=None)
    def collect(pattern: str) -> None:
        cases.append(pattern)

    collect()
    script = "".join(f"printf '%s\\n' \"\"{case}; echo ==\n" for case in cases)
    output = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    answers = [
        list(lines)
        for end, lines in itertools.groupby(output.stdout.splitlines(), lambda x: x == "==")
        if not end
    ]
    assert len(answers) == len(cases)
    for case, answer in zip(cases, answers, strict=True):
        assert expand(case) == answer, case


@given(st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_ranges_count_every_shard_once(first: int, last: int) -> None:
    names = expand(f"s-{{{first:05}..{last:05}}}.tar")
    step = 1 if last >= first else -1
    assert [int(name[2:7]) for name in names] == list(range(first, last + step, step))


def test_braces_that_stand_for_too_much() -> None:
    with pytest.raises(DataError, match="braces within braces"):
        expand("{a,{b,c}}")
    for pattern in ("{0..99999999}", "{0..9999}{0..9999}"):
        with pytest.raises(DataError, match="stands for over 1000000 names"):
            expand(pattern)


def test_an_index_of_many_samples_is_small(write_tar: Callable, picture: Callable) -> None:
    index = shard_index.index_shard(write_tar("x.tar", numbered(0, 50, picture)))
    arrays = (index.key, index.image, index.caption, index.label)
    assert sum(array.nbytes for array in arrays) == 50 * (5 + 16 + 24 + 4)
    assert all(isinstance(array, np.ndarray) for array in arrays)
