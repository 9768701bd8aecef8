"""Checkpoints: damage of every kind, full disks, and networks that were destroyed."""

import gc
import json
import math
import resource
import shutil

import numpy as np
import pytest

from codesign.errors import RunError
from codesign.train import checkpoints as module
from codesign.train.checkpoints import Checkpoints
from simulators.limits import bounded
from simulators.mutations import damaged

PHASES = ("first", "second")


def state(step):
    """Arrays of several kinds, all of the step."""
    return [np.full((3, 4), step, np.float32), np.arange(step, step + 5), np.float32(step)]


def saved_run(folder, steps=(10, 20), losses=None):
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.saw([(losses or {}).get(step, 1.0)])
            checkpoints.save(step, "first", state(step), {"at": [step]})
    return folder / "steps"


def latest(folder):
    """The newest whole checkpoint, and what the user is told."""
    said = []
    with Checkpoints(folder) as checkpoints:
        return checkpoints.latest(PHASES, said.append), said


def assert_of_step(saved, step):
    assert (saved.step, saved.phase, saved.notes) == (step, "first", {"at": [step]})
    for found, expected in zip(saved.leaves, state(step), strict=True):
        np.testing.assert_array_equal(found, expected)


def edit_meta(place, **changes):
    path = place / "meta" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def files(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path):
    """One bit of the largest file, which holds the arrays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "no state": lambda place: shutil.rmtree(place / "state"),
    "no meta": lambda place: shutil.rmtree(place / "meta"),
    "empty state": lambda place: [path.unlink() for path in files(place / "state")],
    "empty files": lambda place: [cut(path, 0) for path in files(place)],
    "halved files": lambda place: [cut(path, 0.5) for path in files(place)],
    "a halved array": lambda place: cut(max(files(place / "state"), key=_size), 0.5),
    "a flipped bit": lambda place: flip(max(files(place / "state"), key=_size)),
    "no JSON": lambda place: (place / "meta" / "metadata").write_text("[" * 3),
    "a list": lambda place: (place / "meta" / "metadata").write_text("[1]"),
    "another phase": lambda place: edit_meta(place, phase="second"),
    "no phase": lambda place: edit_meta(place, phase="third", checksum=None),
    "other notes": lambda place: edit_meta(place, notes={"at": [7]}),
    "another step": lambda place: edit_meta(place, step=11, checksum=None),
    "an empty folder": lambda place: (shutil.rmtree(place), place.mkdir()),
}


def _size(path):
    return path.stat().st_size


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_newest_checkpoint_is_told_of_and_the_one_before_is_taken(tmp_path, damage):
    steps = saved_run(tmp_path)
    damage(steps / "20")
    saved, said = latest(tmp_path)
    assert_of_step(saved, 10)
    assert len(said) == 1 and "step 20 is damaged" in said[0] and "\n" not in said[0]
    # The run comes by the step again.
    saved_run(tmp_path, (20,))
    saved, said = latest(tmp_path)
    assert said == []
    assert_of_step(saved, 20)


@pytest.mark.parametrize("damage", ["no state", "no meta", "empty files", "a flipped bit"])
def test_where_every_checkpoint_is_damaged_that_is_one_line(tmp_path, damage):
    steps = saved_run(tmp_path)
    for step in ("10", "20"):
        DAMAGES[damage](steps / step)
    with pytest.raises(RunError, match=r"every checkpoint in .* is damaged") as caught:
        latest(tmp_path)
    assert "\n" not in str(caught.value) and (steps / "20").exists()


def test_the_errors_of_many_damaged_arrays_are_one_line(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(10, "first", [np.full(9, at) for at in range(200)], {})
    for path in files(tmp_path / "steps" / "10" / "state" / "d"):
        flip(path)
    with pytest.raises(RunError, match="every checkpoint"):
        latest(tmp_path)
    gc.collect()  # Orbax's tasks tell of their own errors when they are collected.
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_run_without_checkpoints_has_no_latest(tmp_path):
    assert latest(tmp_path) == (None, [])


def test_two_are_kept_or_the_damage_of_one_would_be_the_end(tmp_path):
    steps = saved_run(tmp_path, (10, 20, 30, 40))
    assert sorted(path.name for path in steps.iterdir()) == ["30", "40"]


def test_what_a_killed_write_left_is_cleared(tmp_path):
    steps = saved_run(tmp_path)
    half = steps / "30.orbax-checkpoint-tmp"
    shutil.copytree(steps / "20", half)
    saved_run(tmp_path, (30,))
    assert not half.exists()


def test_the_last_checkpoint_of_a_sane_network_is_kept_and_named(tmp_path):
    losses = {10: 4.0, 20: 3.0, 30: 80.0, 40: 90.0, 50: 1e9}
    steps = saved_run(tmp_path, tuple(losses), losses)
    assert sorted(path.name for path in steps.iterdir()) == ["20", "40", "50"]
    # Also by a run that was resumed since.
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(PHASES, print).step == 50 and checkpoints.last_sane == 20
        line = checkpoints.not_finite("the loss is not finite at step 55")
    assert "the checkpoint of step 20, from before, is kept" in line and "\n" not in line
    assert [path.name for path in steps.iterdir()] == ["20"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, bad):
    saved_run(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.latest(PHASES, print)
        with pytest.raises(RunError, match=r"not finite after step 29.*step 20, from before"):
            checkpoints.save(30, "first", [np.array([0.0, bad])], {})
    assert_of_step(latest(tmp_path)[0], 20)


def test_a_disk_without_room_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    steps = saved_run(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(RunError, match=r"checkpoint of step 30 .*No space left") as caught:
            checkpoints.save(30, "first", state(30), {})
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in steps.iterdir()) == ["10", "20"]


@pytest.fixture
def full_disk():
    """No file may grow beyond 100 kB: the system refuses as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_a_write_in_the_background_is_one_line(tmp_path, full_disk, capfd):
    saved_run(tmp_path)
    large = np.random.default_rng(0).normal(size=500_000)

    def goes_on():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(30, "first", [large], {})

    with pytest.raises(RunError, match="File too large") as caught:
        goes_on()
    assert "\n" not in str(caught.value) and "Traceback" not in capfd.readouterr().err
    assert_of_step(latest(tmp_path)[0], 20)


@pytest.mark.slow
def test_damage_anywhere(tmp_path):
    """A file of the newest checkpoint gone, cut or with other bytes: one of the two, or a line."""
    saved_run(tmp_path / "whole")
    rng, places = np.random.default_rng(0), []
    for case in range(200):
        folder = tmp_path / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        newest = files(folder / "steps" / "20")
        every = sorted((folder / "steps").rglob("*")) if case % 4 else newest
        path = every[int(rng.integers(len(every)))]
        places.append(path.name)
        if path.is_dir() or case % 5 == 0:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            data = path.read_bytes()
            path.write_bytes(damaged(data, rng) if data else b"x")
        with bounded(30):
            try:
                saved, said = latest(folder)
            except RunError as error:
                lines = [str(error)]
            else:
                lines = said
                # Where the folder of a step is gone whole, nothing is left to tell of.
                assert saved is None or saved.step in (10, 20)
                if saved is not None:
                    assert_of_step(saved, saved.step)
        assert all("\n" not in line for line in lines)
    assert len(set(places)) > 5
