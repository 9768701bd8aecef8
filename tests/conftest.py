"""What tests of every package share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # see codesign/compilation_cache.py

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# Seconds since the epoch: no test begins after that, as a machine of CI has only so much time.
UNTIL = "CODESIGN_TESTS_UNTIL"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Passes a test over, by name, that would begin too late."""
    if time.time() > float(os.environ.get(UNTIL, "inf")):
        pytest.skip("no time was left for it")


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For modules whose programs run in milliseconds and compile in seconds: optimise less."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_end_with_their_module() -> Iterator[None]:
    """Thousands of compiled programs in one worker cost gigabytes, and crashed the compiler."""
    yield
    jax.clear_caches()
