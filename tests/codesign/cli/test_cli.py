"""The program: exit codes, one-line errors, clean JSON; costs and searches are stand-ins."""

import dataclasses
import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from codesign import runs
from codesign.cli import main
from codesign.cli.output import print_json
from codesign.errors import RunError
from codesign.printable import printable
from codesign.runs import write_json

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHECKPOINT = str(Path(__file__).parents[2] / "models" / "formats" / "data" / "huggingface")
CONFIG = '''
import dataclasses
from codesign.configs.quickstart import config as quickstart
from codesign.train.config import SearchConfig

@dataclasses.dataclass(frozen=True)
class Config(SearchConfig):
    """A search.

    Attributes:
      seed: seed of every random stream.
      rate: learning rate.
    """
    rate: float = 0.1

config = Config(space=quickstart.space)
'''

COSTS = {
    "latency_s": 1.5e-3,
    "energy_j": 2e-5,
    "area_mm2": 0.8,
    "tops": 0.08,
    "operational_kgco2e": 0.1,
    "embodied_kgco2e": 0.2,
    "carbon_kgco2e": 0.3,
}


@dataclasses.dataclass
class FakeCosts:
    latency_s: float = 1.5e-3
    energy_j: float = 2e-5
    area_mm2: float = 0.8
    tops: float = 0.08
    operational_kgco2e: float = 0.1
    embodied_kgco2e: float = 0.2
    carbon_kgco2e: float = 0.3
    dram_gb: float = 0.25
    breakdown: dict = dataclasses.field(
        default_factory=lambda: {"embodied_kgco2e": {"chip": 0.15, "dram": 0.05}}
    )


def module(monkeypatch, name, **members):
    """Puts a made-up module where the program imports from."""
    made = types.ModuleType(name)
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def estimate(monkeypatch):
    module(monkeypatch, "codesign.cost.estimate", estimate=lambda *_: FakeCosts())


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(CONFIG)
    return "./tiny.py"


def entry(config):
    return {
        "name": f"seed-{config.seed}",
        "role": "found",
        "architecture": {},
        "accelerator": {},
        "costs": COSTS,
        "accuracy": 0.5,
        "feasible": True,
        "pareto": True,
    }


@pytest.fixture
def search(monkeypatch):
    """A search that finds one design, reports progress, and writes what a run writes."""

    def run_search(config, folder, console, check=None, **_):
        console.print("searching")
        designs = [entry(config)]
        folder.append_metrics([{"step": 0, "phase": "joint", "loss": [config.rate]}])
        folder.write_json("designs.json", designs)
        folder.write_json("summary.json", {"hypervolume": 0.5})
        return {"designs": designs, "summary": {"hypervolume": 0.5}}

    module(monkeypatch, "codesign.train.search.run", run_search=run_search)


def design_file(tmp_path, **accelerator):
    path = tmp_path / "phone.json"
    path.write_text(json.dumps({"architecture": {}, "accelerator": accelerator}))
    return str(path)


def one_line(capsys):
    """The single line of an error; stdout stays empty."""
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_help_and_version(capsys):
    for argv, expected in (
        (["--help"], "search,cost,report"),
        (["cost", "--help"], "--name"),
        (["search", "--help"], "--resume"),
        (["report", "--help"], "RUN"),
        (["--version"], "codesign 0."),
    ):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in expected.split(","))


def test_help_after_a_config_lists_its_fields(config, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["search", config, "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and "--rate" in text and "seed of every random stream" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND; see codesign --help"),
        (["serch", "x"], "there is no command 'serch'; did you mean 'search'?"),
        (["cost"], "required: DESIGN; see codesign cost --help"),
        (["search"], "required: CONFIG; see codesign search --help"),
        (["cost", "a", "b"], "unexpected argument 'b'"),
        (["cost", "a", "--jsn"], "unexpected argument '--jsn'"),
        (["cost", "absent.json"], "there is no design file absent.json"),
        (["search", "absent.py"], "there is no config file absent.py"),
        (["search", "no-such-config"], "there is no config 'no-such-config'"),
        (["report", "absent"], "absent is not a folder"),
    ],
)
def test_usage_errors_are_one_line(argv, message, capsys):
    assert main(argv) == 2
    line = one_line(capsys)
    assert message in line and line.startswith("codesign: ")


def test_cost_prints_totals_and_parts(tmp_path, estimate, capsys):
    assert main(["cost", design_file(tmp_path)]) == 0
    text = capsys.readouterr().out
    for expected in ("phone", "1.50 ms", "20.0 µJ", "0.800 mm²", "300 gCO2e", "dram", "25.0 %"):
        assert expected in text


