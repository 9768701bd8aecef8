"""Where a run's metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

Each is a module of this folder with `open_logger`, by the package's own client, which is imported
where a run uses it. The packages' own environment variables say where they write to
(WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from codesign.errors import UserError, did_you_mean
from codesign.json_text import read_json
from codesign.runs import CONFIG, RunFolder

# Name, and the package that it needs.
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
DEFAULT = ("tensorboard",)
# In a run's folder: its loggers, each with the name that it has for the run.
LOGGERS = "loggers.json"


class Logged(NamedTuple):
    """A run as a logger is told of it.

    Attributes:
      folder: of the run.
      name: of the run.
      config: plain JSON values.
      step: the first that will be written; above 0 where a run is resumed.
      id: what the logger called the run when it was started; None: it is new.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    step: int
    id: str | None


class Logger(Protocol):
    """Takes the numbers of one run; a context manager, which is told how the run ends.

    Attributes:
      id: what it calls the run, so that a resumed one goes on there; None: it needs no name.
      errors: of its client, such as a network that is gone: they do not end a run.
    """

    @property
    def id(self) -> str | None:
        """See above."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See above."""

    def __enter__(self) -> Any:
        """Itself."""

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Ends the logger's run."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step, by name; steps never fall, but may come again where a run resumes."""

    def flush(self) -> None:
        """Brings what was written to where a kill leaves it."""


class Loggers:
    """Several loggers as one. One that fails is left out from then on, and says so."""

    def __init__(self, loggers: Mapping[str, Logger], says: Callable[[str], None]) -> None:
        self._loggers, self._says = dict(loggers), says

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Every number of a nest of metrics, under its path."""
        if self._loggers:
            numbers = dict(flattened(metrics))
            self._each(lambda logger: logger.write(step, numbers))

    def flush(self) -> None:
        """Brings what was written to where a kill leaves it."""
        self._each(lambda logger: logger.flush())

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                do(logger)
            except logger.errors as error:
                del self._loggers[name]
                self._says(f"{name} gets no more of this run: {error_line(error)}")


@contextlib.contextmanager
def open_loggers(
    names: Sequence[str] | None, folder: RunFolder, step: int, says: Callable[[str], None]
) -> Iterator[Loggers]:
    """The loggers of a run, or of the rest of one. Only the first process has any.

    Args:
      names: of `PACKAGES`; None: those that the run was started with, for a new one `DEFAULT`.
      folder: of the run, with its config; what each logger calls the run is kept there.
      step: the first that will be written.
      says: shows a line.

    Raises:
      UserError: a logger that is unknown, not installed, or cannot be reached.
    """
    if jax.process_index() != 0:
        yield Loggers({}, says)
        return
    kept = folder.path / LOGGERS
    before = read_json(kept) if folder.resumed and kept.is_file() else {}
    ids: dict[str, Any] = before if isinstance(before, dict) else {}
    names = (tuple(ids) or DEFAULT) if names is None else tuple(names)
    check_loggers(names)
    record = read_json(folder.path / CONFIG)
    config = record.get("config", {}) if isinstance(record, dict) else {}
    loggers: dict[str, Logger] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            logged = Logged(folder.path, folder.path.resolve().name, config, step, ids.get(name))
            module = importlib.import_module(f"codesign.train.loggers.{name}")
            logger: Logger = module.open_logger(logged)
            loggers[name] = stack.enter_context(logger)
        folder.write_json(LOGGERS, ids | {name: logger.id for name, logger in loggers.items()})
        yield Loggers(loggers, says)


def check_loggers(names: Sequence[str]) -> None:
    """Refuses loggers that are none, and those whose package is not installed.

    Raises:
      UserError: the first such name, and the mend.
    """
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"there is no logger '{name}'; {did_you_mean(name, PACKAGES)}")
        package = PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--loggers {name}: {package} is not installed; install it with: pip install "
                f"{package}"
            )


def flattened(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a nest, with its path as name: {"a": {"b": [1, 2]}} has a/b/0 and a/b/1."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}/")
        elif isinstance(value, (list, tuple)):
            numbered = {str(i): part for i, part in enumerate(value)}
            yield from flattened(numbered, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield f"{prefix}{name}", float(value)


def error_line(error: Exception) -> str:
    """An error in a line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
