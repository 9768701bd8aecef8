"""Configs by name or path, and `--a.b value` overrides of any of their fields.

A config is a Python module that defines `config`, an instance of a frozen dataclass
whose fields are numbers, strings, tuples, Optionals or further frozen dataclasses; the
config.json of a run, which repeats it; or a YAML file with the fields, whose "config" names the
config that the others are of.
An override replaces one field of that instance; everything else stays the very object
the module made.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codesign.constraints import type_name
from codesign.errors import UserError, did_you_mean
from codesign.hints import type_hints
from codesign.printable import short_repr
from codesign.renamed import RETIRED, current, warn_retired
from codesign.runs import jsonable
from codesign.userfile import load_file

if typing.TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_PACKAGE = "codesign.configs"
_YAML = (".yaml", ".yml")
_NOT_FINITE = re.compile(r"[+-]?\.?(nan|inf|infinity)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Field:
    """One field that can be overridden.

    Attributes:
      path: its dotted name, "optim.lr".
      kind: its type.
      value: its value in the config.
      help: its line in the dataclass docstring's `Attributes:`.
    """

    path: str
    kind: Any
    value: Any
    help: str


def config_names() -> list[str]:
    """Names of the configs that come with the package."""
    package = importlib.import_module(_PACKAGE)
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def config_name(name_or_path: str) -> str:
    """The short name of a config: the module's, the file's without ".py", or the run folder's."""
    if _is_record(name_or_path):
        return Path(name_or_path).resolve().parent.name
    return Path(name_or_path).stem if _is_path(name_or_path) else name_or_path


def load_config(name_or_path: str, argv: Sequence[str] = (), command: str = "") -> Any:
    """A config with overrides applied.

    Args:
      name_or_path: a module of codesign.configs, or the path of a .py or .yaml file or of a
        run's config.json.
      argv: overrides, ["--optim.lr", "3e-4", "--space.layers=[1,2]"].
      command: that runs it; a module may define a config for it alone under its name, such as
        `search`.

    Returns:
      An instance of the dataclass that the module's `config` is.

    Raises:
      UserError: for an unknown config or field, or a value of the wrong type.
    """
    return overridden(_load_instance(name_or_path, command), argv)


def overridden(config: Any, argv: Sequence[str]) -> Any:
    """A config with overrides applied.

    Raises:
      UserError: for an unknown field, or a value of the wrong type.
    """
    fields = {field.path: field for field in config_fields(config)}
    given = dict(_pairs(argv, fields))
    values = {path: _parse(fields[path], text) for path, text in given.items()}
    return _replaced(config, "", values, given)


def given_fields(config: Any, argv: Sequence[str]) -> frozenset[str]:
    """Dotted names of the fields that the overrides `argv` of a config set, to whatever value.

    Raises:
      UserError: for an unknown field or an option without a value.
    """
    fields = {field.path: field for field in config_fields(config)}
    return frozenset(path for path, _ in _pairs(argv, fields, told=True))


def format_overrides(name_or_path: str, command: str = "") -> str:
    """Help for the fields of a config: name, type, default, meaning; one block of text."""
    config = _load_instance(name_or_path, command)
    parser = _new_parser()
    groups: dict[str, Any] = {}
    for field in config_fields(config):
        section = field.path.partition(".")[0] if "." in field.path else config_name(name_or_path)
        if section not in groups:
            groups[section] = parser.add_argument_group(f"fields of {section}")
        _add(groups[section], field)
    text = parser.format_help()
    return text[text.index("fields of") :] if "fields of" in text else text


def config_to_json(config: Any) -> dict[str, Any]:
    """The config as plain JSON values, field by field, for config.json."""
    plain = jsonable(config)
    if not isinstance(plain, dict):
        raise TypeError(f"a config is a dataclass, not a {type(config).__name__}")
    return plain


