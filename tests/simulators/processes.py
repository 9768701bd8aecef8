"""`codesign` in processes of its own: one, or several that share a run on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def started(
    command: str, config: Path, out: Path, *options: str, **environment: str
) -> subprocess.Popen[str]:
    """A run of a config, as it begins."""
    argv = [sys.executable, "-m", "codesign", command, str(config), "--out", str(out), "--json"]
    return subprocess.Popen(
        [*argv, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )


def finished(process: subprocess.Popen[str]) -> Any:
    """What a run prints, as it ends well; None: nothing, as of a search's second process."""
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return json.loads(out) if out else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def two(begin: Callable[..., subprocess.Popen[str]], *args: Any) -> list[subprocess.Popen[str]]:
    """The processes of one run: `begin(*args, *options, **environment)` for each."""
    address = f"127.0.0.1:{free_port()}"
    return [
        begin(
            *args,
            "--distributed",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
