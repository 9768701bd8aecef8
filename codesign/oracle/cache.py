"""Samples on disk: a CSV file an oracle and its settings, a row a sample.

The first line names the oracle and its fingerprint, the second the units. Rows are
appended as they are bought, so a kill tears the last line at most; a torn line is dropped.
Each row holds the constants it was bought under. Where an oracle counts events, a row also
answers under energies that have moved a little: its mapping is kept and priced anew.
A row's last column is the CRC-32 of the others, so that no damaged digit is taken for an answer;
files of older versions lack it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from codesign.accelerator import ON_CHIP
from codesign.caches import cache_folder
from codesign.errors import RunError, UserError
from codesign.openers import unwaiting
from codesign.oracle.interface import Constants, Events, Oracle, Point, Sample
from codesign.renamed import current_keys
from codesign.runs import write_bytes

UNITS = (
    "# one GEMM on one accelerator a row; l2_kib KiB, glb_mib MiB, *_bytes_per_cycle bytes/cycle; "
    "pJ a MAC (mac), a cycle (static), a byte (others); energy_pj pJ without static; then bytes"
)
GEMM = ("m", "k", "n")
CHIP = ON_CHIP
CONSTANTS = tuple(f.name for f in dataclasses.fields(Constants))
ANSWER = ("cycles", "energy_pj")
COLUMNS = (*GEMM, *CHIP, *CONSTANTS, *ANSWER, *Events._fields)
CHECK = "crc32"
# Files that have no such column are of 8 bits.
OPTIONAL = frozenset({"precision_bits"})
# What events themselves depend on.
MACHINE = ("dram_bytes_per_cycle", "glb_bytes_per_cycle", "precision_bits")
# What a mapping's rank depends on; the energies of a MAC are the same for every mapping.
MAPPED = (
    "register_write_pj",
    "l2_read_pj",
    "l2_write_pj",
    "glb_read_pj",
    "glb_write_pj",
    "dram_pj",
)
# Constants nearer than this are the same: files are rounded, and float32 differs by machine.
SAME_IF_PRICED = 1e-3
SAME = 1e-5
# A mapping is kept while no memory's energy has moved by more than this share.
REPRICED_WITHIN = 0.25

Key = tuple[float, ...]
Rows = dict[Key, list[tuple[Constants, Sample]]]


def default_cache() -> Path:
    """Folder for bought samples, in `cache_folder()`."""
    return cache_folder() / "oracle"


def cache_file(folder: Path, oracle: Oracle) -> Path:
    """The file of `folder` that this oracle's samples under its present settings go to."""
    described = "\n".join((oracle.fingerprint(), *COLUMNS, CHECK))
    digest = hashlib.sha256(described.encode()).hexdigest()[:8]
    return folder / f"{oracle.name}-{digest}.csv"


def shipped_file(oracle: Oracle) -> Path | None:
    """The package's own samples of this oracle, where there are any of its present settings."""
    path = Path(str(resources.files("codesign.oracle.data"))) / f"{oracle.name}.csv"
    if not path.is_file():
        return None
    return path if _holds(path, oracle) else None


def _holds(path: Path, oracle: Oracle) -> bool:
    """Whether a file says that it holds samples of this oracle under its present settings."""
    title = f"{_title(oracle)}\n".encode()
    try:
        with open(path, "rb", opener=unwaiting) as file:
            return file.read(len(title)) == title
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read(path: Path, oracle: Oracle) -> Rows:
    """The samples of a cache file; none where it does not exist. A torn last line is left out.

    Raises:
      UserError: the file is of something else, or a line is not a sample.
    """
    try:
        with open(path, encoding="utf-8", opener=unwaiting) as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file") from error
    whole = text[: text.rfind("\n") + 1].splitlines()
    checked = len(whole) > 2 and whole[2].endswith(f",{CHECK}")
    columns = _columns(whole[2].removesuffix(f",{CHECK}")) if len(whole) > 2 else COLUMNS
    if whole and (whole[0] != _title(oracle) or columns is None):
        raise UserError(f"{path} does not hold samples of {oracle.name}; move it away")
    rows: Rows = {}
    for number, line in enumerate(whole[3:], start=4):
        try:
            row = _unchecked(line) if checked else line
            key, constants, sample = from_line(row, columns or COLUMNS)
        except ValueError:
            problem = f"{path} line {number} is not a sample, or damaged; delete the line"
            raise UserError(problem) from None
        rows.setdefault(key, []).append((constants, sample))
    return rows


def read_folder(folder: Path, oracle: Oracle) -> Rows:
    """All samples of this oracle under its present settings in a folder, those of older files too.

    Raises:
      UserError: as `read`.
    """
    rows: Rows = {}
    older = (path for path in sorted(folder.glob(f"{oracle.name}-*.csv")) if _holds(path, oracle))
    for path in dict.fromkeys([cache_file(folder, oracle), *older]):
        for key, found in read(path, oracle).items():
            rows.setdefault(key, []).extend(found)
    return rows


class Found(NamedTuple):
    """A sample from disk, and whether its mapping was chosen under slightly other energies."""

    sample: Sample
    repriced: bool