def test_cost_as_json_can_be_priced_again(tmp_path, estimate, capsys):
    assert main(["cost", design_file(tmp_path, pe_x=8), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["costs"]["latency_s"] == 1.5e-3 and result["accelerator"]["pe_x"] == 8
    (tmp_path / "again.json").write_text(json.dumps([result]))
    assert main(["cost", str(tmp_path / "again.json"), "--name", "phone", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


def test_cost_of_every_design_of_a_list(tmp_path, estimate, capsys):
    file = tmp_path / "designs.json"
    both = [
        {"name": name, "architecture": {}, "accelerator": {"pe_x": pe_x}}
        for name, pe_x in (("phone", 32), ("watch", 8))
    ]
    file.write_text(json.dumps(both))
    assert main(["cost", str(file)]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("phone", "watch", "1 core 32x16", "1 core 8x16"))
    assert text.count("1.50 ms") == 2 and text.count("300 g") == 2
    assert main(["cost", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [design["name"] for design in found] == ["phone", "watch"]
    assert main(["cost", str(file), "--name", "watch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found[1]
    file.write_text(json.dumps(both[:1]))
    assert main(["cost", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found[:1]
    file.write_text(json.dumps([both[0], {"name": "broken", "accelerator": {}}]))
    assert main(["cost", str(file)]) == 2
    assert "designs.json, broken: missing key 'architecture'" in one_line(capsys)


@pytest.mark.parametrize("spelling", ["--target-s", "--target_s"])
def test_fields_are_spelt_with_dashes_or_underscores(spelling, tmp_path, monkeypatch, search):
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace("rate", "target_s")
    (tmp_path / "tiny.py").write_text(text)
    module_of = sys.modules["codesign.train.search.run"]
    seen = []
    monkeypatch.setattr(
        module_of,
        "run_search",
        lambda config, folder, console, check=None, **_: (
            seen.append(config.target_s),
            folder.write_json("designs.json", []),
            {"designs": [], "summary": {}},
        )[-1],
    )
    assert main(["search", "./tiny.py", spelling, "0.25", "--out", "run", "--json"]) == 0
    assert seen == [0.25]


@pytest.mark.parametrize("spelling", ["--no-check", "--no_check"])
def test_options_are_spelt_with_dashes_or_underscores(spelling, config, search, capsys):
    assert main(["search", config, spelling, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["designs"][0]["name"] == "seed-0"


def test_cost_of_a_design_off_the_grid(tmp_path, capsys):
    assert main(["cost", design_file(tmp_path, pe_x=100), "--json"]) == 2
    assert "accelerator.pe_x: 100 is off the grid; use 64 or 128" in one_line(capsys)


def test_search_writes_to_runs_and_prints_the_designs(config, search, tmp_path, capsys):
    assert main(["search", config, "--rate", "0.3", "--seed=7"]) == 0
    out, err = capsys.readouterr()
    assert "seed-7" in out and "runs/tiny/report.html" in out and "searching" in err
    record = json.loads((tmp_path / "runs" / "tiny" / "config.json").read_text())
    assert record["config"]["seed"] == 7 and record["config"]["rate"] == 0.3
    assert record["name"] == "tiny"


def test_search_as_json_keeps_stdout_clean(config, search, capsys):
    assert main(["search", "--json", "--out", "here", config, "--rate", "3e-1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == "here" and result["designs"][0]["name"] == "seed-0"


def test_a_second_search_needs_resume_and_the_same_config(config, search, capsys):
    assert main(["search", config]) == 0
    capsys.readouterr()
    assert main(["search", config]) == 2
    assert "add --resume to continue it" in one_line(capsys)
    assert main(["search", config, "--resume", "--rate", "0.2"]) == 2
    assert "rate was 0.1, is 0.2" in one_line(capsys)
    assert main(["search", config, "--resume"]) == 0


def test_bad_overrides_leave_no_folder(config, search, tmp_path, capsys):
    for argv, message in (
        (["--raet", "1"], "unknown option --raet; did you mean '--rate'?"),
        (["--rate", "-x"], "--rate -x: expected a number"),
        (["--scenario.use_grid", "mars"], '--scenario.use_grid: unknown "mars"; '),
        (["--scenario.logic_yield", "2"], "--scenario.logic_yield: expected more than 0 and at"),
        (["stray"], "unexpected argument 'stray'"),
    ):
        assert main(["search", config, *argv]) == 2
        assert message in one_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_says_how_to_go_on(config, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    module(monkeypatch, "codesign.train.search.run", run_search=interrupted)
    argv = ["search", config, "--seed", "7", "--out", "a b", "--loggers", "tensorboard"]
    assert main(argv) == 130
    again = "--seed 7 --out 'a b' --loggers tensorboard --resume"
    expected = f"codesign search ./tiny.py {again} continues it"
    assert one_line(capsys) == f"interrupted; the run is kept: {expected}\n"


def test_failures_are_one_line_and_bugs_are_not_hidden(config, monkeypatch, capsys):
    def raising(error):
        def run_search(*_, **__):
            raise error

        module(monkeypatch, "codesign.train.search.run", run_search=run_search)

    raising(RunError("the loss is nan at step 7; lower --rate"))
    assert main(["search", config]) == 1
    assert "the loss is nan at step 7" in one_line(capsys)
    raising(OSError(28, "No space left on device"))
    assert main(["search", config, "--resume"]) == 1
    assert "No space left on device" in one_line(capsys)
    raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["search", config, "--resume"])


def test_report_of_one_and_several_runs(config, search, capsys):
    for name in ("a", "b"):
        assert main(["search", config, "--out", name]) == 0
    capsys.readouterr()
    assert main(["report", "a"]) == 0
    assert "a/report.html" in capsys.readouterr().out
    assert main(["report", "a", "b"]) == 0
    assert "hypervolume" in capsys.readouterr().out
    assert main(["report", "a", "b", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["run"] == "a" and second["accuracy"] == 0.5


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENOTDIR])
def test_a_report_that_cannot_be_written_is_one_line(config, search, capsys, monkeypatch, number):
    assert main(["search", config, "--out", "a"]) == main(["search", config, "--out", "b"]) == 0
    capsys.readouterr()
    kept = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}

    def refused(path, mode="r", **options):
        if "w" in mode:
            raise OSError(number, os.strerror(number), os.fspath(path))
        return open(path, mode, **options)

    monkeypatch.setattr(runs, "open", refused, raising=False)
    for argv in (["a"], ["a", "b"], ["a", "--json"], ["a", "b", "--out", "page.html"]):
        assert main(["report", *argv]) == 1
        said = one_line(capsys)
        assert "codesign: cannot write a/" in said and os.strerror(number) in said
    assert kept == {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["convert", CHECKPOINT, "OUT", "--to", "hf"], 1),
        (["convert", CHECKPOINT, "OUT.safetensors", "--to", "openclip"], 1),
        (["prune", CHECKPOINT, "--keep", "0.5", "--method", "magnitude", "OUT"], 1),
        (["search", "./tiny.py", "--out", "OUT"], 2),
    ],
)
@pytest.mark.parametrize("place", ["file/x", "/proc/x"])
def test_a_place_where_nothing_can_be_made_is_one_line(config, search, capsys, argv, code, place):
    """Below a file, and in a file system that takes no files."""
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc")
    Path("file").write_text("")
    assert main([word.replace("OUT", place) for word in argv]) == code
    said = one_line(capsys)
    assert "cannot write" in said and str(Path(place).parent) in said
    if place == "file/x":
        assert "is a file, not a folder" in said or "Not a directory" in said


@pytest.mark.parametrize("name", ["[/bold]", "$x^$", "a\x1b[2Jb", ":smile:"])
def test_names_are_no_commands_to_the_terminal(name, config, search, capsys):
    """In tables and errors; JSON keeps them as they are."""
    run = Path(name)
    assert main(["search", config, "--out", name]) == 0
    designs = json.loads((run / "designs.json").read_text())
    record = json.loads((run / "config.json").read_text())
    write_json(run / "designs.json", [designs[0] | {"name": name}])
    write_json(run / "config.json", record | {"name": name})
    capsys.readouterr()
    assert main(["report", name, name]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.count(printable(name)) >= 3
    assert f"report: {printable(name)}/report.html" in out
    assert main(["report", name, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], told["run"]) == (name, name)
    assert main(["report", f"{name}-absent"]) == 2
    assert printable(name) in one_line(capsys)


def test_json_on_a_stdout_of_few_characters(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    print_json({"name": "µ–\ud800"})
    stdout.flush()
    assert json.loads(stdout.buffer.getvalue().decode("ascii")) == {"name": "µ–\ud800"}


def program(arguments, folder):
    """The program as a process of its own, in a shell."""
    command = f"{shlex.quote(sys.executable)} -X importtime -m codesign {arguments}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_as_a_process_is_light_and_a_closed_pipe_harmless(tmp_path):
    done = program("--help | true", tmp_path)
    assert done.returncode == 0 and "Error" not in done.stderr
    heavy = {"jax", "matplotlib", "jinja2", "jsonargparse"}
    assert not heavy & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_an_error_as_a_process(tmp_path):
    done = program("cost absent.json", tmp_path)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and lines == ["codesign: there is no design file absent.json"]


@pytest.mark.slow
def test_the_smallest_buffers_still_map_every_product(tmp_path, capsys):
    path = tmp_path / "large.json"
    chip = {"cores": 4, "pe_x": 256, "pe_y": 64, "l2_kib": 1, "glb_mib": 1 / 64}
    path.write_text(json.dumps({"architecture": {}, "accelerator": chip}))
    assert main(["cost", str(path), "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["costs"]["latency_s"] < 60


def test_an_ablation_is_no_search(tmp_path, capsys):
    assert main(["search", "ablation", "--out", str(tmp_path / "run")]) == 2
    assert "ablation is no search; try codesign ablate ablation" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "noun"), [("search", "search"), ("finetune", "fine-tuning"), ("ablate", "ablation")]
)
def test_a_dataclass_of_another_kind_is_no_config(command, noun, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "from codesign.scenario import Scenario\nconfig = Scenario()\n"
    (tmp_path / "other.py").write_text(source)
    assert main([command, "other.py"]) == 2
    line = one_line(capsys)
    assert f"other.py is no {noun}: its config is a Scenario, where codesign {command}" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_with_json_stdout_holds_the_result_alone_whoever_prints(tmp_path):
    """As a process, since libraries print below Python too."""
    (tmp_path / "loud.py").write_text(
        "import os\nprint('config')\nos.system('echo below')\n"
        "from codesign.configs.hardware import config\n"
    )
    done = program("search loud.py --json --model tinyclip-39m-16", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["designs"]
    assert "config" in done.stderr and "below" in done.stderr


def test_sigterm_says_how_to_go_on_and_is_no_failure(config, monkeypatch, capsys):
    def terminated(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    module(monkeypatch, "codesign.train.search.run", run_search=terminated)
    assert main(["search", config, "--seed", "7"]) == 0
    expected = "codesign search ./tiny.py --seed 7 --resume continues it"
    assert one_line(capsys) == f"stopped by SIGTERM; the run is kept: {expected}\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_of_ascii_gets_every_table(tmp_path, monkeypatch, estimate):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["cost", design_file(tmp_path)]) == 0
    shown = out.buffer.getvalue().decode("ascii")
    assert re.search(r"\b20(\.0)? uJ", shown) and "total carbon" in shown


def test_the_version_has_a_short_option(capsys):
    shown = []
    for option in ("-V", "--version"):
        with pytest.raises(SystemExit) as ended:
            main([option])
        shown.append((ended.value.code, capsys.readouterr().out))
    assert shown[0] == shown[1] and shown[0][1].startswith("codesign ")


def test_a_model_is_priced_by_its_name_or_folder(tmp_path, capsys, estimate):
    assert main(["cost", "tinyclip-39m-16", "--json"]) == 0
    design = json.loads(capsys.readouterr().out)
    assert design["name"] == "tinyclip-39m-16"
    assert design["architecture"]["vision"]["width"] == 512
    tower = {"num_hidden_layers": 3, "hidden_size": 128, "num_attention_heads": 2}
    config = {"model_type": "clip", "vision_config": tower, "text_config": tower}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["cost", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["vision"]["width"] == 128
    # With what a design cannot express, the command that can.
    assert main(["cost", "vit-b-16"]) == 2
    assert "codesign search hardware --model vit-b-16" in capsys.readouterr().err
    assert main(["cost", "tinyclip-39m"]) == 2
    assert "did you mean 'tinyclip-39m-16'" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["arrays of NumPy", "arrays of JAX"])
def test_memory_that_is_not_there_is_one_line(what, monkeypatch, capsys):
    """Real allocations of 2 ** 50 bytes, in place of a command."""

    def run(args):
        import jax.numpy as jnp

        return (np if what == "arrays of NumPy" else jnp).zeros(1 << 48, np.float32).sum()

    monkeypatch.setattr("codesign.cli.cost.run", run)
    assert main(["cost", "design.json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith("codesign: not enough memory (") and "make batches" in err


STALLED = """
import concurrent.futures, sys, threading
from codesign import cli
from codesign.errors import Stalled

def run(argv):
    concurrent.futures.ThreadPoolExecutor().submit(threading.Event().wait)
    raise Stalled("no picture came")

cli._run = run
if sys.argv[1] == "main":
    sys.exit(cli.main([]))
cli.program()
"""


def test_threads_that_wait_for_data_for_ever_keep_no_process():
    def ended(how, seconds):
        command = [sys.executable, "-c", STALLED, how]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)

    done = ended("program", 120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "codesign: no picture came\n"
    with pytest.raises(subprocess.TimeoutExpired):
        ended("main", 5)  # as Python alone would end
