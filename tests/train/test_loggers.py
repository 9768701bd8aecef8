"""Loggers beside metrics.jsonl: TensorBoard's files, and the calls that reach W&B and MLflow."""

from __future__ import annotations

import json
import sys
import types
from collections import defaultdict

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from codesign.errors import UserError
from codesign.runs import RunFolder
from codesign.train.loggers import LOGGERS, check_loggers, flattened, open_loggers

CONFIG = {"seed": 1, "optim": {"lr": 0.1, "betas": [0.9, 0.98]}, "text": "x" * 9999}


class Refused(Exception):
    """Stands in for the packages' own errors."""


class Service:
    """What a service keeps of its runs, and how often it was asked to start and to end one."""

    def __init__(self):
        self.config, self.numbers, self.ended = {}, defaultdict(dict), []
        self.down = False

    def begin(self, id, config=None):
        if self.down:
            raise Refused("no\n network")
        if id is None:
            id = f"run-{len(self.config)}"
            self.config[id] = {}
        assert id in self.config, "a run that nobody started"
        self.config[id].update(config or {})
        return id

    def take(self, id, numbers, step):
        if self.down:
            raise Refused("no network")
        assert all(type(value) is float for value in numbers.values())
        self.numbers[id][step] = self.numbers[id].get(step, {}) | numbers


@pytest.fixture
def wandb(monkeypatch):
    service = Service()
    monkeypatch.delenv("WANDB_PROJECT", raising=False)

    def init(*, project, name, id, resume, dir, config):
        assert (project, name, resume) == ("codesign", "run", "allow")
        id = service.begin(id, config)

        def finish(exit_code):
            service.ended.append(exit_code)

        return types.SimpleNamespace(
            id=id, log=lambda data, step: service.take(id, data, step), finish=finish
        )

    module = types.ModuleType("wandb")
    module.init, module.Error = init, Refused
    module.__spec__ = types.SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delitem(sys.modules, "codesign.train.loggers.wandb", raising=False)
    return service


@pytest.fixture
def mlflow(monkeypatch):
    service = Service()
    active = []

    def start_run(run_id, run_name, nested):
        assert run_name == "run" and nested
        active.append(service.begin(run_id))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=active[-1]))

    def log_params(params):
        kept = service.config[active[-1]]
        assert not kept.keys() & params.keys(), "a parameter may be written once"
        kept.update(params)

    module = types.ModuleType("mlflow")
    module.start_run, module.log_params = start_run, log_params
    module.log_metrics = lambda metrics, step, run_id: service.take(run_id, metrics, step)
    module.end_run = lambda status: (active.pop(), service.ended.append(status))
    module.__spec__ = types.SimpleNamespace(name="mlflow")
    errors = types.ModuleType("mlflow.exceptions")
    errors.MlflowException = Refused
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", errors)
    monkeypatch.delitem(sys.modules, "codesign.train.loggers.mlflow", raising=False)
    return service


def folder(tmp_path, resume=False):
    opened = RunFolder.create(tmp_path / "run", CONFIG, resume=resume)
    if not resume:
        opened.append_metrics([{"step": 0}])
    return opened


def log(folder, names, *rows, step=0, says=pytest.fail, end=None):
    with open_loggers(names, folder, step, says) as loggers:
        for row in rows:
            loggers.write(row["step"], row)
        loggers.flush()
        if end is not None:
            raise end


ROW = {"step": 3, "phase": "joint", "loss": [1, 2.5], "parts": {"near": 0.5}, "flat": True}
NUMBERS = {"loss/0": 1.0, "loss/1": 2.5, "parts/near": 0.5, "flat": 1.0}


def test_numbers_of_a_nest_go_by_their_paths():
    assert dict(flattened(ROW)) == NUMBERS


