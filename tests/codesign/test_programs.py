"""Programs of former runs leave room for those of the next one."""

from __future__ import annotations

import functools
import sys

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from codesign import programs
from codesign.runs import RunFolder
from codesign.train import stages

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the limit"),
]


def compiled(number):
    """So many programs, none of which is used again."""

    @functools.partial(jax.jit, static_argnums=1)
    def step(x, run):
        return jnp.sort(x @ x.T) + run

    for run in range(number):
        step(jnp.ones((4, 4)), run)
    return step


def test_programs_are_dropped_where_they_take_much_of_the_room(tmp_path, monkeypatch):
    most = tmp_path / "max_map_count"
    monkeypatch.setattr(programs, "_MOST", most)
    programs.jax.clear_caches()
    before = programs.mappings()
    step = compiled(20)
    used = programs.mappings()
    assert used > before + 20
    most.write_text(f"{10 * used}\n")
    assert not programs.make_room() and programs.mappings() >= used - 5
    most.write_text(f"{2 * used}\n")
    assert programs.make_room() and programs.mappings() < before + 20
    assert step(jnp.ones((4, 4)), 3)[0, 0] == 7


def test_a_run_makes_room_as_it_begins(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(stages, "make_room", lambda: made.append(True))
    folder = RunFolder.create(tmp_path / "run", {}, kind="fine-tuning")
    with stages.session(folder, Console(quiet=True), ["train"]):
        assert made == [True]


def test_systems_that_do_not_tell_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_OWN", tmp_path / "absent")
    assert not programs.make_room()
