"""Interface, cache, parallel collection and the systolic reference, with oracles made up here."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.accelerator import Accelerator
from codesign.cost.technology import technology
from codesign.errors import RunError, UserError
from codesign.oracle import cache
from codesign.oracle.collect import collect
from codesign.oracle.interface import Constants, Events, OracleError, Point, Sample
from codesign.oracle.systolic import systolic_cycles
from codesign.scenario import Scenario
from simulators.events import event
from simulators.limits import bounded
from simulators.mutations import damaged

CHIP = Accelerator(2, 64, 16, 256, 64, 2)
ROUND = Constants(
    mac_pj=0.25,
    register_read_pj=0.125,
    register_write_pj=0.5,
    l2_read_pj=1.0,
    l2_write_pj=2.0,
    glb_read_pj=5.0,
    glb_write_pj=7.0,
    dram_pj=64.0,
    static_pj=3.0,
    dram_bytes_per_cycle=128.0,
    glb_bytes_per_cycle=512.0,
)


def point(m: int = 4, k: int = 5, n: int = 6, **constants: float) -> Point:
    return Point(m, k, n, CHIP, dataclasses.replace(ROUND, **constants))


@dataclasses.dataclass
class Counting:
    """Cycles m k n, 2 pJ each; bytes moved where `counts`. Remembers what it was asked."""

    counts: bool = False
    settings: str = "v1"
    name: str = "counting"
    asked: list[Point] = dataclasses.field(default_factory=list)

    def fingerprint(self) -> str:
        return self.settings

    def __call__(self, p: Point) -> Sample:
        self.asked.append(p)
        if p.n == 13:
            raise OracleError("no mapping of 13 columns")
        if p.n == 14:
            raise MemoryError("14 is too much")
        if p.n == 15:
            return Sample(float("nan"), 1.0)
        macs = p.m * p.k * p.n
        if not self.counts:
            return Sample(macs, 2.0 * macs)
        events = Events(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
        return Sample(macs, events.energy_pj(p), events)


@pytest.mark.usefixtures("quick_compilation")
def test_constants_are_those_of_the_technology():
    chips = [CHIP, Accelerator(4, 32, 8, 64, 128, 8)]
    alone = jax.jit(technology, static_argnums=1)
    per_word = {name for name in vars(point().constants) if name.endswith("_pj")}
    per_word -= {"mac_pj", "static_pj"}
    for bits in (4, 8, 16):
        scenario = Scenario(precision_bits=bits)
        for chip, constants in zip(chips, Constants.of_all(chips, scenario), strict=True):
            costs = alone(chip, scenario)
            for name, value in vars(constants).items():
                if name == "precision_bits":
                    assert value == bits and type(value) is int
                    continue
                assert type(value) is float
                expected = float(event(costs, name.replace("_bytes_", "_words_")))
                if name in per_word:
                    expected /= bits / 8
                elif "_bytes_" in name:
                    expected *= bits / 8
                assert value == pytest.approx(expected, rel=1e-6)
            assert constants.dram_bytes_per_cycle == pytest.approx(
                2 * 2 * 3200 * 0.56 / scenario.clock_mhz
            )
            assert constants.glb_bytes_per_cycle == scenario.glb_bytes_per_cycle
            assert constants.dram_pj == pytest.approx(8 * (8 + 1.83))  # a byte's
    assert Constants.of_all([], Scenario()) == []


def test_points_are_keys_that_travel():
    there = pickle.loads(pickle.dumps(point()))
    assert there == point() and hash(there) == hash(point())
    assert point(mac_pj=0.3) != point()


def test_energy_of_events_by_hand():
    """120 MACs at 0.375, then 1, 2, 3 ... bytes of each kind at their price."""
    events = Events(1, 2, 3, 4, 5, 6)
    expected = 120 * 0.375 + 1 * 0.5 + 2 * 1 + 3 * 2 + 4 * 5 + 5 * 7 + 6 * 64
    assert events.energy_pj(point()) == pytest.approx(expected)


def ask(oracle: Counting, points: list[Point], folder: Path | None):
    """Collects in this process; what was asked of the oracle meanwhile."""
    oracle.asked.clear()
    samples = collect(oracle, points, cache=folder, processes=0, progress=False)
    return samples, list(oracle.asked)


@pytest.mark.parametrize("counts", [False, True])
def test_collect_buys_each_point_once(tmp_path, counts):
    oracle = Counting(counts)
    points = [point(n=n) for n in (7, 8, 7, 9)]
    first, asked = ask(oracle, points, tmp_path)
    assert asked == [point(n=7), point(n=8), point(n=9)]
    assert list(first.answers) == asked and first.bought == 3
    again, asked = ask(oracle, [*points, point(n=10)], tmp_path)
    assert asked == [point(n=10)] and again.bought == 1 and again.repriced == 0
    assert {p: again.answers[p] for p in first.answers} == first.answers
    # Other settings, or nowhere to remember: everything is asked again.
    assert len(ask(Counting(counts, settings="v2"), points, tmp_path)[1]) == 3
    assert len(ask(oracle, points, None)[1]) == 3


def test_a_point_that_fails_is_reported_and_the_rest_goes_on():
    samples, _ = ask(Counting(), [point(n=n) for n in (12, 13, 14, 15, 16)], None)
    assert [p.n for p in samples.answers] == [12, 16] and samples.bought == 2
    assert samples.failures == {
        point(n=13): "no mapping of 13 columns",
        point(n=14): "the oracle crashed: MemoryError: 14 is too much",
        point(n=15): "the oracle answered nan cycles, 1.0 pJ",
    }


def test_an_oracle_that_is_not_installed_stops_the_run_at_once():
    class Absent(Counting):
        def __call__(self, p: Point) -> Sample:
            self.asked.append(p)
            raise UserError("install it")

    oracle = Absent()
    with pytest.raises(UserError, match="install it"):
        ask(oracle, [point(n=1), point(n=2)], None)
    assert len(oracle.asked) == 1


def test_energies_that_move_a_little_are_priced_anew(tmp_path):
    """A MAC's price by any amount; a memory's by 25 %, at which the mapping may be another."""
    oracle = Counting(counts=True)
    ask(oracle, [point()], tmp_path)
    for moved, repriced in (
        (point(dram_pj=64.0 * 1.0001), 0),
        (point(mac_pj=0.5, register_read_pj=0.01, static_pj=30.0), 0),
        (point(dram_pj=64.0 * 1.2), 1),
        (point(l2_read_pj=0.8, glb_write_pj=8.0), 1),
    ):
        samples, asked = ask(oracle, [moved], tmp_path)
        assert asked == [] and samples.repriced == repriced
        assert samples.answers[moved].energy_pj == pytest.approx(oracle(moved).energy_pj)
    for other in (point(dram_pj=64.0 * 1.3), point(glb_bytes_per_cycle=256.0)):
        assert ask(oracle, [other], tmp_path)[1] == [other]
    # The row bought at the very energies goes before one that would be priced anew.
    assert ask(oracle, [point(dram_pj=64.0 * 1.3)], tmp_path)[0].repriced == 0


def test_without_events_only_the_same_constants_are_an_answer(tmp_path):
    oracle = Counting()
    ask(oracle, [point()], tmp_path)
    assert ask(oracle, [point(dram_pj=64.0 * (1 + 1e-7))], tmp_path)[1] == []
    for other in (point(dram_pj=64.01), point(mac_pj=0.3), point(static_pj=4.0)):
        assert ask(oracle, [other], tmp_path)[1] == [other]


numbers = st.floats(1e-3, 1e12)
sizes = st.integers(1, 10**6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    sizes,
    sizes,
    sizes,
    st.lists(numbers, min_size=11, max_size=11),
    st.sampled_from((4, 8, 16)),
    numbers,
    numbers,
    st.none() | st.lists(numbers, min_size=6, max_size=6),
)
def test_a_row_reads_back_as_written(m, k, n, constants, bits, cycles, energy_pj, events):
    constants = [*constants, bits]
    sample = Sample(cycles, energy_pj, None if events is None else Events(*events))
    asked = Point(m, k, n, Accelerator(1, 32, 2, 64, 32, 0.0625), Constants(*constants))
    ((key, *rest),) = [cache.from_line(cache.to_line(asked, sample))]
    assert key == cache._key(asked)
    read = Sample(*rest[1])
    assert dataclasses.astuple(rest[0]) == pytest.approx(constants, rel=1e-8)
    assert read[:2] == pytest.approx(sample[:2], rel=1e-8)
    assert read.events == (None if events is None else pytest.approx(events, rel=1e-8))


def test_a_torn_last_line_costs_that_row_only(tmp_path):
    """Cut anywhere in the last row, even where what is left would read as one."""
    oracle = Counting()
    ask(oracle, [point(n=7), point(n=8)], tmp_path)
    file = cache.cache_file(tmp_path, oracle)
    whole = file.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in (last + 1, last + 20, len(whole) - 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        samples, asked = ask(oracle, [point(n=7), point(n=8)], tmp_path)
        assert asked == [point(n=8)] and len(samples.answers) == 2
        assert file.read_bytes() == whole
    # Torn within its head, or empty, it is begun anew.
    for cut in (0, 10, whole.index(b"\n") + 5):
        file.write_bytes(whole[:cut])
        assert len(ask(oracle, [point(n=7), point(n=8)], tmp_path)[1]) == 2
        assert file.read_bytes() == whole


def test_the_head_says_what_the_file_holds(tmp_path):
    ask(Counting(), [point()], tmp_path)
    title, units, columns, row = cache.cache_file(tmp_path, Counting()).read_text().splitlines()
    assert title == "# samples of oracle counting: v1"
    assert "pJ" in units and "KiB" in units
    assert columns.split(",")[:3] == ["m", "k", "n"]
    assert dict(zip(columns.split(","), row.split(","), strict=True))["cycles"] == "120"


def test_files_of_something_else_are_refused(tmp_path):
    file = cache.cache_file(tmp_path, Counting())
    for text, complaint in (
        ("a,b\n1,2\n", "does not hold samples of counting"),
        ("\n".join([*cache._head(Counting()), "1,2,3"]) + "\n", "line 4 is not a sample"),
        ("\n".join([*cache._head(Counting()), "x" + "," * 27]) + "\n", "line 4 is not a sample"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=complaint):
            ask(Counting(), [point()], tmp_path)
        assert file.read_text() == text


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e999", "1_000_000_000_000e300", "", "x"])
def test_a_row_holds_numbers_that_a_sample_can_have(text):
    line = cache.to_line(point(), Counting(counts=True)(point())).split(",")
    for column in range(len(cache.COLUMNS)):
        with pytest.raises(ValueError):  # noqa: PT011 -- says only that it is none
            cache.from_line(",".join([*line[:column], text, *line[column + 1 :]]))


def test_of_damaged_files_samples_are_read_or_the_line_is_named(tmp_path):
    oracle = Counting(counts=True)
    ask(oracle, [point(n=n) for n in range(1, 9)], tmp_path)
    path = cache.cache_file(tmp_path, oracle)
    data, rng, told = path.read_bytes(), np.random.default_rng(0), []
    right = {key: answers * 2 for key, answers in cache.read(path, oracle).items()}
    for _ in range(400):
        path.write_bytes(damaged(data, rng))
        with bounded(20):
            try:
                rows = cache.read(path, oracle)
            except UserError as error:
                told.append(str(error))
            else:
                # Rows at the end may be cut off.
                for key, answers in rows.items():
                    assert answers in ([right[key][0]], right[key])
    assert len(told) > 100 and all(len(line.splitlines()) == 1 for line in told)
    assert all("line " in line or "move it away" in line or "text" in line for line in told)


@pytest.mark.parametrize("counts", [False, True])
def test_a_changed_digit_is_no_answer(counts, tmp_path):
    oracle = Counting(counts=counts)
    ask(oracle, [point()], tmp_path)
    path = cache.cache_file(tmp_path, oracle)
    *head, row = path.read_text().splitlines()
    for at in (i for i, character in enumerate(row) if character.isdigit()):
        changed = row[:at] + str((int(row[at]) + 1) % 10) + row[at + 1 :]
        path.write_text("\n".join([*head, changed, ""]))
        with pytest.raises(UserError, match="line 4 is not a sample, or damaged; delete the line"):
            cache.read(path, oracle)
    # Rows of older versions have no check.
    older = [*head[:2], head[2].removesuffix(f",{cache.CHECK}"), row.rpartition(",")[0], ""]
    path.write_text("\n".join(older))
    assert ask(oracle, [point()], tmp_path)[1] == []


def test_of_two_writers_none_loses_a_row(tmp_path):
    oracle = Counting()
    path = cache.cache_file(tmp_path, oracle)
    with cache.Writer(path, oracle) as first, cache.Writer(path, oracle) as second:
        first.add(point(n=1), oracle(point(n=1)))
        second.add(point(n=2), oracle(point(n=2)))
        with path.open("a") as torn:
            torn.write("4,5,")
        with cache.Writer(path, oracle) as third:
            for n, writer in ((3, first), (4, second), (5, third)):
                writer.add(point(n=n), oracle(point(n=n)))
    assert ask(Counting(), [point(n=n) for n in range(1, 6)], tmp_path)[1] == []


def test_what_is_no_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "counting-0.csv")
    with bounded(20):
        ask(Counting(), [point()], tmp_path)
    (tmp_path / "counting-1.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        ask(Counting(), [point()], tmp_path)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot read .*counting.*: Not a directory"):
        ask(Counting(), [point()], tmp_path / "file")
    if Path("/proc").exists():  # where nobody may make a folder
        with pytest.raises(RunError, match=r"cannot write .*counting"):
            ask(Counting(), [point()], Path("/proc/codesign"))


def test_the_default_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path))
    assert cache.default_cache() == tmp_path / "oracle"
    monkeypatch.delenv("CODESIGN_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_cache() == tmp_path / "codesign" / "oracle"


ODD_ORACLE = '''
import dataclasses, os, time
from codesign.oracle.interface import OracleError, Sample

@dataclasses.dataclass(frozen=True)
class Odd:
    """Cycles n; 13 fails, 14 crashes, 15 kills its process, from 100 on it takes its time."""
    name: str = "odd"
    def fingerprint(self):
        return "v1"
    def __call__(self, point):
        print("chatter of a simulator")
        if point.n == 13:
            raise OracleError("no mapping")
        if point.n == 14:
            raise MemoryError("too much")
        if point.n == 15:
            os._exit(3)
        if point.n >= 100:
            time.sleep(1000)
        return Sample(point.n, float(os.getpid()))
'''


def test_workers_survive_what_befalls_a_point(tmp_path, monkeypatch, capfd):
    """Two processes: a failure, a crash and a death each cost one point and nothing else."""
    (tmp_path / "odd_oracle.py").write_text(ODD_ORACLE)
    monkeypatch.syspath_prepend(tmp_path)  # workers are given this process's path
    import odd_oracle

    points = [point(n=n) for n in (13, 14, 15, *range(1, 12), 13)]
    samples = collect(odd_oracle.Odd(), points, cache=tmp_path, processes=2, progress=False)
    assert [p.n for p in samples.answers] == list(range(1, 12))
    assert all(sample.cycles == p.n for p, sample in samples.answers.items())
    assert {p.n: reason for p, reason in samples.failures.items()} == {
        13: "no mapping",
        14: "the oracle crashed: MemoryError: too much",
        15: "the oracle killed its process (exit code 3)",
    }
    workers = {int(sample.energy_pj) for sample in samples.answers.values()}
    assert os.getpid() not in workers and len(workers) <= 3
    assert capfd.readouterr().out == ""
    rows = cache.read(cache.cache_file(tmp_path, odd_oracle.Odd()), odd_oracle.Odd())
    assert len(rows) == 11


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_bought_and_leaves_no_worker(tmp_path):
    (tmp_path / "odd_oracle.py").write_text(ODD_ORACLE)
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        import odd_oracle
        from codesign.accelerator import Accelerator
        from codesign.oracle.collect import collect
        from codesign.oracle.interface import Constants, Point

        if __name__ == "__main__":
            chip, costs = Accelerator({", ".join(map(str, dataclasses.astuple(CHIP)))}), Constants(
                {", ".join(map(str, dataclasses.astuple(ROUND)))})
            points = [Point(4, 5, n, chip, costs) for n in (1, 2, 3, 100, 101, 4)]
            collect(odd_oracle.Odd(), points, cache=Path("."), processes=2)
    """)
    )
    run = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    [file] = _wait_for(lambda: list(tmp_path.glob("odd-*.csv")))
    _wait_for(lambda: len(file.read_text().splitlines()) == 6)
    workers = _wait_for(lambda: _children(run.pid))
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does it: the whole group
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and errors.count("Traceback") == 1
    assert "KeyboardInterrupt" in errors
    # Among them Python's own resource tracker, which ends a moment after its parent.
    _wait_for(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()], 5.0)
    # Two workers: whichever ends first is written first.
    bought = [row.split(",")[2] for row in file.read_text().splitlines()[3:]]
    assert sorted(bought) == ["1", "2", "3"]


