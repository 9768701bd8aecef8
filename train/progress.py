"""What a run shows while it works: the phase, a bar, losses and costs of the family."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from codesign.progress import OnProgress, losses_text
from codesign.progress import Progress as Told
from codesign.runs import RunFolder

PHASES = {
    "warmup": "warm-up: CLIP weights of the supernet",
    "elastic": "elastic: one supernet for all sizes",
    "joint": "joint: weights, architectures and accelerators",
    "tune": "tuning: weights of the chosen networks",
    "finetune": "training",
    "dense": "training of the dense network",
    "subnets": "training of all subnets together",
    "norms": "training of each subnet's own norms",
}


# Between lines of progress where there is no terminal, such as under SLURM.
_SECONDS_BETWEEN_LINES = 30


class _Mark(NamedTuple):
    """Where a phase was when it was last told of."""

    step: int
    seconds: float


class Display:
    """A progress bar a phase on a terminal; elsewhere a line every half minute. A context manager.

    Args:
      console: where it is shown.
      clock: seconds since whenever.
      on_progress: called whenever steps are done.
    """

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._console, self._clock, self._on_progress = console, clock, on_progress
        self._phase = ""
        self._step = self._end = 0
        self._told = _Mark(0, 0.0)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: Any = None
        self._note = ""
        self._chapters: list[tuple[str, float]] = []  # with when they began

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._finish()
        self._progress.stop()
        if kind is None and self._chapters:
            ends = [began for _, began in self._chapters[1:]] + [self._clock()]
            times = ", ".join(
                f"{name} {end - began:.0f} s"
                for (name, began), end in zip(self._chapters, ends, strict=True)
            )
            self._console.print(f"time: {times}", highlight=False)

    def says(self, what: str, chapter: str | None = None) -> None:
        """One line; it begins a chapter that has no steps where that has a name."""
        self._finish()
        if chapter is not None:
            self._chapters.append((chapter, self._clock()))
        self._console.print(what, markup=False, highlight=False)

    def indexing(self, done: int, of: int) -> None:
        """Tells that tar shards are looked through, a line every tenth of them."""
        if done % max(1, of // 10) == 0 or done == of:
            self.says(f"indexed {done} of {of} shards")

    def phase(self, name: str, done: int, end: int) -> None:
        """Begins a phase whose steps run from `done` to `end`."""
        self._finish()
        self._task = self._progress.add_task(PHASES[name], total=end - done, completed=0, note="")
        self._phase, self._step, self._end = name, done, end
        self._chapters.append((PHASES[name].partition(":")[0], self._clock()))
        self._told = _Mark(done, self._clock())
        if not self._console.is_terminal:
            self._console.print(f"{PHASES[name]}, steps {done} to {end}", highlight=False)

    def note(self, what: str) -> None:
        """One line in the midst of a phase."""
        self._progress.console.print(f"  {what}", markup=False, highlight=False)

    def update(self, steps: int, row: Mapping[str, Any]) -> None:
        """Counts steps and shows the newest line of metrics: of one network, or of a family."""
        self._note = losses_text(row["loss"])
        if "carbon_kgco2e" in row:
            grams = [1e3 * c for c in row["carbon_kgco2e"]]
            self._note += f", carbon {min(grams):.3g}..{max(grams):.3g} g"
        self._progress.update(self._task, advance=steps, note=self._note)
        self._step += steps
        if self._on_progress is not None:
            self._on_progress(Told(self._phase, self._step, self._end, row))
        passed = self._clock() - self._told.seconds
        if not self._console.is_terminal and passed >= _SECONDS_BETWEEN_LINES:
            rate = (self._step - self._told.step) / passed
            left = str(datetime.timedelta(seconds=round((self._end - self._step) / rate)))
            at = f"step {self._step} of {self._end}, {self._note}"
            said = f"  {at}, {rate:.3g} steps/s, {left} left"
            self._console.print(said, highlight=False, soft_wrap=True)
            self._told = _Mark(self._step, self._clock())

    def _finish(self) -> None:
        if self._task is not None and not self._console.is_terminal:
            self._console.print(f"  {self._note}", highlight=False)
        self._task = None


def resume_metrics(folder: RunFolder, steps: int, display: Display) -> None:
    """Drops the metrics of steps past the `steps` of a checkpoint, and tells of lost ones."""
    lost = folder.truncate_metrics(steps - 1)
    if lost:
        display.says(
            f"{folder.metrics} has no line for {lost} of the {steps} steps up to the "
            "checkpoint: they were lost, and the report lacks them; the result does not change"
        )


@contextlib.contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """A bar for a single job; it hands out the function that counts what is done."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