def config_hash(config: Any) -> str:
    """Twelve hex digits that are equal for equal configs, in any process."""
    text = json.dumps(config_to_json(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def config_fields(config: Any, prefix: str = "") -> Iterator[Field]:
    """Every field of a config, nested dataclasses opened, in the order of definition."""
    made_by: Any = type(config)
    hints, helps = type_hints(made_by), _attribute_docs(made_by)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        path = prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from config_fields(value, path + ".")
        elif field.init:
            kind = _kind(hints[field.name], value)
            yield Field(path, kind, value, helps.get(field.name, ""))


def _kind(hint: Any, value: Any) -> Any:
    """The type to parse with: the annotation, made useful to a parser."""
    if hint is Any:
        return str if value is None else type(value)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        # Any text is a str, so it must be the last member tried: "300" is a number first.
        # A function cannot be typed on a command line.
        members = [m for m in typing.get_args(hint) if typing.get_origin(m) is not Callable]
        members = sorted(members, key=lambda member: member is str)
        return typing.Union[tuple(members)]  # noqa: UP007 -- built from a tuple
    return hint


@functools.cache
def _attribute_docs(cls: type) -> dict[str, str]:
    """What the docstrings say of each field, inherited ones too."""
    from docstring_parser import parse

    return {
        doc.arg_name: " ".join((doc.description or "").split())
        for base in reversed(cls.__mro__)
        for doc in parse(inspect.cleandoc(base.__doc__ or "")).params
    }


def _is_path(name_or_path: str) -> bool:
    return (
        name_or_path.endswith((".py", ".json", *_YAML))
        or "/" in name_or_path
        or "\\" in name_or_path
    )


def _is_record(name_or_path: str) -> bool:
    return name_or_path.endswith(".json")


def _recorded(path: Path) -> Any:
    """The config that a run's config.json holds.

    Raises:
      UserError: no such file, or one that holds no config, or a function, which is in no file.
    """
    from codesign.decode import decode
    from codesign.kinds import kind_of_run
    from codesign.runs import CONFIG, read_record

    if path.name != CONFIG or not path.is_file():
        raise UserError(f"{path}: expected a .py file, or the {CONFIG} of a run")
    config = read_record(path).get("config")
    if not isinstance(config, Mapping):
        raise UserError(f"{path} is no run's: it holds no config")
    return decode(kind_of_run(path.parent).config_class(), config, str(path), at="config")


def _of_yaml(path: Path, command: str) -> Any:
    """The config of a YAML file: its fields, and those it leaves out.

    These are of the config that "config" names, else the defaults of the kind of run, which "kind"
    tells where the command runs more than one.

    Raises:
      UserError: a file that is none, a config that is not there, or a field that it has not.
    """
    from codesign.decode import decode
    from codesign.kinds import KINDS
    from codesign.yaml_text import read_yaml

    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds no fields of a config")
    base, name = fields.pop("config", None), fields.pop("kind", None)
    of_command = [kind for kind in KINDS if kind.command == command]
    kinds = of_command if name is None else [kind for kind in KINDS if kind.name == name]
    if not kinds:
        hint = did_you_mean(str(name), [kind.name for kind in KINDS])
        raise UserError(f"{path}: there is no kind {short_repr(name)}; {hint}")
    if base is None:
        try:
            instance = decode(kinds[0].config_class(), fields, str(path))
        except UserError as error:
            raise UserError(f"{error}; a line 'config: NAME' gives what is left out") from error
    elif isinstance(base, str) and not base.endswith(_YAML):
        instance = _load_instance(base, command)
    else:
        raise UserError(f"{path}: config is {short_repr(base)}: it must be a config's name or path")
    options = list(_options(fields, {field.path for field in config_fields(instance)}))
    try:
        if base is None:  # fields have their values; one that is not there is told
            given_fields(instance, options)
            return instance
        return overridden(instance, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _options(fields: Mapping[str, Any], known: Collection[str], prefix: str = "") -> Iterator[str]:
    """Nested fields as options of the command line, --optim.lr=0.001."""
    for key, value in fields.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and path not in known:
            yield from _options(value, known, f"{path}.")
        else:
            yield f"--{path}={value if isinstance(value, str) else json.dumps(value)}"


def printed(config: Any) -> str:
    """A config as YAML, which is a CONFIG again.

    Raises:
      UserError: it holds a function, which is in no file.
    """
    from codesign.kinds import kind_of
    from codesign.yaml_text import yaml_text

    for field in config_fields(config):
        if _holds_a_function(field.value):
            raise UserError(
                f"--{field.path} is a function of a config file, which no other can hold; name it "
                "FILE.py:NAME"
            )
    kind = kind_of(type(config))
    return yaml_text(({"kind": kind.name} if kind else {}) | config_to_json(config))


def _holds_a_function(value: Any) -> bool:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = tuple(vars(value).values())
    return any(map(_holds_a_function, value)) if isinstance(value, tuple) else callable(value)


def _load_instance(name_or_path: str, command: str = "") -> Any:
    if name_or_path.endswith(_YAML):
        return _of_yaml(Path(name_or_path), command)
    if _is_record(name_or_path):
        return _recorded(Path(name_or_path))
    if _is_path(name_or_path):
        module = load_file(Path(name_or_path), "config file")
    else:
        names = config_names()
        if name_or_path not in names:
            hint = did_you_mean(name_or_path, names)
            raise UserError(
                f"there is no config '{name_or_path}'; {hint} "
                f"(configs: {', '.join(names) or 'none'}; or the path of a .py or .yaml file, or "
                "of a run's config.json)"
            )
        module = importlib.import_module(f"{_PACKAGE}.{name_or_path}")
    config = getattr(module, command, None) if command else None
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        config = getattr(module, "config", None)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise UserError(f"{name_or_path} defines no 'config', an instance of a dataclass")
    return config


def _pairs(
    argv: Sequence[str], fields: dict[str, Field], *, told: bool = False
) -> Iterator[tuple[str, str]]:
    """(path, text) for each override in `argv`; of retired ones, unless it was `told`, a line."""
    rest, spelled = list(argv), dict[str, str]()
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or option == "--":
            raise UserError(f"unexpected argument '{option}'; overrides look like --field value")
        written, equals, text = option[2:].partition("=")
        # As the options of commands are written, with dashes.
        given = written.replace("-", "_")
        path = given if given in fields else current(given)
        retired = _retired(path, fields)
        if path not in fields and retired is None:
            raise UserError(_unknown(written, fields))
        if spelled.setdefault(path, given) != given:
            old = given if given != path else spelled[path]
            raise UserError(f"--{old} is the old name of --{path}; give one of them")
        if not equals:
            if not rest or rest[0].startswith("--"):
                kind = "" if retired else f" ({type_name(fields[path].kind)})"
                raise UserError(f"--{given} needs a value{kind}")
            text = rest.pop(0)
        if retired is None:
            yield path, text
        elif not told:
            warn_retired(f"--{given}", retired)


def _retired(path: str, fields: dict[str, Field]) -> str | None:
    """What has taken the place of a field that is no more; None for any other path."""
    if path in fields:
        return None
    group, _, name = path.rpartition(".")
    for sign, retired in RETIRED.items():
        if f"{group}.{sign}" in fields and name in retired:
            return retired[name]
    return None


def _unknown(path: str, fields: dict[str, Field]) -> str:
    inside = [name for name in fields if name.startswith(path + ".")]
    if inside:
        return f"--{path} is a group of fields; set one of them, such as --{inside[0]}"
    hint = did_you_mean(path, fields).replace("'", "'--", 1)
    return f"unknown option --{path}; {hint}"


def _parse(field: Field, text: str) -> Any:
    """`text` as a value of the field's type."""
    from jsonargparse import ArgumentError

    wrong = f"--{field.path} {text}: expected {type_name(field.kind)}"
    if field.kind is not str and _NOT_FINITE.fullmatch(text.strip()):
        raise UserError(f"{wrong}, and a finite number")
    parser = _new_parser()
    _add(parser, field)
    try:
        parsed = parser.parse_args([f"--{field.path}={text}"], defaults=False)
        value = parser.instantiate(parsed)
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(wrong) from error
    for name in field.path.split("."):
        value = value[name]
    if not _finite(value):
        raise UserError(f"{wrong}, and finite numbers only")
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, (tuple, list)) or all(map(_finite, value))


def _new_parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    # "==SUPPRESS==": the command's own help already says how it is used.
    return ArgumentParser(exit_on_error=False, add_help=False, usage="==SUPPRESS==")


def _add(parser: Any, field: Field) -> None:
    # An empty help would drop the type and the default too.
    text = field.help or " "
    parser.add_argument(f"--{field.path}", type=field.kind, default=field.value, help=text)


def _replaced(config: Any, prefix: str, values: Mapping[str, Any], given: Mapping[str, str]) -> Any:
    """The config with all values in place at once: a dataclass may check them together."""
    inside = [path for path in values if path.startswith(prefix)]
    changes: dict[str, Any] = {}
    for path in inside:
        name, dot, _ = path[len(prefix) :].partition(".")
        if not dot:
            changes[name] = values[path]
        elif name not in changes:
            changes[name] = _replaced(getattr(config, name), f"{prefix}{name}.", values, given)
    try:
        return dataclasses.replace(config, **changes) if changes else config
    except (ValueError, TypeError) as error:  # a dataclass's own __post_init__
        options = " ".join(f"--{path} {given[path]}" for path in inside)
        raise UserError(f"{options}: {error}") from error
