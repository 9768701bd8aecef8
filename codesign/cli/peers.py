"""A process that is one of several, in a child of its own.

JAX ends a process whose peers have died by an abort in C++ and a page of its log, and one that
fails by itself waits for its peers minutes long before it ends. So the work is done by a child.
Its parent passes on signals and what native code prints, and says in one line that a peer died.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

from codesign.errors import RunError, UserError
from codesign.printable import printable
from codesign.termination import Terminated

# What the services by which processes find each other log of peers that are gone.
_LOG_OF_PEERS = re.compile(rb"[WEF]\d{4} .*\b(coordination_\w+|preemption_\w+|client)\.(cc|h):\d+")
_ABORTED = b"the JAX distributed service detected fatal errors"
# In errors of collectives and barriers.
_OF_PEERS = ("Gloo", "NCCL", "oordination", "eartbeat", "arrier")
_LOST = 75  # the child's exit code for it: a failure that another try may mend (sysexits.h)
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LAST_WORDS_S = 2.0


def go_on_in_child(lost: str, absent: str) -> Callable[[], None]:
    """Returns in a child; this process waits for it and ends with its exit code.

    The child ends when this process does. Call it before JAX starts threads.

    Args:
      lost: the line to end with, with exit code 1, where a peer of the child died.
      absent: likewise, where the child has not met its peers.

    Returns:
      What the child calls once it has met them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    printed, native = os.pipe()
    alive, living = os.pipe()
    met, meet = os.pipe()
    child = os.fork()
    if child:
        os.close(native)
        os.close(alive)
        os.close(meet)

        def why() -> str:
            os.set_blocking(met, False)  # a worker of the child's may hold the pipe open
            try:
                return lost if os.read(met, 1) else absent
            except BlockingIOError:
                return absent

        raise SystemExit(_outcome(child, os.fdopen(printed, "rb"), why))
    os.close(printed)
    os.close(met)
    os.close(living)
    # A group of its own: Ctrl-C comes to it once, from its parent.
    os.setpgid(0, 0)
    stderr = sys.stderr
    sys.stderr = os.fdopen(
        os.dup(2), "w", buffering=1, encoding=stderr.encoding, errors=stderr.errors
    )
    os.dup2(native, 2)
    os.close(native)
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()

    def joined() -> None:
        os.write(meet, b"x")

    return joined


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # nothing is ever written: it ends when the parent does
    os._exit(1)


def _outcome(child: int, printed: BinaryIO, lost: Callable[[], str]) -> int:
    """The exit code, once the child has ended."""

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    held: list[bytes] = []
    reader = threading.Thread(target=_print, args=(printed, held), daemon=True)
    reader.start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    reader.join(_LAST_WORDS_S)  # a worker of the child's may hold the pipe open
    log = b"".join(held)
    if code == _LOST or (code == -signal.SIGABRT and _ABORTED in log):
        print(f"codesign: {printable(lost())}", file=sys.stderr)
        return 1
    os.write(2, log)
    return code if code >= 0 else 128 - code


def _print(printed: BinaryIO, held: list[bytes]) -> None:
    """Passes on the lines of native code, but keeps what comes from a log of peers on."""
    for line in printed:
        if held or _LOG_OF_PEERS.match(line):
            held.append(line)
        else:
            os.write(2, line)


@contextlib.contextmanager
def left_at_once() -> Iterator[None]:
    """Within, an error ends the process without a wait for its peers, who then end as well."""
    try:
        yield
    except Terminated:
        raise  # which all of them do together
    except BaseException as error:
        if _is_of_peers(error):
            os._exit(_LOST)
        codes = {UserError: 2, RunError: 1, KeyboardInterrupt: 130}
        code = next((c for kind, c in codes.items() if isinstance(error, kind)), 1)
        # Before JAX's own, which waits: the one that was registered last comes first.
        atexit.register(_leave, code)
        raise


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_of_peers(error: BaseException) -> bool:
    """Whether a collective or a barrier failed, somewhere below an error.

    By its words: XLA's errors have one class, and libraries make others of them.
    """
    link: BaseException | None = error
    seen: list[BaseException] = []
    while link is not None and link not in seen:
        if not isinstance(link, UserError) and any(word in str(link) for word in _OF_PEERS):
            return True
        seen.append(link)
        link = link.__cause__ or link.__context__
    return False
