"""A Python file of the user's, such as a config or an oracle: run it, and send on what it defines.

The file's module has a name made of its path, the same in every process. So an object of a class
that the file defines can be pickled by `dumps` and unpickled by a process that never saw the file:
there the file is run again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import pickle
import re
import sys
import types
from pathlib import Path
from typing import Any

from codesign.errors import UserError, did_you_mean
from codesign.termination import Terminated

_PREFIX = "_codesign_file_"
# FILE.py:NAME
_MEMBER = re.compile(r"(.+\.py):([A-Za-z_]\w*)", re.DOTALL)


def load_file(path: Path, what: str) -> types.ModuleType:
    """Runs a file and returns its module. What it prints goes to stderr.

    Args:
      path: ends in ".py".
      what: the file is, for messages: "config file".

    Raises:
      UserError: there is no such file, or it ends in an exception or exits: one line with the
        file and the line in it.
    """
    if not path.is_file():
        raise UserError(f"there is no {what} {path}")
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their annotations up in sys.modules.
    sys.modules[name] = module
    try:
        # Standard output belongs to the program's result.
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:  # the user's own code: any error in it is bad input, an exit too
        del sys.modules[name]
        raise UserError(f"{path}{_line(error, path)}: {_said(error)}") from error
    return module


def is_member(name: object) -> bool:
    """Whether a name is one of a user's file, "FILE.py:NAME"."""
    return isinstance(name, str) and _MEMBER.fullmatch(name) is not None


def load_member(name: str, what: str) -> Any:
    """What a user's file defines under a name, "FILE.py:NAME"; the file is run once a process.

    Args:
      name: of which `is_member` is true; "~" is the home folder.
      what: the thing is, for messages: "objective".

    Raises:
      UserError: no such file or name, or the file ends in an exception.
    """
    match = _MEMBER.fullmatch(name)
    assert match is not None, name
    path = Path(match[1]).expanduser()
    module = sys.modules.get(_module_name(path)) or load_file(path, f"file of the {what}")
    if not hasattr(module, match[2]):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(f"{path} defines no {match[2]}; {did_you_mean(match[2], names)}")
    return getattr(module, match[2])


def dumps(obj: Any) -> bytes:
    """Pickles an object; classes and functions of users' files go by their file's path.

    Raises:
      UserError: it cannot be pickled.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(obj)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UserError(f"{type(obj).__name__} cannot be pickled: {error}") from error
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)) and obj.__module__.startswith(_PREFIX):
            if "<locals>" in obj.__qualname__:
                raise pickle.PicklingError(f"{obj.__qualname__} is no name of its file")
            return _member, (sys.modules[obj.__module__].__file__, obj.__qualname__)
        return NotImplemented


def _member(path: str, qualname: str) -> Any:
    """What a file defines under a name; the file is run unless this process has."""
    module = sys.modules.get(_module_name(Path(path))) or load_file(Path(path), "file")
    return functools.reduce(getattr, qualname.split("."), module)


def _module_name(path: Path) -> str:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    return f"{_PREFIX}{path.stem}_{digest}"


def _said(error: BaseException) -> str:
    """An error in a line."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, SystemExit):
        return f"it exits ({text or 0}); let the file run to its end"
    if isinstance(error, SyntaxError):
        text = error.msg
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line(error: BaseException, path: Path) -> str:
    """ ", line 12", where in the file the error arose."""
    own = {str(path), str(path.resolve())}
    if isinstance(error, SyntaxError) and error.filename in own:
        return f", line {error.lineno}"
    traceback, line = error.__traceback__, ""
    while traceback:
        if traceback.tb_frame.f_code.co_filename in own:
            line = f", line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line
