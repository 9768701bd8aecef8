"""Configs: loading by name and path, overriding fields, hashing."""

import dataclasses
import textwrap

import pytest

from codesign import overrides
from codesign.errors import UserError
from codesign.kinds import KINDS, kind_of
from codesign.overrides import (
    config_fields,
    config_hash,
    config_name,
    config_names,
    config_to_json,
    format_overrides,
    load_config,
)
from codesign.runs import RunFolder

CONFIG = '''
from __future__ import annotations

import dataclasses
from typing import Any, Literal

@dataclasses.dataclass(frozen=True)
class Optim:
    """Optimiser.

    Attributes:
      lr: learning rate, 100% of it
        at the peak.
      steps: number of steps.
    """
    lr: float = 1e-3
    steps: int = 100
    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be 1 or more")

@dataclasses.dataclass(frozen=True)
class Config:
    """All of it.

    Attributes:
      seed: seed of every random stream.
      grid: name or gCO2e/kWh.
    """
    optim: Optim = Optim()
    seed: int = 0
    layers: tuple[int, ...] = (2, 4)
    limits: tuple[float, float] = (0.0, 1.0)
    cap_s: float | None = None
    grid: str | float = "california"
    method: Literal["adam", "sgd"] = "adam"
    polish: bool = True
    cores: Any = 1
    label: str = ""

config = Config(optim=Optim(lr=3e-4))
'''


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(CONFIG)
    return str(file)


def test_without_overrides_it_is_the_modules_instance(path):
    config = load_config(path)
    assert config.optim.lr == 3e-4 and config.optim.steps == 100
    assert config_name(path) == "tiny" and config_name("quickstart") == "quickstart"


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("optim.lr", "1e-2", 0.01),
        ("optim.lr", "1", 1.0),
        ("seed", "-3", -3),
        ("layers", "[1,2,3]", (1, 2, 3)),
        ("limits", "[0.5, 2]", (0.5, 2.0)),
        ("cap_s", "0.25", 0.25),
        ("cap_s", "null", None),
        ("grid", "taiwan", "taiwan"),
        ("grid", "300", 300.0),
        ("method", "sgd", "sgd"),
        ("polish", "false", False),
        ("cores", "4", 4),
        ("label", "nan", "nan"),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_overrides(path, option, text, value, joined):
    argv = [f"--{option}={text}"] if joined else [f"--{option}", text]
    config = load_config(path, argv)
    for name in option.split("."):
        config = getattr(config, name)
    assert config == value and type(config) is type(value)


