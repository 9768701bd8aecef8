"""Exact fronts of a space, and the file they are made from, against brute force."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from codesign.architecture import clip_vit_b16
from codesign.cost.estimate import estimate
from codesign.errors import UserError
from codesign.search.front import best_under, cheapest, front, network_shape
from codesign.search.objectives import Limits
from codesign.search.proxy_file import PROXY, Proxy, Ranked, proxy_bytes, read_proxy
from codesign.search.statistics import partial_rank_correlation, rank_correlation

pytestmark = pytest.mark.usefixtures("quick_compilation")

LEVELS = st.integers(0, 5).map(float) | st.just(np.inf)
SCORES = hnp.arrays(float, st.shared(st.integers(1, 40), key="n"), elements=LEVELS)


@pytest.mark.parametrize("mode", ["carbon", "edp"])
def test_cheapest_is_the_best_of_all_designs_priced_one_by_one(table, mode):
    """Independent of the table: `estimate` on every accelerator of the grid."""
    # Half of the chips are smaller than this one, and it.
    areas = np.sort(np.ravel(table.chip.area_mm2["all"]))
    limits = Limits(area_mm2=1.0001 * float(areas[len(areas) // 2]))
    choice = cheapest(table, mode, limits)
    shape, space = network_shape(table.space), table.space
    assert choice.value.shape == (np.prod(shape),) == (space.architectures,)
    of = {"carbon": lambda c: c.carbon_kgco2e, "edp": lambda c: c.energy_j * c.latency_s}[mode]
    for flat in (0, 7, space.architectures - 1):
        architecture = space.architecture_at(np.stack(np.unravel_index(flat, shape)))
        found = []
        for i in np.ndindex(1, 2, 2, 2, 1, 1, 1):
            costs = estimate(architecture, space.accelerator_at(np.array(i)), table.scenario)
            found.append(float(of(costs)) if costs.area_mm2 <= limits.area_mm2 else np.inf)
        assert choice.value[flat] == pytest.approx(min(found), rel=1e-5)
        assert found[choice.accelerator[flat]] == pytest.approx(min(found), rel=1e-5)


def test_no_accelerator_within_the_limits_costs_infinitely(table):
    assert np.isinf(cheapest(table, "carbon", Limits(area_mm2=1e-6)).value).all()


@given(SCORES, SCORES)
def test_the_front_is_what_nothing_dominates(cost, loss):
    on = front(cost, loss)
    points = list(zip(cost, loss, strict=True))
    best = {
        p
        for p in points
        if np.isfinite(p).all()
        and not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
    }
    assert {points[i] for i in on} == best and len(on) == len(best)
    assert (np.diff(cost[on]) > 0).all() and (np.diff(loss[on]) < 0).all()


@given(SCORES, SCORES, st.lists(st.floats(0, 6), min_size=1, max_size=5).map(sorted))
def test_the_best_under_a_target_is_the_best_left(cost, loss, targets):
    usable = [i for i in range(len(cost)) if np.isfinite(loss[i]) and cost[i] <= targets[0]]
    if not usable:
        with pytest.raises(ValueError, match="no design meets"):
            best_under(cost, loss, np.array(targets))
        return
    taken = []
    for i, target in zip(best_under(cost, loss, np.array(targets)), targets, strict=True):
        within = [j for j in range(len(cost)) if cost[j] <= target and np.isfinite(loss[j])]
        left = [j for j in within if j not in taken] or within
        assert loss[i] == min(loss[j] for j in left) and i in left
        taken.append(i)


LARGEST = clip_vit_b16()
PROXY_OF = Proxy(
    np.linspace(3, 1, 12, dtype=np.float32).reshape(3, 4), np.full((3, 4), 0.5, np.float32)
)


def test_a_proxy_file_is_read_as_written(tmp_path):
    (tmp_path / PROXY).write_bytes(proxy_bytes(Ranked(PROXY_OF, LARGEST, 7)))
    ranked = read_proxy(tmp_path).check((3, 4))
    assert ranked.largest == LARGEST and ranked.images == 7
    for read, written in zip(ranked.proxy, PROXY_OF, strict=True):
        np.testing.assert_array_equal(read, written)
    with pytest.raises(UserError, match=r"holds \(3, 4\) networks, the run's space has \(4, 3\)"):
        ranked.check((4, 3))


def test_a_damaged_proxy_file_is_named(tmp_path):
    path = tmp_path / PROXY
    with pytest.raises(UserError, match="is missing: only searches with --schedule"):
        read_proxy(tmp_path)
    whole = proxy_bytes(Ranked(PROXY_OF, LARGEST, 7))
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged[: rng.integers(0, len(whole))]))
        with pytest.raises(UserError, match=PROXY):
            read_proxy(tmp_path)
    about = json.dumps({"architecture": {"vision": 3}, "images": 2}).encode()
    np.savez(path, about=np.frombuffer(about, np.uint8), **PROXY_OF._asdict())
    with pytest.raises(UserError, match=r"architecture\.vision"):
        read_proxy(tmp_path)


def test_rank_correlations_agree_with_scipy_and_the_precision_matrix():
    x, y, z = np.random.default_rng(1).normal(size=(3, 30)).round(1)
    y = y + x
    z = z - x
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    precision = np.linalg.inv(stats.spearmanr(np.stack([x, y, z], axis=1)).statistic)
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    assert partial_rank_correlation(x, y, z) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(rank_correlation(x, np.ones(30)))
    assert np.isnan(partial_rank_correlation(x, y, x)), "the third ranks as the first does"
