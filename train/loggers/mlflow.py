"""MLflow, by its own client, with its own settings and credentials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from codesign.errors import UserError
from codesign.train.loggers import Logged, error_line

# Of the value of a parameter, characters that every store takes.
_LONGEST_PARAMETER = 500


class MLflow:
    """One run there; a context manager."""

    errors: tuple[type[Exception], ...] = (MlflowException,)

    def __init__(self, id: str) -> None:
        self.id = id

    def __enter__(self) -> MLflow:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            status = "FINISHED"
        else:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"  # Ctrl-C, SIGTERM
        mlflow.end_run(status)

    def flush(self) -> None:
        """Nothing: every call has written."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        mlflow.log_metrics({_name(k): v for k, v in numbers.items()}, step=step, run_id=self.id)


def open_logger(run: Logged) -> MLflow:
    """A new run, or the one of before.

    Raises:
      UserError: a server that cannot be reached or refuses.
    """
    try:
        # Within a run of the caller's own it is that one's child.
        started = mlflow.start_run(run_id=run.id, run_name=run.name, nested=True)
        if run.id is None:
            mlflow.log_params(dict(_parameters(run.config)))
    except MlflowException as error:
        raise UserError(f"--loggers mlflow: {error_line(error)}") from None
    return MLflow(started.info.run_id)


def _parameters(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a config by its dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _parameters(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)[:_LONGEST_PARAMETER]


def _name(name: str) -> str:
    """A metric's name in the characters that it may have there."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)
