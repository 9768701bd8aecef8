"""Many points from one oracle: in parallel, through the caches, whatever befalls a point."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import signal
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from codesign import userfile
from codesign.errors import RunError, UserError
from codesign.oracle import cache as caches
from codesign.oracle.interface import Oracle, OracleError, Point, Sample, refusal

_NO_START = (
    "a worker process of the oracle could not start ({}); a script must call collect under "
    '`if __name__ == "__main__":`'
)


@dataclasses.dataclass(frozen=True)
class Samples:
    """What `collect` brings home.

    Attributes:
      answers: sample of each distinct point, in the order asked.
      failures: why a point has none, one line each.
      bought: points evaluated now; the others were on disk.
      repriced: answers whose mapping was chosen under slightly other energies.
    """

    answers: dict[Point, Sample]
    failures: dict[Point, str]
    bought: int
    repriced: int


def collect(
    oracle: Oracle,
    points: Iterable[Point],
    *,
    cache: Path | None,
    processes: int | None = None,
    progress: bool = True,
) -> Samples:
    """Evaluates `points`, each distinct one once.

    Looks first among the samples that the package ships, then in `cache`, then asks the oracle
    and appends to `cache`. A point that the oracle fails on, or that kills its process, is
    reported and the rest goes on. After Ctrl-C what was bought is in the cache.

    Scripts that call this must guard their body with `if __name__ == "__main__":`, because
    worker processes import it again.

    Args:
      oracle: picklable, and for that its class may be in a user's file (`userfile`).
      cache: folder of the user's samples, such as `default_cache()`; None: nothing is written.
      processes: workers, default one a core. 0: in this process, where nothing protects the
        run from a point that kills it.
      progress: a bar on standard error, where that is a terminal.

    Raises:
      UserError: the oracle is not installed or cannot be pickled, or the cache file is not one.
      RunError: the disk refuses, or worker processes cannot start.
    """
    asked = list(dict.fromkeys(points))
    shipped = caches.shipped_file(oracle)
    file = caches.cache_file(cache, oracle) if cache is not None else None
    layers = [caches.read(shipped, oracle)] if shipped is not None else []
    if cache is not None:
        layers.append(caches.read_folder(cache, oracle))
    answers: dict[Point, Sample] = {}
    repriced = 0
    for point in asked:
        for rows in layers:
            if (found := caches.find(rows, point)) is not None:
                answers[point] = found.sample
                repriced += found.repriced
                break
    missing = [point for point in asked if point not in answers]
    failures: dict[Point, str] = {}
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(caches.Writer(file, oracle)) if file and missing else None
        advance = stack.enter_context(_bar(oracle.name, len(missing), progress))
        results = _results(oracle, missing, processes)
        for point, result in stack.enter_context(contextlib.closing(results)):
            if isinstance(result, Sample):
                answers[point] = result
                if writer is not None:
                    writer.add(point, result)
            else:
                failures[point] = result
            advance(len(failures))
    ordered = {point: answers[point] for point in asked if point in answers}
    return Samples(ordered, failures, len(missing) - len(failures), repriced)


@contextlib.contextmanager
def _bar(name: str, total: int, shown: bool) -> Iterator[Any]:
    """A bar to count points with; yields the function that counts one."""
    console = Console(stderr=True)
    with Progress(
        TextColumn(f"{name}: {{task.description}}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and total and console.is_terminal),
    ) as progress:
        task = progress.add_task("samples", total=total)

        def advance(failures: int) -> None:
            text = f"samples, {failures} failed" if failures else "samples"
            progress.update(task, advance=1, description=text)

        yield advance


def _ask(oracle: Oracle, point: Point) -> Sample | str | UserError:
    """The oracle's answer; why there is none; or what no other point would survive either."""
    if (reason := refusal(oracle, point.constants.precision_bits)) is not None:
        return reason
    try:
        sample = oracle(point)
        if 0 <= sample.cycles < math.inf and 0 <= sample.energy_pj < math.inf:
            return sample
        return f"the oracle answered {sample.cycles} cycles, {sample.energy_pj} pJ"
    except UserError as error:
        return error
    except OracleError as error:
        return str(error) or "the oracle has no answer"
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip().splitlines()
        return f"the oracle crashed: {text[0]}"


def _results(
    oracle: Oracle, points: list[Point], processes: int | None
) -> Generator[tuple[Point, Sample | str], None, None]:
    """Each point with its sample or the reason there is none, as they come.

    Raises:
      UserError: the oracle's own.
    """
    if processes is None:
        processes = os.cpu_count() or 1
    if processes == 0:
        answers: Any = ((point, _ask(oracle, point)) for point in points)
    else:
        answers = _in_workers(oracle, points, processes)
    with contextlib.closing(answers):
        for point, answer in answers:
            if isinstance(answer, UserError):
                raise answer
            yield point, answer


def _work(pickled: bytes, connection: Any) -> None:
    """A worker's life: answers points until the connection closes."""
    # Standard output belongs to the program's result; what a simulator prints is not that.
    os.dup2(2, 1)
    oracle = pickle.loads(pickled)
    connection.send("ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_ask(oracle, connection.recv()))


class _Worker:
    """A process, our end of the pipe to it, and the point in its hands."""

    def __init__(self, pickled: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(pickled, theirs), daemon=True)
        self.point: Point | None = None  # it says that it is ready first
        with _without_interrupts():
            self.process.start()
        theirs.close()

    def give(self, point: Point) -> None:
        self.point = point
        # Where it died meanwhile, the next read of the connection tells.
        with contextlib.suppress(OSError):
            self.connection.send(point)

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()

    def death(self) -> str:
        """How it ended, once it did."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started here never see Ctrl-C; it is this process that stops them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Its start would unblock the signal; later it is a process that is there already.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_workers(
    oracle: Oracle, points: list[Point], processes: int
) -> Iterator[tuple[Point, Sample | str | UserError]]:
    """Points through worker processes, one at a time each; a dead worker costs its point."""
    try:
        pickled = userfile.dumps(oracle)
    except UserError as error:
        raise UserError(f"oracle {oracle.name}: {error}; ask it with --processes 0") from error
    waiting = collections.deque(points)
    workers: dict[Any, _Worker] = {}

    def employ() -> None:
        worker = _Worker(pickled)
        workers[worker.connection] = worker

    try:
        for _ in range(min(processes, len(points))):
            employ()
        while workers:
            for connection in multiprocessing.connection.wait(list(workers)):
                worker = workers[connection]
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    if worker.point is None:
                        raise RunError(_NO_START.format(worker.death())) from None
                    answer = f"the oracle killed its process ({worker.death()})"
                if worker.point is not None:
                    yield worker.point, answer
                alive = worker.process.exitcode is None
                if waiting and alive:
                    worker.give(waiting.popleft())
                    continue
                workers.pop(connection).stop()
                if waiting:
                    employ()
    finally:
        for worker in workers.values():
            worker.stop()
