"""Programs compiled ahead: found by their calls, begun once, and harmless where they fail."""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp
import pytest

from codesign.train import placement
from codesign.train.ahead import Ahead, shapes


@functools.partial(jax.jit, static_argnames="power", donate_argnames="state")
def advance(state, other, key, power):
    """A step that gives its state up."""
    return jax.tree.map(lambda x: x**power + other["b"] + jax.random.normal(key), state)


@pytest.fixture
def compiled(caplog):
    """Names of the programs that were compiled so far."""
    jax.config.update("jax_log_compiles", True)  # of every thread
    with caplog.at_level(logging.WARNING, "jax"):
        yield lambda: [
            r.getMessage().partition("(")[2].partition(")")[0]
            for r in caplog.records
            if r.getMessage().startswith("Compiling jit(")
        ]
    jax.config.update("jax_log_compiles", False)


def given():
    """Placed as a run places its arrays; a weakly typed number among them."""
    whole = placement.replicated(placement.make_mesh())
    state = placement.put({"a": jnp.ones((3, 2)), "n": jnp.asarray(2.0)}, whole)
    return state, placement.put({"b": jnp.full((), 3, jnp.float32)}, whole), jax.random.key(1)


def test_a_call_finds_what_was_compiled(compiled):
    advance.clear_cache()
    ahead = Ahead()
    for _ in range(2):  # the second is the first
        ahead.begin("advance", lambda: [(advance, *given(), 2), (advance, *given(), 3)])
    ahead.end()
    ahead.close()
    assert compiled().count("advance") == 2
    for power in (2, 3):
        jax.block_until_ready(advance(*given(), power))
    assert compiled().count("advance") == 2
    advance(*given(), 4)
    assert compiled().count("advance") == 3, "what was not begun is compiled when it is called"


def test_shapes_may_be_told_for_arrays_that_are_not_there_yet(compiled):
    advance.clear_cache()
    state, *rest = given()
    later = jax.eval_shape(lambda: given()[0])
    told = shapes(later, jax.tree.map(lambda x: x.sharding, state))
    ahead = Ahead()
    ahead.begin("advance", lambda: [(advance, told, *rest, 5)])
    ahead.end()
    advance(state, *rest, 5)
    assert compiled().count("advance") == 1
    ahead.close()


def test_an_error_is_left_to_the_call():
    @jax.jit
    def wrong(x):
        raise ValueError("no such step")

    ahead = Ahead()
    ahead.begin("wrong", lambda: [(wrong, jnp.ones(2))])
    ahead.end()
    ahead.close()
    with pytest.raises(ValueError, match="no such step"):
        wrong(jnp.ones(2))


def test_several_processes_compile_when_they_call(monkeypatch, compiled):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    advance.clear_cache()
    ahead = Ahead()
    ahead.begin("advance", lambda: [(advance, *given(), 2)])
    ahead.end()
    ahead.close()
    assert "advance" not in compiled()