def find(rows: Mapping[Key, Sequence[tuple[Constants, Sample]]], point: Point) -> Found | None:
    """The answer to `point` among `rows`, or None; with events, at the point's own constants."""
    moved = None
    for constants, sample in rows.get(_key(point), ()):
        if sample.events is None:
            if _near(constants, point.constants, CONSTANTS, SAME):
                return Found(sample, False)
        elif _near(constants, point.constants, MACHINE, SAME):
            priced = sample._replace(energy_pj=sample.events.energy_pj(point))
            if _near(constants, point.constants, MAPPED, SAME_IF_PRICED):
                return Found(priced, False)
            if _near(constants, point.constants, MAPPED, REPRICED_WITHIN):
                moved = Found(priced, True)
    return moved


class Writer:
    """Appends samples to a cache file; a context manager.

    Raises:
      RunError: where the disk refuses.
    """

    def __init__(self, path: Path, oracle: Oracle) -> None:
        from filelock import FileLock

        self._path = path
        head = "\n".join(_head(oracle)) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Of two that start at once neither begins the file in which the other writes anew.
            with FileLock(f"{path}.lock"):
                text = path.read_bytes() if path.exists() else b""
                whole = text[: text.rfind(b"\n") + 1]
                if whole.count(b"\n") < 3:
                    write_bytes(path, head.encode())
                elif text != whole:  # torn, and only cut: another may have it open
                    os.truncate(path, len(whole))
                # Unbuffered: a row is on its way to the disk when `add` returns.
                self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, point: Point, sample: Sample) -> None:
        """Writes one row, in one write, so that a kill tears the last line at most."""
        try:
            self._file.write(f"{_with_check(to_line(point, sample))}\n".encode())
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror}") from error


def write(path: Path, oracle: Oracle, samples: Iterable[tuple[Point, Sample]], digits: int) -> None:
    """A whole cache file with constants to `digits` significant digits, atomically."""
    rows = (_with_check(to_line(point, sample, digits)) for point, sample in samples)
    write_bytes(path, "".join(f"{x}\n" for x in (*_head(oracle), *rows)).encode())


def to_line(point: Point, sample: Sample, digits: int = 9) -> str:
    """A row of the file but for its check; constants to `digits` significant digits."""
    events = sample.events or ("",) * len(Events._fields)
    values = [
        *(f"{getattr(point, f)}" for f in GEMM),
        *(f"{getattr(point.accelerator, f):g}" for f in CHIP),
        *(f"{getattr(point.constants, f):.{digits}g}" for f in CONSTANTS),
        *(_number(x) for x in (sample.cycles, sample.energy_pj, *events)),
    ]
    return ",".join(values)


def _with_check(row: str) -> str:
    return f"{row},{zlib.crc32(row.encode()):08x}"


def _unchecked(line: str) -> str:
    """A line but for its check; ValueError where it is of other contents."""
    row, _, _ = line.rpartition(",")
    if line != _with_check(row):
        raise ValueError("a row of which something has changed")
    return row


def _number(x: float | str) -> str:
    """To nine digits, whole numbers without an exponent."""
    if isinstance(x, str):
        return x
    return f"{x:.0f}" if x == round(x) and abs(x) < 1e15 else f"{x:.9g}"


def _title(oracle: Oracle) -> str:
    return f"# samples of oracle {oracle.name}: {oracle.fingerprint()}"


def _head(oracle: Oracle) -> list[str]:
    return [_title(oracle), UNITS, ",".join((*COLUMNS, CHECK))]


def _columns(line: str) -> tuple[str, ...] | None:
    """The present names of a file's columns; None where they are not a sample's."""
    try:
        columns = tuple(current_keys(dict.fromkeys(line.split(","))))
    except UserError:
        return None
    return columns if set(COLUMNS) - OPTIONAL <= set(columns) <= set(COLUMNS) else None


def from_line(line: str, columns: Sequence[str] = COLUMNS) -> tuple[Key, Constants, Sample]:
    """A row of a file with such columns, but for its check, read back, its point as a key.

    Raises:
      ValueError: the line is not a row.
    """
    row = dict(zip(columns, line.split(","), strict=True))
    key = tuple(float(row[name]) for name in (*GEMM, *CHIP))
    named: dict[str, Any] = {name: float(row[name]) for name in CONSTANTS if name in row}
    if "precision_bits" in named:
        named["precision_bits"] = int(row["precision_bits"])
    events = [row[name] for name in Events._fields]
    counted = Events(*(float(x) for x in events)) if any(events) else None
    cycles, energy_pj = (float(row[name]) for name in ANSWER)
    constants, sample = Constants(**named), Sample(cycles, energy_pj, counted)
    numbers = (*key, *dataclasses.astuple(constants), *sample[:2], *(counted or ()))
    if not all(0 <= x < math.inf for x in numbers):
        raise ValueError("a number that no sample has")
    return key, constants, sample


def _key(point: Point) -> Key:
    chip = (float(getattr(point.accelerator, f)) for f in CHIP)
    return (float(point.m), float(point.k), float(point.n), *chip)


def _near(a: Constants, b: Constants, fields: Iterable[str], share: float) -> bool:
    return all(abs(getattr(a, f) - getattr(b, f)) <= share * abs(getattr(a, f)) for f in fields)