def written(folder):
    """The events of the run's files, in order, by the format of their records."""
    import struct

    found = []
    for file in sorted((folder.path / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16  # length and its checksum, data and its checksum
    return found


def test_records_are_read_as_their_writer_writes_them(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    writer = RecordWriter(str(tmp_path / "tensorboard" / "events"))
    for step in (1, 2):
        writer.write(Event(step=step).SerializeToString())
    writer.close()
    assert [event.step for event in written(types.SimpleNamespace(path=tmp_path))] == [1, 2]


def test_tensorboard_is_the_default_and_is_told_where_a_resumed_run_goes_on(tmp_path):
    log(folder(tmp_path), None, ROW)
    again = folder(tmp_path, resume=True)
    log(again, None, {"step": 2, "loss": 7.0}, step=2)
    events = written(again)
    values = {
        (event.step, value.tag): value.simple_value
        for event in events
        for value in event.summary.value
    }
    assert values == {(3, name): value for name, value in NUMBERS.items()} | {(2, "loss"): 7.0}
    starts = [event.step for event in events if event.HasField("session_log")]
    assert starts == [0, 2]


@pytest.mark.parametrize(
    ("name", "ends"), [("wandb", [1, 1, 0]), ("mlflow", ["FAILED", "KILLED", "FINISHED"])]
)
def test_a_resumed_run_goes_on_where_it_was(name, ends, tmp_path, request):
    service = request.getfixturevalue(name)
    with pytest.raises(ValueError, match="dies"):
        log(folder(tmp_path), (name,), ROW, end=ValueError("dies"))
    with pytest.raises(KeyboardInterrupt):
        log(folder(tmp_path, resume=True), (name,), {"step": 3, "more": 2}, end=KeyboardInterrupt())
    # Without a name: those that it was started with.
    log(folder(tmp_path, resume=True), None, {"step": 4, "loss": 3.0})
    assert list(service.config) == ["run-0"] and service.ended == ends
    assert service.numbers["run-0"] == {3: NUMBERS | {"more": 2.0}, 4: {"loss": 3.0}}
    assert json.loads((tmp_path / "run" / LOGGERS).read_text()) == {name: "run-0"}


def test_services_get_the_config(tmp_path, wandb, mlflow):
    log(folder(tmp_path), ("wandb", "mlflow"), ROW)
    assert wandb.config["run-0"] == CONFIG
    params = mlflow.config["run-0"]
    assert params.pop("text") == "x" * 500
    assert params == {"seed": "1", "optim.lr": "0.1", "optim.betas": "[0.9, 0.98]"}
    assert wandb.numbers == mlflow.numbers == {"run-0": {3: NUMBERS}}


def test_a_new_run_in_an_old_folder_is_a_new_one(tmp_path, wandb):
    for _ in range(2):
        fresh = RunFolder.create(tmp_path / "run", CONFIG)  # metrics are what make it a run
        log(fresh, ("wandb",), ROW)
    assert list(wandb.config) == ["run-0", "run-1"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_is_lost_ends_no_run_and_one_that_is_not_there_starts_none(
    name, tmp_path, request
):
    service = request.getfixturevalue(name)
    told = []
    with open_loggers((name, "tensorboard"), folder(tmp_path), 0, told.append) as loggers:
        service.down = True
        loggers.write(1, {"loss": 1.0})
        loggers.write(2, {"loss": 2.0})
    assert told == [f"{name} gets no more of this run: no network"]
    assert [event.step for event in written(folder(tmp_path, resume=True))][-2:] == [1, 2]
    with pytest.raises(UserError, match=f"--loggers {name}: no network"):
        log(RunFolder.create(tmp_path / "other" / "run", CONFIG), (name,), ROW)


def test_what_is_not_installed_or_unknown_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb is not installed; install it with: pip install"):
        check_loggers(["wandb"])
    with pytest.raises(UserError, match="there is no logger 'tensorbord'; did you mean 'tensorboa"):
        check_loggers(["tensorbord"])


def test_values_of_mlflow_names_that_it_refuses(mlflow, tmp_path):
    log(folder(tmp_path), ("mlflow",), {"step": 0, "top@1 (%)": 0.5})
    assert mlflow.numbers["run-0"] == {0: {"top_1 ___": 0.5}}
