"""A run's folder: what is in it, and how it gets there so that a kill loses nothing.

    runs/<name>/config.json     what repeats the run: config, seed, versions
                metrics.jsonl   one line a step
                checkpoints/    Orbax
                designs.json    the designs found, and the references
                correct.json    which test images each of them got right
                summary.json    the run as a whole: time, hypervolume, carbon
                report.html     and its figures, *.png

Whole files are written aside and renamed; metrics.jsonl only grows, and a resumed
run cuts it back to its checkpoint first. One process at a time writes to a folder: it
holds a lock on `run.lock`, which the system takes from it when it ends, however it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import inspect
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.decode import decode
from codesign.defaults import with_defaults
from codesign.errors import RunError, UserError
from codesign.found import Found
from codesign.json_text import parse_json, read_json
from codesign.kinds import kind_of_run
from codesign.openers import unwaiting
from codesign.renamed import current_nest

if TYPE_CHECKING:
    from filelock import BaseFileLock

CONFIG = "config.json"
METRICS = "metrics.jsonl"
DESIGNS = "designs.json"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"

# In lines of metrics.jsonl: true where loss or gradient were not finite and the step changed
# nothing; of a population, which of its candidates that was so for.
ROLLED_BACK = "rolled_back"

_LOCK, _OWNER = "run.lock", "run.lock.owner"
# What was written aside by a process that was killed.
_ASIDE = re.compile(r"\..+\.\d+\.tmp|\.tokenizer\.\w+")

_DISTRIBUTIONS = {
    "codesign": "codesign",
    "jax": "jax",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "numpy": "numpy",
}
# Fields on which no number of a run depends; a resumed run may have others. Where arrays lie
# changes the order of sums alone, as the number of devices does.
_FREE = ("threads", "stall_s", "fsdp")
# Fields of before that nothing read: the stages of DRESS have steps of their own.
_UNREAD = ("schedule.steps",)
_MOST_DIFFERENCES = 3


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def jsonable(obj: Any, where: str = "") -> Any:
    """`obj` as plain JSON values: arrays to lists, tuples to lists, paths to strings.

    Args:
      obj: any nest of mappings, sequences, dataclasses, arrays and scalars.
      where: path of `obj`, for the message.

    Raises:
      RunError: for NaN or infinity, which JSON cannot hold, and for a value of no JSON type.
    """
    if obj is None or isinstance(obj, (bool, int, str)):
        return obj
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise RunError(f"{where or 'value'} is {obj}: only finite numbers can be written")
        return float(obj)
    if isinstance(obj, Mapping):
        return {str(key): jsonable(value, _join(where, str(key))) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [jsonable(value, f"{where}[{i}]") for i, value in enumerate(obj)]
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = dataclasses.fields(obj)
        return {f.name: jsonable(getattr(obj, f.name), _join(where, f.name)) for f in fields}
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if inspect.isfunction(obj):  # of a config file: its name tells it apart
        return f"{inspect.getmodulename(inspect.getfile(obj))}.{obj.__qualname__}"
    if hasattr(obj, "tolist"):  # NumPy and JAX, scalars and arrays
        return jsonable(obj.tolist(), where)
    raise RunError(f"{where or 'value'} is a {type(obj).__name__}, which JSON cannot hold")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` as a whole: after a kill the old file or the new one is there.

    Raises:
      RunError: where the disk refuses.
    """
    path = Path(path)
    # Aside in the same folder, because a rename is atomic only within a file system.
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Writes `obj` to `path` as indented JSON, atomically.

    Raises:
      RunError: where the disk refuses, or a number is not finite.
    """
    text = json.dumps(jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, _encoded(text + "\n"))


def _encoded(text: str) -> bytes:
    """JSON as UTF-8; half a surrogate pair, from a file's name say, which no reader takes, as ?."""
    return text.encode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """An open run folder.

    Attributes:
      path: the folder.
      resumed: whether it held a run that is being continued.
      lock: keeps other processes out as long as it lives; None: another process holds it for us.
    """

    path: Path
    resumed: bool = False
    lock: BaseFileLock | None = dataclasses.field(default=None, repr=False, compare=False)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config_json: Mapping[str, Any],
        resume: bool = False,
        name: str | None = None,
        kind: str | None = None,
        command: Sequence[str] | None = None,
    ) -> RunFolder:
        """Opens `path` for a new run, or for the continuation of the run it holds.

        Args:
          path: the folder; made where it is missing.
          config_json: the config as plain JSON values (`overrides.config_to_json`).
          resume: continue the run in the folder; where there is none, start one.
          name: the config's name, for the report; default: the folder's.
          kind: of run; see codesign.kinds.
          command: the words of the command line that makes the run, for the report.

        Raises:
          UserError: where the folder cannot be written, already holds a run, holds
            the run of another config, or is being written to by another process.
        """
        path = Path(path)
        _make_writable(path)
        lock = _locked(path)
        _clear_aside(path)
        # A config alone is a start that failed, on bad data say: a new run loses nothing.
        held = _has_results(path) or (resume and (path / CONFIG).exists())
        if held and not resume:
            raise UserError(
                f"{path} already holds a run; add --resume to continue it, or --out FOLDER "
                "for another"
            )
        config = jsonable(config_json)
        if held:
            _check_same_config(path, config, kind)
        else:
            record = (
                ({} if kind is None else {"kind": kind})
                | {
                    "name": name or path.name,
                    "seed": config.get("seed"),
                    "config": config,
                    "versions": versions(),
                }
                | ({} if command is None else {"command": list(command)})
            )
            write_json(path / CONFIG, record)
        return cls(path, resumed=held, lock=lock)

    @property
    def metrics(self) -> Path:
        """metrics.jsonl of this run."""
        return self.path / METRICS

    @property
    def checkpoints(self) -> Path:
        """The folder of this run's checkpoints, absolute, as Orbax wants it."""
        return (self.path / CHECKPOINTS).resolve()

    def write_json(self, name: str, obj: Any) -> Path:
        """Writes `obj` as the file `name` of the folder, atomically; returns its path."""
        write_json(self.path / name, obj)
        return self.path / name

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Writes `data` as the file `name` of the folder, atomically; returns its path."""
        write_bytes(self.path / name, data)
        return self.path / name

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds one line a row to metrics.jsonl, flushed to the system.

        Each row has an int "step" that never falls from row to row.

        Raises:
          RunError: where the disk refuses, or a number is not finite (a NaN loss).
        """
        lines = [_metrics_line(row) for row in rows]
        if not lines:
            return
        try:
            with open(self.metrics, "ab") as file:
                # One write, so that a kill tears the last line at most.
                file.write(_encoded("".join(lines)))
        except OSError as error:
            raise RunError(f"cannot write {self.metrics}: {error.strerror}") from error

    def truncate_metrics(self, step: int) -> int:
        """Drops the lines of metrics.jsonl past `step`, and damaged ones, atomically.

        Args:
          step: the last step that the checkpoint holds; -1 where there is no checkpoint.

        Returns:
          How many of the steps 0..step have no line left: a run's own metrics have one each.
        """
        if not self.metrics.exists():
            return step + 1
        with open(self.metrics, "rb", opener=unwaiting) as file:
            data = file.read()
        kept = [row for row in _readable_metrics(data) if row["step"] <= step]
        text = _encoded("".join(map(_metrics_line, kept)))
        if text != data:
            write_bytes(self.metrics, text)
        return step + 1 - len({row["step"] for row in kept})