def _wait_for(condition, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError(condition)


def _children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_so(tmp_path):
    """Workers import the script again; unguarded, it would start workers of its own."""
    (tmp_path / "odd_oracle.py").write_text(ODD_ORACLE)
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
        import odd_oracle
        from codesign.accelerator import Accelerator
        from codesign.oracle.collect import collect
        from codesign.oracle.interface import Constants, Point

        chip, costs = Accelerator({", ".join(map(str, dataclasses.astuple(CHIP)))}), Constants(
            {", ".join(map(str, dataclasses.astuple(ROUND)))})
        collect(odd_oracle.Odd(), [Point(4, 5, 6, chip, costs)], cache=None, processes=1)
    """)
    )
    run = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode != 0
    assert re.search(r"RunError: a worker process .* could not start \(exit code 1\)", run.stderr)
    assert '__name__ == "__main__"' in run.stderr.splitlines()[-1]


# Total cycles less stalls reported by scalesim 3.0.0 (m, k, n, rows, columns, dataflow).
SCALESIM = {
    (64, 64, 64, 16, 16, "ws"): 1759,
    (77, 128, 128, 32, 32, "ws"): 2735,
    (77, 128, 128, 32, 32, "os"): 2279,
    (197, 64, 197, 32, 32, "ws"): 4073,
    (197, 64, 197, 32, 32, "os"): 6173,
    (197, 64, 197, 32, 32, "is"): 4073,
    (77, 512, 512, 32, 32, "ws"): 43775,
    (77, 512, 512, 32, 32, "os"): 27551,
    (197, 768, 768, 32, 64, "ws"): 93023,
}


def test_closed_forms_equal_scalesim():
    for (m, k, n, rows, columns, dataflow), cycles in SCALESIM.items():
        found = systolic_cycles(m, k, n, rows=rows, columns=columns, dataflow=dataflow)
        assert found == cycles


def test_closed_form_by_simulating_the_array():
    """Weights stationary, by hand: a fold loads its rows, then streams m inputs through."""
    for m, k, n, rows, columns in itertools.product((1, 7), (3, 9), (2, 5), (2, 4), (1, 3)):
        total = 0
        for _ in itertools.product(range(0, k, rows), range(0, n, columns)):
            # Row r of PE (r, c) sees input i at cycle rows + i + r + c; the last sum leaves then.
            arrivals = rows + np.add.outer(
                np.arange(m), np.add.outer(np.arange(rows), np.arange(columns))
            )
            total += int(arrivals.max()) + 1
        assert systolic_cycles(m, k, n, rows=rows, columns=columns) == total - 1
