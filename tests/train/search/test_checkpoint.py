"""A search of what can be cut out of a checkpoint, on tar shards: it runs, resumes, delivers."""

import io
import json
import tarfile

import numpy as np
import pytest

from codesign import load_clip
from codesign.architecture import Architecture, Tower
from codesign.cli import main
from codesign.models.formats import ImageSettings, make_processor, save_clip
from codesign.train.data import train_tokenizer
from simulators.interruptions import interrupted_at
from simulators.networks import random_clip

pytestmark = pytest.mark.usefixtures("quick_compilation")

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
TOWER = "TowerChoices(layers=(1, 2, 3), width=(8, 16, 99), heads=(1, 4), ffn=(16, 24))"
CONFIG = f"""
from codesign.configs.quickstart import config as quickstart
from codesign.space import AcceleratorChoices, TowerChoices
from codesign.train.config import *
from codesign.train.data import AugmentConfig, SourceConfig

search = SearchConfig(
    train=SourceConfig(path=""),
    space=SpaceConfig(
        vision={TOWER}, text={TOWER},
        accelerator=AcceleratorChoices((1,), (4, 8), (2, 4), (4, 8), (8,), (1 / 64, 1 / 32)),
    ),
    scenario=quickstart.scenario,
    targets=TargetConfig(designs=1, low=0.9, high=0.9, worst_accuracy=0.0),
    schedule=ScheduleConfig(
        warmup_steps=2, elastic_steps=2, joint_steps=4, tune_steps=4, chunk_steps=2,
        checkpoint_steps=2, order_batches=2, snap_candidates=2, snap_images=8,
    ),
    optim=OptimConfig(batch_size=8, lr=1e-3, warmup_steps=1),
    augment=AugmentConfig(crop_scale=(0.9, 1.0)),
    threads=1,
)
config = AugmentConfig()  # of another command
"""


def write_shards(folder, numbers):
    """Pictures of one colour each, with a caption that names it."""
    from PIL import Image

    folder.mkdir()
    for shard, chosen in enumerate(np.array_split(numbers, 2)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in chosen:
                name, colour = list(COLOURS.items())[i % 3]
                picture = io.BytesIO()
                Image.new("RGB", (10, 9), colour).save(picture, "PNG")
                for ending, data in (("png", picture.getvalue()), ("txt", f"all {name} {i}")):
                    data = data if isinstance(data, bytes) else data.encode()
                    member = tarfile.TarInfo(f"{i:04d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folder with a config, a checkpoint and shards."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "small.py").write_text(CONFIG)
    words = train_tokenizer([f"all {name} {i}" for name in COLOURS for i in range(40)])
    architecture = Architecture(
        vision=Tower(layers=2, width=16, heads=2, ffn=32),
        text=Tower(layers=1, width=24, heads=3, ffn=32),
        patch=4,
        image=8,
        context=6,
        projection=8,
        head_dim=8,
        vocab=words.vocab_size,
    )
    save_clip(random_clip(architecture), folder / "checkpoint", "native")
    make_processor(ImageSettings(size=8), words, 6).save(folder / "checkpoint")
    write_shards(folder / "train", np.arange(24))
    write_shards(folder / "validation", np.arange(24, 36))
    return folder


@pytest.fixture
def search(inputs, tmp_path, monkeypatch):
    """(name, more options) -> the run folder and the exit code."""
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))

    def run(name, *more):
        out = tmp_path / name
        options = {
            "checkpoint": "checkpoint",
            "train.path": "train/{00000..00001}.tar",
            "validation.path": "validation/*.tar",
        }
        given = [x for k, v in options.items() for x in (f"--{k}", str(inputs / v))]
        argv = ["search", str(inputs / "small.py"), *given, "--out", str(out), "--json", *more]
        return out, main(argv)

    return run


def read(folder, name):
    return (folder / name).read_bytes()


@pytest.mark.slow
def test_a_search_within_a_checkpoint_runs_resumes_and_delivers(search, capsys):
    whole, code = search("whole")
    assert code == 0, capsys.readouterr().err
    designs = json.loads(read(whole, "designs.json"))
    assert [d["name"] for d in designs] == ["carbon-00", "supernet", "half"]
    vision, text = (
        {"layers": 2, "width": 16, "heads": 2, "ffn": 32},
        {"layers": 1, "width": 24, "heads": 3, "ffn": 32},
    )
    assert designs[1]["architecture"]["vision"] == vision
    assert designs[1]["architecture"]["text"] == text
    for design in designs:
        network = load_clip(whole / "checkpoints" / "designs" / design["name"])
        assert vars(network.architecture.vision) == design["architecture"]["vision"]
        assert network.architecture.vision.layers <= 2
        fixed = {"patch": 4, "image": 8, "context": 6, "projection": 8, "channels": 3}
        assert fixed.items() <= vars(network.architecture).items()
        assert 0 <= design["accuracy"] == design["recall_at_1"] <= 1
    assert designs[0]["costs"]["carbon_kgco2e"] < designs[1]["costs"]["carbon_kgco2e"]
    assert json.loads(read(whole, "summary.json"))["test_images"] == 12
    rows = [json.loads(line) for line in read(whole, "metrics.jsonl").splitlines()]
    phases = {"warmup": 2, "elastic": 2, "joint": 4, "tune": 4}
    assert [row["phase"] for row in rows] == [p for p, n in phases.items() for _ in range(n)]
    assert {row["skipped"] for row in rows if "skipped" in row} == {0}

    # The space of the run, whose choices end at the checkpoint's network, has 4 x 3 towers.
    capsys.readouterr()
    assert main(["front", str(whole), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["networks"] == 2 * 2 * 2 * 3 * (1 * 3 * 2 * 3) and found["images"] == 12

    # The batches of an ordering and of a snap are read as well.
    for batches in (4, 9):
        out, code = search_cut_off(search, batches)
        for name in ("metrics.jsonl", "designs.json", "correct.json"):
            assert read(out, name) == read(whole, name), name


def search_cut_off(search, batches):
    """A run that is interrupted as it reads a batch, and then resumed."""
    name = f"cut-{batches}"
    with interrupted_at(batches):
        assert search(name)[1] == 130
    return search(name, "--resume")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation.path", ""], "--train.path is given without --validation.path"),
        (["--train.path", ""], "--validation.path is given without --train.path"),
        (["--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_go_together_is_one_line(search, options, message, capsys):
    _, code = search("refused", *options)
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and message in err and "Traceback" not in err