def _metrics_line(row: Mapping[str, Any]) -> str:
    where = f"step {row.get('step', '?')}"
    return json.dumps(jsonable(row, where), ensure_ascii=False, allow_nan=False) + "\n"


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a torn last one, left by a kill, is passed over.

    Raises:
      UserError: where another line is no JSON object with a whole "step".
    """
    try:
        with open(path, "rb", opener=unwaiting) as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return [_parse_metrics(line, path, i + 1) for i, line in enumerate(_lines(data)) if line]


def rolled_back_steps(metrics: Iterable[Mapping[str, Any]]) -> int:
    """How many lines of metrics.jsonl are of steps that were rolled back, wholly or in part."""
    return sum(ROLLED_BACK in row for row in metrics)


def _lines(data: bytes) -> list[bytes]:
    """The whole lines; what follows the last newline was never finished, even if it parses."""
    return data.split(b"\n")[:-1]


def _readable_metrics(data: bytes) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl that are whole; damaged ones are passed over."""
    for line in _lines(data):
        with contextlib.suppress(UserError):
            yield _parse_metrics(line, METRICS, 0)


def _parse_metrics(line: bytes, path: str | os.PathLike[str], number: int) -> dict[str, Any]:
    try:
        row = parse_json(line, f"{path} line {number}")
    except UserError as error:
        raise UserError(f"{error}; restore the file") from error
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        raise UserError(f"{path} line {number} has no whole number 'step'; restore the file")
    return _current(row, f"{path} line {number}")


def _read_json(path: Path) -> Any:
    """A file of a run, by the present names of fields."""
    return _current(read_json(path), str(path))


def _current(obj: Any, where: str) -> Any:
    try:
        return current_nest(obj)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _make_writable(path: Path) -> None:
    probe = path / f".probe.{os.getpid()}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except FileExistsError as error:
        raise UserError(f"{path} is a file, not a folder; choose another --out") from error
    except OSError as error:
        raise UserError(
            f"cannot write to {path}: {error.strerror}; choose another --out"
        ) from error


def _locked(path: Path) -> BaseFileLock:
    """The folder's lock, held by this process.

    Raises:
      UserError: another process, which lives, holds it.
    """
    from filelock import FileLock, Timeout

    # Within a process the same path has the same lock, which it may hold several times.
    lock = FileLock(path / _LOCK, is_singleton=True, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{path} is being written to by another run{_owner(path)}; wait for it or stop it, or "
            "use --out FOLDER"
        ) from None
    except OSError as error:
        raise UserError(f"cannot lock {path}: {error.strerror}; choose another --out") from error
    write_bytes(path / _OWNER, f"process {os.getpid()} on {platform.node()}".encode())
    return lock


