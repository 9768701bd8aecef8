"""What tests of every package share."""

from __future__ import annotations

import gc
import inspect
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # see codesign/compilation_cache.py

import jax
import pytest
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

from codesign.compiler import plain_options

# Tracing makes millions of objects that live: looking through them every 700 takes a third of it.
gc.set_threshold(100_000, 10, 10)

# Seconds since the epoch: no test begins after that, as a machine of CI has only so much time.
UNTIL = "CODESIGN_TESTS_UNTIL"
_LESS_OPTIMISED = "jax_disable_most_optimizations"
# Of one worker, between modules. Linux gives a process 65,530 mappings; a program takes several.
_MOST_BYTES = 2 * 2**30
_MOST_MAPPINGS = 20_000


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Passes a test over, by name, that would begin too late."""
    if time.time() > float(os.environ.get(UNTIL, "inf")):
        pytest.skip("no time was left for it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first, so that no worker is left alone with one; and modes of compilation apart.

    A change of the mode ends all programs (`programs_of_a_module`).
    """

    def order(item: pytest.Item) -> tuple[bool, bool]:
        is_quick = "quick_compilation" in getattr(item, "fixturenames", ())
        return not is_quick, "train" not in item.path.parts

    items.sort(key=order)


@pytest.fixture(scope="module")
def quick_compilation() -> None:
    """For modules whose programs run in milliseconds and compile in seconds: optimise less."""


@pytest.fixture(scope="session", autouse=True)
def programs_of_the_session(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[None]:
    """Tests, in every worker, and processes that they start compile a program once.

    It is kept in JAX_COMPILATION_CACHE_DIR where the caller sets that, as .ci/run does for several
    runs of pytest; the user's own cache is left alone.
    """
    session = tmp_path_factory.getbasetemp()
    session = session if worker_id == "master" else session.parent  # one of several workers
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(session / "programs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        compilation_cache.reset_cache()
        patch.setattr(compiler, "get_compile_options", _plainer(compiler.get_compile_options))
        yield


def _plainer(options: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's own options of a program; where less is optimised, code without fusion emitters.

    That halves the time of the compilation on CPUs, and JAX has no setting for it.
    """
    plain = {name: value for name, value in plain_options().items() if "emitters" in name}

    def plainer(*args: Any, env_options_overrides: Any = None, **rest: Any) -> Any:
        more = env_options_overrides or {}
        if jax.config.read(_LESS_OPTIMISED):
            more = plain | more
        return options(*args, env_options_overrides=more, **rest)

    return plainer


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiles as the module asks, and keeps its programs for the next, which need no tracing.

    But not those of another mode; nor any into or out of a module that puts something in a
    function's place, which a program traced before or after does not have; nor too many.
    """
    is_quick = "quick_compilation" in request.fixturenames
    replaces = "setattr(" in inspect.getsource(request.module)
    if replaces or jax.config.read(_LESS_OPTIMISED) != is_quick:
        jax.clear_caches()
        jax.config.update(_LESS_OPTIMISED, is_quick)
    yield
    if replaces or _too_many_programs():
        jax.clear_caches()
        gc.collect()


def _too_many_programs() -> bool:
    """Thousands of them in one worker cost gigabytes, and crashed the compiler."""
    try:
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        mappings = Path("/proc/self/maps").read_text().count("\n")
    except OSError:  # not Linux: nobody knows
        return True
    resident = resident_pages * os.sysconf("SC_PAGE_SIZE")
    return resident > _MOST_BYTES or mappings > _MOST_MAPPINGS
