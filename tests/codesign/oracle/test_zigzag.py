"""ZigZag as an oracle: its stored samples everywhere, and itself where it is installed."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.errors import UserError
from codesign.oracle import SAMPLED_SCENARIO, cache
from codesign.oracle.collect import collect
from codesign.oracle.interface import Constants, OracleError, Point, Sample
from codesign.oracle.stored import SETS, gemms, points, stored_designs, stored_pairs, write_designs
from codesign.oracle.systolic import systolic_cycles
from codesign.oracle.zigzag import ZigZag, _sizes, _tools, _unrollings

pytestmark = pytest.mark.usefixtures("quick_compilation")
live = pytest.mark.skipif(
    importlib.util.find_spec("zigzag") is None, reason="zigzag-dse is not installed"
)
# An independent run of ZigZag at round energies; see the head of the file.
PUBLISHED = Path(__file__).parents[1] / "data" / "zigzag_samples.csv"


@functools.cache
def shipped() -> list[tuple[Point, Sample]]:
    """Every row of the package's file, its point at the row's own constants."""
    path = cache.shipped_file(ZigZag())
    assert path is not None
    rows = cache.read(path, ZigZag())
    return [
        (Point(*map(int, key[:3]), Accelerator(*key[3:]), constants), sample)
        for key, entries in rows.items()
        for constants, sample in entries
    ]


@functools.cache
def pairs() -> tuple[Point, ...]:
    return tuple(stored_pairs(ZigZag(), SAMPLED_SCENARIO))


@functools.cache
def design_points(name: str) -> tuple[tuple[Point, ...], ...]:
    """Points of each design of a set."""
    designs = stored_designs(name)
    shapes = [list(gemms(d.architecture)) for d in designs]
    flat = iter(
        points(
            ((s, d.accelerator) for d, of in zip(designs, shapes, strict=True) for s in of),
            SAMPLED_SCENARIO,
        )
    )
    return tuple(tuple(next(flat) for _ in of) for of in shapes)


def test_the_package_ships_samples_of_these_settings():
    samples = shipped()
    assert len(samples) > 1000
    assert len({point[:4] for point, _ in samples}) == len(samples)
    path = cache.shipped_file(ZigZag())
    assert path is not None and path.stat().st_size < 400_000
    assert cache.shipped_file(ZigZag(lpf_limit=5)) is None


def test_stored_energies_are_their_events_at_their_constants():
    for point, sample in shipped():
        assert sample.events is not None
        assert sample.events.energy_pj(point) == pytest.approx(sample.energy_pj, rel=1e-3)


def test_stored_samples_are_above_their_bounds():
    """Array passes, compulsory traffic and bandwidths, from first principles."""
    for point, sample in shipped():
        m, k, n, chip, costs = point
        events = sample.events
        assert sample.cycles >= m * k * n / chip.pes
        compulsory = m * k + k * n + m * n
        # ZigZag drops what is less than a line of an operand: 128 bytes of DRAM, 512 of the GLB;
        # and PEs that idle in the last block are counted in part.
        assert events.dram_bytes > compulsory - 3 * 128
        assert events.glb_reads + events.glb_writes > 2 * compulsory - 6 * 512
        assert events.register_writes >= 0.99 * k * n
        # One way only: the last results leave while nothing is fetched, which it takes as free.
        one_way = max(m * k + k * n, m * n) - 2 * 128
        assert sample.cycles >= one_way / costs.dram_bytes_per_cycle


def test_stored_samples_need_no_zigzag(monkeypatch):
    """Answered from the package, at the default scenario's constants, none bought."""

    def absent(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", absent)
    _tools.cache_clear()
    asked = [p for name in SETS for of in design_points(name) for p in of] + list(pairs())
    samples = collect(ZigZag(), asked, cache=None, processes=0, progress=False)
    assert samples.bought == 0 and not samples.failures
    assert list(samples.answers) == list(dict.fromkeys(asked))
    assert len(samples.answers) == len(shipped())
    # And what is not stored says what to install.
    with pytest.raises(UserError, match=r"zigzag-dse 3.9.1: pip install 'codesign\[oracle\]'"):
        collect(ZigZag(), [asked[0]._replace(m=198)], cache=None, processes=0, progress=False)
    _tools.cache_clear()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.0")
    _tools.cache_clear()
    with pytest.raises(UserError, match=r"zigzag-dse 3\.9\.1, not 4\.0"):
        ZigZag()(pairs()[0])
    _tools.cache_clear()


def test_sets_of_designs_are_what_they_say():
    near = stored_designs("neighbours")
    centre = dataclasses.astuple(near[0].accelerator)
    steps = [
        sum(a != b for a, b in zip(dataclasses.astuple(d.accelerator), centre, strict=True))
        for d in near
    ]
    assert steps == [0] + [1] * (len(near) - 1) and len(near) == 13
    assert len({d.architecture for d in near}) == 1
    regret = stored_designs("regret")
    assert len({d.architecture for d in regret}) == 1
    assert len({d.accelerator for d in regret}) == len(regret) >= 20
    assert len({d.architecture for d in stored_designs("designs")}) > 10
    with pytest.raises(ValueError, match="did you mean 'regret'"):
        stored_designs("regrets")


def test_pairs_are_no_design_s():
    held = {p[:4] for name in SETS for of in design_points(name) for p in of}
    assert len(pairs()) > 300 and not held & {p[:4] for p in pairs()}


def test_gemms_of_a_design_are_its_macs():
    for design in stored_designs("designs")[:2]:
        v, t, a = design.architecture.vision, design.architecture.text, design.architecture
        macs = a.patches * 3 * a.patch**2 * v.width + (v.width + t.width + 1) * a.projection
        for tower, tokens in ((v, a.vision_tokens), (t, 77)):
            inner = 64 * tower.heads
            macs += (
                tower.layers
                * tokens
                * (4 * tower.width * inner + 2 * tokens * inner + 2 * tower.width * tower.ffn)
            )
        assert sum(m * k * n * count for (m, k, n), count in gemms(a).items()) == macs


def test_designs_read_back_as_written(tmp_path):
    designs = stored_designs("designs")
    write_designs(str(tmp_path / "designs.csv"), designs)
    lines = (tmp_path / "designs.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines[1:]))
    assert len(rows) == len(designs)
    assert [int(r["vision_ffn"]) for r in rows] == [d.architecture.vision.ffn for d in designs]
    assert [float(r["glb_mib"]) for r in rows] == [d.accelerator.glb_mib for d in designs]


def test_zigzag_ranks_as_scalesim_does():
    """One core: against a rigid array of the same size, which neither loads nor fills aside."""
    ours, theirs = [], []
    for point, sample in shipped():
        m, k, n, chip, _ = point
        if chip.cores == 1 and m > 1:
            ours.append(sample.cycles)
            theirs.append(systolic_cycles(m, k, n, rows=int(chip.pe_y), columns=int(chip.pe_x)))
    rank = lambda x: np.argsort(np.argsort(x))  # noqa: E731
    assert len(ours) > 100
    assert np.corrcoef(rank(ours), rank(theirs))[0, 1] > 0.95
    assert np.median(np.array(theirs) / np.array(ours)) > 1


def chip_point(m: int, k: int, n: int, chip: Accelerator) -> Point:
    return Point(m, k, n, chip, shipped()[0][0].constants)


def test_unrollings_fill_the_array_and_split_each_loop_once():
    big = chip_point(197, 768, 3072, Accelerator(4, 64, 16, 256, 64, 4))
    assert _unrollings(big) == [
        {"D1": ["D1, 64"], "D2": ["D2, 16"], "D3": [f"{loop}, 4"]} for loop in ("D0", "D1", "D2")
    ]
    # 100 columns leave two blocks for four cores, 5 rows one, which is no split.
    small = chip_point(3, 5, 100, Accelerator(4, 64, 16, 256, 64, 4))
    assert _unrollings(small) == [
        {"D1": ["D1, 64"], "D2": ["D2, 5"], "D3": ["D0, 3"]},
        {"D1": ["D1, 64"], "D2": ["D2, 5"], "D3": ["D1, 2"]},
    ]
    one = chip_point(1, 5, 10, Accelerator(4, 64, 16, 256, 64, 4))
    assert _unrollings(one) == [{"D1": ["D1, 10"], "D2": ["D2, 5"], "D3": ["D0, 1"]}]


def test_smaller_registers_are_tried_where_they_crowd_the_l2():
    """An eighth of 256 KiB: 32 bytes of 1,024 PEs, 8 of 4,096."""
    for pe_y, sizes in ((16, [32]), (32, [32, 8]), (64, [32, 8])):
        assert _sizes(Accelerator(1, 64, pe_y, 256, 64, 4), (32, 8, 2)) == sizes
        # Words twice as wide crowd a buffer twice as large.
        assert _sizes(Accelerator(1, 64, pe_y, 512, 64, 4), (32, 8, 2), 2.0) == sizes
    assert _sizes(Accelerator(1, 256, 64, 64, 64, 4), (32, 8, 2)) == [32, 8, 2]


@live
def test_zigzag_gives_the_stored_samples_again(capfd):
    """One small GEMM of each number of cores, in this process, and quietly."""
    for cores in (1, 2, 4):
        point, stored = min(
            ((p, s) for p, s in shipped() if p.accelerator.cores == cores and p.m > 1),
            key=lambda x: (x[0].m * x[0].k * x[0].n, x[0].accelerator.pe_x),
        )
        sample = ZigZag()(point)
        assert sample.cycles == stored.cycles
        assert sample.events == pytest.approx(stored.events)
        assert sample.energy_pj == pytest.approx(sample.events.energy_pj(point), rel=1e-9)
    assert capfd.readouterr() == ("", "")


@live
@pytest.mark.parametrize("row", [5, 14, 32])
def test_zigzag_gives_the_published_samples(row):
    """Cycles exactly. Energies but for what is charged otherwise: registers, accumulators.

    The published run paid 0.1 pJ an accumulator access, two for each column sum, and 0.03 pJ
    where a PE takes another weight; here the MAC pays both.
    """
    lines = [x for x in PUBLISHED.read_text().splitlines() if not x.startswith("#")]
    published = list(csv.DictReader(lines))[row]
    m, k, n = map(int, published["gemm_MxKxN"].split("x"))
    words = published["hardware"].replace("x", "_").replace("PE", "").split("_")
    pe_x, pe_y, cores, l2_kib, width, glb_mib = (
        int("".join(c for c in w.replace("L2", "") if c.isdigit())) for w in words
    )
    costs = Constants(
        mac_pj=0.2,
        register_read_pj=0.0,
        register_write_pj=0.03,
        l2_read_pj=1.0,
        l2_write_pj=1.0,
        glb_read_pj=5.0,
        glb_write_pj=5.0,
        dram_pj=60.0,
        static_pj=0.0,
        dram_bytes_per_cycle=128.0,
        glb_bytes_per_cycle=256.0,
    )
    chip = Accelerator(cores, pe_x, pe_y, l2_kib, width, glb_mib)
    sample = ZigZag(register_words=(64, 16, 4))(Point(m, k, n, chip, costs))
    assert sample.cycles == float(published["cycles"])
    otherwise_pj = 1e6 * float(published["energy_uJ"]) - sample.energy_pj
    sums = m * n * math.ceil(k / min(k, pe_y))
    assert 0 <= otherwise_pj < 0.1 * 4 * sums + 0.03 * m * k * n


@live
def test_a_tool_that_fails_is_an_oracle_error(monkeypatch):
    tools = _tools()

    def broken(*_: object, **__: object) -> None:
        raise KeyError("D3")

    monkeypatch.setattr(tools, "MainStage", broken)
    with pytest.raises(OracleError, match="zigzag failed: KeyError 'D3'"):
        ZigZag()(pairs()[0])

    def unmapped(*_: object, **__: object) -> None:
        raise tools.NoValidLoopOrderingFoundException("none of them")

    monkeypatch.setattr(tools, "MainStage", unmapped)
    with pytest.raises(OracleError, match="no valid mapping"):
        ZigZag()(pairs()[0])