def _owner(path: Path) -> str:
    """ " (process 12 on host)", where the lock's holder has said so already."""
    try:
        return f" ({(path / _OWNER).read_text(encoding='utf-8')})"
    except (OSError, UnicodeDecodeError):
        return ""


def _clear_aside(path: Path) -> None:
    """Removes what killed processes left half written: whoever holds the lock is alone here.

    Folders of other runs within this one are left alone, since others may be writing there.
    """
    for place, below, names in os.walk(path):
        if Path(place) != path and _LOCK in names:
            below.clear()
            continue
        for aside in (Path(place, name) for name in [*names, *below] if _ASIDE.fullmatch(name)):
            with contextlib.suppress(OSError):
                if aside.is_dir() and not aside.is_symlink():
                    shutil.rmtree(aside)
                else:
                    aside.unlink()


def _has_results(path: Path) -> bool:
    """Whether a run of any kind has left something; of a comparison, one of the runs within it."""
    own = any((path / name).exists() for name in (METRICS, DESIGNS, REPORT))
    return own or next(path.glob(f"*/*/{METRICS}"), None) is not None


def _check_same_config(path: Path, config: dict[str, Any], new: str | None) -> None:
    if not (path / CONFIG).exists():
        raise UserError(f"{path} holds a run without {CONFIG}; it cannot be resumed")
    record = _read_json(path / CONFIG)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"{path / CONFIG} holds no config; it cannot be resumed")
    kind = kind_of_run(path)
    # A run of before had no kind, and is told by what is in it.
    if "kind" in record and new not in (None, kind.name):
        raise UserError(
            f"{path} holds {kind.a_run}: go on with codesign {kind.command}, or use --out FOLDER"
        )
    written = jsonable(with_defaults(kind.config_class(), record["config"], config))
    before = {key: value for key, value in written.items() if key not in _FREE}
    now = {key: value for key, value in config.items() if key not in _FREE}
    different = list(_differences(before, now))
    if different:
        shown = ", ".join(different[:_MOST_DIFFERENCES])
        more = len(different) - _MOST_DIFFERENCES
        raise UserError(
            f"{path} holds the run of another config: {shown}"
            + (f" and {more} more" if more > 0 else "")
            + "; set these back to resume, or use --out FOLDER"
        )


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Each differing field as "optim.lr was 0.001, is 0.01", in the new config's order."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
            if key not in new and _join(where, key) in _UNREAD:
                continue
            yield from _differences(old.get(key), new.get(key), _join(where, key))
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield f"{where} was {json.dumps(old)}, is {json.dumps(new)}"


@dataclasses.dataclass(frozen=True)
class Run(Found):
    """What a run folder holds, read back; absent files are empty.

    Attributes:
      path: the folder.
      record: config.json: kind, name, seed, config, versions.
      metrics: the rows of metrics.jsonl.
      designs: the entries of designs.json.
      summary: summary.json.
    """

    path: Path
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    designs: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """The config's name, or the folder's."""
        return str(self.record.get("name") or self.path.resolve().name)


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raises UserError where there is no folder at all."""
    if not Path(path).is_dir():
        raise UserError(f"{path} is not a folder; give the folder of a run, such as runs/NAME")


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run folder.

    Raises:
      UserError: where it is not one, or a file in it is damaged.
    """
    path = Path(path)
    check_folder(path)
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is not the folder of a run: it has no {CONFIG}")
    return Run(
        path=path,
        record=read_record(path / CONFIG),
        metrics=read_metrics(path / METRICS) if (path / METRICS).exists() else [],
        designs=_read_designs(path / DESIGNS),
        summary=_read_typed(path / SUMMARY, dict),
    )


@dataclasses.dataclass(frozen=True)
class _Record:
    """What of a config.json reports do not take as it comes."""

    seed: int | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


def read_record(path: Path) -> dict[str, Any]:
    """A run's config.json.

    Raises:
      UserError: it is damaged.
    """
    record: dict[str, Any] = _read_typed(path, dict)
    looked_at = [field.name for field in dataclasses.fields(_Record) if field.name in record]
    decode(_Record, {name: record[name] for name in looked_at}, str(path))
    return record


def _read_typed(path: Path, kind: type) -> Any:
    if not path.exists():
        return kind()
    obj = _read_json(path)
    if not isinstance(obj, kind):
        raise UserError(f"{path} should hold a JSON {'object' if kind is dict else 'list'}")
    return obj


def _read_designs(path: Path) -> list[dict[str, Any]]:
    designs = _read_typed(path, list)
    for i, design in enumerate(designs):
        if not isinstance(design, dict):
            raise UserError(f"{path}: entry {i} is not an object")
    return designs
