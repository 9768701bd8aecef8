"""What a run shows where there is no terminal."""

import io

import pytest
from rich.console import Console

from codesign.train.progress import Display


def test_whoever_asked_is_told_of_every_update():
    told = []
    with Display(Console(file=io.StringIO()), on_progress=told.append) as display:
        display.phase("joint", 10, 30)
        display.update(5, {"loss": [1.0, 2.0]})
        display.update(15, {"loss": [0.5, 1.0]})
        display.phase("tune", 30, 40)
        display.update(10, {"loss": [0.25, 0.5]})
    assert [(p.phase, p.step, p.end) for p in told] == [
        ("joint", 15, 30),
        ("joint", 30, 30),
        ("tune", 40, 40),
    ]
    assert str(told[1]) == "joint: 30 of 30, loss 0.500..1.000"
    assert told[2].metrics == {"loss": [0.25, 0.5]}


def test_without_a_terminal_a_line_comes_every_half_minute():
    now, shown = 100.0, io.StringIO()
    with Display(Console(file=shown), clock=lambda: now) as display:
        display.phase("finetune", 20, 220)
        for _ in range(10):
            now += 12
            display.update(20, {"loss": 1.25})
    first, *lines, last, times = shown.getvalue().splitlines()
    assert first == "training, steps 20 to 220" and last == "  loss 1.250"
    assert times == "time: training 120 s"
    # After 36 s each: 60 steps, with 140, 80 and 20 left at 60 / 36 steps a second.
    assert lines == [
        "  step 80 of 220, loss 1.250, 1.67 steps/s, 0:01:24 left",
        "  step 140 of 220, loss 1.250, 1.67 steps/s, 0:00:48 left",
        "  step 200 of 220, loss 1.250, 1.67 steps/s, 0:00:12 left",
    ]


def test_at_its_end_a_run_tells_how_long_each_chapter_took():
    now, shown = 0.0, io.StringIO()
    with Display(Console(file=shown), clock=lambda: now) as display:
        display.says("a warning, which is no chapter")
        now += 5
        display.says("mapping 3 architectures", chapter="mapping")
        now += 12
        display.phase("warmup", 0, 10)
        now += 60.4
        display.update(10, {"loss": 1.0})
        display.says("measuring", chapter="measuring")
        now += 2
    assert shown.getvalue().splitlines()[-1] == "time: mapping 12 s, warm-up 60 s, measuring 2 s"


def test_a_run_that_fails_tells_no_times():
    def run():
        with Display(Console(file=shown)) as display:
            display.phase("warmup", 0, 10)
            raise RuntimeError

    shown = io.StringIO()
    with pytest.raises(RuntimeError):
        run()
    assert "time:" not in shown.getvalue()
