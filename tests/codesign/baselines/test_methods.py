"""Rivals on a problem whose front is known, the same again, and without their libraries."""

import builtins
import math
import sys

import numpy as np
import pytest

from codesign.baselines.methods import RIVALS, make, method_class
from codesign.baselines.problem import Problem, key_of
from codesign.errors import UserError
from codesign.search.pareto import hypervolume

pytest.importorskip("sklearn")
gaussian = pytest.importorskip("codesign.baselines.gaussian")
CHOICES = (5, 6, 4, 6, 3, 5)
TRIALS, SEEDS, FIRST = 36, 3, 8
LIBRARIES = {"nsga2": "pymoo", "tpe": "optuna"}


def cost(designs):
    """Grows with every dimension; where the first two are both at their last, a limit breaks."""
    x = designs / (np.array(CHOICES) - 1)
    broken = (x[:, 0] == 1) & (x[:, 1] == 1)
    return np.where(broken, np.inf, np.exp(x @ [1.0, 0.2, 0.5, 0.2, 0.3, 0.1]))


def accuracy(designs):
    """Bought cheaply by the second, fourth and last dimension, dearly by the first."""
    x = designs / (np.array(CHOICES) - 1)
    gained = x @ [0.3, 1.0, 0.2, 1.2, -0.4, 0.8] - 0.6 * np.abs(x[:, 1] - x[:, 3])
    return 1 / (1 + np.exp(-1.2 * gained))


def every():
    return np.indices(CHOICES).reshape(len(CHOICES), -1).T


PROBLEM = Problem(CHOICES, cost, worst_cost=math.exp(2.3), best_cost=1.0, worst_accuracy=0.4)


def hv(designs):
    designs = np.asarray(designs)
    allowed = designs[np.isfinite(cost(designs))]
    return hypervolume(cost(allowed), accuracy(allowed), **PROBLEM.box)


def tried(name, seed, trials=TRIALS, problem=PROBLEM):
    """Designs that a method tries, in order, each once."""
    first = problem.draw(np.random.default_rng(seed), FIRST, set())
    method, found = make(name, problem, first, seed), {}
    while len(found) < trials:
        asked = method.ask()
        price = problem.cost(asked)
        allowed = np.isfinite(price)
        method.tell(asked, price, np.where(allowed, accuracy(asked), np.nan))
        found |= {key_of(d): d for d in asked[allowed]}
    return np.array(list(found.values())[:trials])


@pytest.fixture(scope="module")
def random_mean():
    return np.mean([hv(tried("random", seed)) for seed in range(SEEDS)])


@pytest.mark.parametrize(("name", "share"), [("nsga2", 0.80), ("tpe", 0.80), ("gp", 0.90)])
def test_a_rival_beats_random_search_and_comes_near_the_whole_front(name, share, random_mean):
    pytest.importorskip(LIBRARIES.get(name, "sklearn"))
    seeds, trials = (range(1), 20) if name == "gp" else (range(SEEDS), TRIALS)
    reached = np.mean([hv(tried(name, seed, trials)) for seed in seeds])
    assert reached > random_mean
    assert reached >= share * hv(every())


@pytest.mark.parametrize("name", ["random", "nsga2", "tpe", "gp"])
def test_the_same_seed_tries_the_same_designs_and_another_others(name):
    pytest.importorskip(LIBRARIES.get(name, "sklearn"))
    once = tried(name, 0, trials=20)
    np.testing.assert_array_equal(once, tried(name, 0, trials=20))
    assert not np.array_equal(once, tried(name, 1, trials=20))
    assert len({key_of(d) for d in once}) == 20
    assert np.isfinite(cost(once)).all()


def test_random_search_ends_where_all_designs_are_tried():
    problem = Problem((2, 2), lambda d: np.where(d[:, 0] == 1, np.inf, 1.0 + d[:, 1]), 3, 1, 0.5)
    tried_out = problem.draw(np.random.default_rng(0), 4, set())
    assert len(tried_out) == 2
    method = make("random", problem, tried_out, 0)
    method.tell(method.ask(), np.ones(2), np.ones(2))
    assert len(method.ask()) == 0


def test_a_larger_space_than_can_be_enumerated_is_drawn_from():
    problem = Problem((50,) * 4, lambda d: 1.0 + d.sum(axis=1), 201, 1, 0.5)
    near = np.array([[0, 10, 49, 3]])
    pool = problem.pool(np.random.default_rng(0), near)
    assert len(pool) < problem.designs and ((pool >= 0) & (pool < 50)).all()
    for around in ([1, 10, 49, 3], [0, 10, 48, 3], [0, 11, 49, 3], [0, 10, 49, 4]):
        assert (pool == around).all(axis=1).any()


def test_expected_improvement_is_the_mean_over_draws():
    """Against drawn accuracies, each put into the hypervolume itself."""
    rng = np.random.default_rng(0)
    front_cost, front_accuracy = np.array([1.5, 3.0, 3.5, 9.0]), np.array([0.5, 0.7, 0.65, 0.9])
    new, mean, deviation = np.array([1.2, 2.0, 4.0, 12.0]), np.array([0.45, 0.6, 0.8, 0.9]), 0.03
    box = {"worst_cost": 10.0, "best_cost": 1.0, "worst_accuracy": 0.4}
    found = gaussian.expected_improvement(
        new, mean, np.full(4, deviation), front_cost, front_accuracy, **box
    )
    before = hypervolume(front_cost, front_accuracy, **box)
    for i in range(4):
        draws = mean[i] + deviation * rng.standard_normal(4000)
        gains = [
            hypervolume([*front_cost, new[i]], [*front_accuracy, a], **box) - before for a in draws
        ]
        error = np.std(gains) / math.sqrt(len(gains))
        assert found[i] == pytest.approx(np.mean(gains), abs=4 * error + 1e-9)
    assert found[3] == 0, "it costs more than the box holds"


@pytest.mark.parametrize("name", ["nsga2", "tpe", "gp"])
def test_a_missing_library_is_one_line(name, monkeypatch):
    library = {**LIBRARIES, "gp": "sklearn"}[name]
    real = builtins.__import__

    def without(module, *args, **kwargs):
        if module.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named '{library}'", name=library)
        return real(module, *args, **kwargs)

    for module in [m for m in sys.modules if m.startswith("codesign.baselines.")]:
        if module.rpartition(".")[2] in ("nsga2", "tpe", "gaussian"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=f"the method '{name}' needs {library}.*pip install"):
        method_class(name)


def test_a_misspelt_method_is_one_line():
    with pytest.raises(UserError, match=r"no method 'nsga3'; did you mean 'nsga2'\?"):
        method_class("nsga3")
    assert len({each.name for each in RIVALS}) == len(RIVALS)
