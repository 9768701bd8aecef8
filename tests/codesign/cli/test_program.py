"""The program as a process: what its end waits for, and what it makes of a reader that leaves."""

import shlex
import shutil
import subprocess
import sys

import pytest


def test_the_end_does_not_wait_for_what_nobody_will_call():
    """Such as a program that compiles when a run is interrupted."""
    code = (
        "import sys, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from codesign.cli import program\n"
        "from codesign.termination import UNWAITED\n"
        "ThreadPoolExecutor(1, thread_name_prefix=UNWAITED).submit(time.sleep, 60)\n"
        "sys.argv = ['codesign', 'report', 'no-such-run']\n"
        "program()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40)
    assert done.returncode == 2 and "no-such-run" in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="pipes are bash's")
@pytest.mark.parametrize("more", ["", "--json"])
def test_a_reader_that_has_seen_enough_is_no_failure(more):
    program = f"{shlex.quote(sys.executable)} -m codesign cost tinyclip-8m-16 {more}"
    pipe = f"set -o pipefail; {program} | head -1"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
