"""What tests of every package share."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For modules whose programs run in milliseconds and compile in seconds: optimise less."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session", autouse=True)
def programs_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that tests start share their programs, and leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "programs"
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # see codesign/compilation_cache.py
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_end_with_their_module() -> Iterator[None]:
    """Thousands of compiled programs in one worker cost gigabytes, and crashed the compiler."""
    yield
    jax.clear_caches()