def test_the_rest_stays(path):
    config = load_config(path, ["--seed", "5", "--optim.steps", "7"])
    base = load_config(path)
    changed = {"seed": 5, "optim": {"lr": 3e-4, "steps": 7}}
    assert config_to_json(config) == config_to_json(base) | changed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optim.l", "1"], "unknown option --optim.l; did you mean '--optim.lr'?"),
        (["--optim", "1"], "--optim is a group of fields; set one of them, such as --optim.lr"),
        (["--optim.lr", "fast"], "--optim.lr fast: expected a number"),
        (["--optim.lr", "nan"], "--optim.lr nan: expected a number, and a finite number"),
        (["--optim.lr", "1e999"], "--optim.lr 1e999: expected a number"),
        (["--limits", "[0,.inf]"], "--limits [0,.inf]: expected a list"),
        (["--grid", "inf"], "--grid inf: expected"),
        (["--seed", "1.5"], "--seed 1.5: expected a whole number"),
        (["--layers", "[1,a]"], "--layers [1,a]: expected a list such as [1,2]"),
        (["--layers", "3"], "--layers 3: expected a list"),
        (["--method", "lbfgs"], "--method lbfgs: expected 'adam' or 'sgd'"),
        (["--seed"], "--seed needs a value (a whole number)"),
        (["--seed", "--polish", "true"], "--seed needs a value"),
        (["quick"], "unexpected argument 'quick'"),
        (["--optim.steps", "0"], "--optim.steps 0: steps must be 1 or more"),
    ],
)
def test_bad_overrides_get_one_clear_line(path, argv, message):
    with pytest.raises(UserError) as caught:
        load_config(path, argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", config_names())
def test_every_field_of_a_shipped_config_says_what_it_means(name):
    """Those that a class inherits have the docstring of the class they come from."""
    silent = [field.path for field in config_fields(load_config(name)) if not field.help]
    assert not silent


def test_help_lists_every_field_with_type_default_and_meaning(path):
    text = format_overrides(path)
    for expected in (
        "--optim.lr",
        "learning rate, 100% of it at the peak",
        "0.0003",
        "float",
        "--layers",
        "seed of every random stream",
        "fields of optim",
    ):
        assert expected in text


def test_unknown_names_list_the_configs(monkeypatch):
    monkeypatch.setattr(overrides, "config_names", lambda: ["quickstart", "vit_b16"])
    with pytest.raises(UserError, match=r"no config 'quikstart'; did you mean 'quickstart'\?"):
        load_config("quikstart")
    with pytest.raises(UserError, match="configs: quickstart, vit_b16"):
        load_config("zzz")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("config = (", "line 1: SyntaxError"),
        ("x = 1\nimport absent_module", "line 2: ModuleNotFoundError"),
        ("x = 1", "defines no 'config'"),
        ("config = {}", "defines no 'config'"),
        ("x = 1\n\nimport sys; sys.exit(3)", r"bad\.py, line 3: it exits \(3\)"),
        ("import sys; sys.exit()", "line 1: it exits"),
        ("raise SystemExit('no data')", "line 1: it exits .no data"),
        ("def f():\n    return 1 / 0\n\nf()", "line 2: ZeroDivisionError: division by zero"),
        ("assert False", "line 1: AssertionError"),
        ("if True:\nx = 1", "line 2: IndentationError"),
        ("class E(BaseException):\n    pass\nraise ExceptionGroup('a\\nb', [OSError()])", "line 3"),
    ],
)
def test_bad_config_files(tmp_path, source, message):
    file = tmp_path / "bad.py"
    file.write_text(source)
    with pytest.raises(UserError, match=message):
        load_config(str(file))
    with pytest.raises(UserError, match="there is no config file"):
        load_config(str(tmp_path / "absent.py"))


def test_hash_is_of_the_values(path):
    base = load_config(path)
    assert config_hash(base) == config_hash(load_config(path))
    assert config_hash(base) != config_hash(dataclasses.replace(base, seed=1))
    assert len(config_hash(base)) == 12


def test_tuples_of_dataclasses_can_be_set(tmp_path):
    file = tmp_path / "subnets.py"
    file.write_text(
        textwrap.dedent(
            """
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class Subnet:
            sparsity: float = 0.5
        @dataclasses.dataclass(frozen=True)
        class Config:
            subnets: tuple[Subnet, ...] = (Subnet(),)
        config = Config()
        """
        )
    )
    config = load_config(str(file), ['--subnets=[{"sparsity": 0.7}]'])
    assert config_to_json(config) == {"subnets": [{"sparsity": 0.7}]}
    assert dataclasses.is_dataclass(config.subnets[0])


def test_what_a_config_prints_is_not_the_programs_output(tmp_path, capsys):
    (tmp_path / "loud.py").write_text(CONFIG + "print('hello')\n")
    load_config(str(tmp_path / "loud.py"))
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize("name", config_names())
def test_a_runs_own_record_is_a_config(name, tmp_path):
    commands = {kind.command for kind in KINDS}
    for command in sorted(commands):
        config = load_config(name, (), command)
        kind = kind_of(type(config))
        if kind is None or kind.command != command:
            continue
        out = tmp_path / command / "of-before"
        RunFolder.create(out, config_to_json(config), kind=kind.name)
        again = load_config(str(out / "config.json"), (), command)
        assert again == config and type(again) is type(config)
        assert config_name(str(out / "config.json")) == "of-before"
        if hasattr(config, "seed"):
            assert load_config(str(out / "config.json"), ["--seed", "7"], command).seed == 7


def test_a_record_that_is_no_config_is_one_line(tmp_path):
    path = tmp_path / "config.json"
    for text, message in (
        ("[]", "should hold a JSON object"),
        ("{}", "holds no config"),
        ('{"kind": "finetune", "config": {"optim": {"lr": "fast"}}}', "optim.lr"),
    ):
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            load_config(str(path))
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"expected a \.py file, or the config\.json of a run"):
        load_config(str(tmp_path / "designs.json"))
