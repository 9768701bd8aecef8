"""A process that waits for data which never come, and is asked to end."""

import signal
import subprocess
import sys
import time

import pytest

from codesign.runs import read_metrics

SOURCE = '''
import dataclasses, pathlib, time
from codesign.train.data import SourceConfig, open_source

HERE = pathlib.Path(__file__).parent
READ = []

def digits():
    """The digits, of which one in the seventh batch never comes."""
    source = open_source(SourceConfig("digits"))

    def image(i):
        READ.append(i)
        if len(READ) > 6 * 16 + 5 and not (HERE / "mended").exists():
            time.sleep(1e6)
        return source.image(i)

    return dataclasses.replace(source, image=image)
'''
CONFIG = """
from codesign.architecture import Architecture, Tower
from codesign.train.data import AugmentConfig, SourceConfig
from codesign.train.finetune.config import FinetuneConfig, OptimConfig, ScheduleConfig

config = FinetuneConfig(
    train=SourceConfig(path="source.py:digits"),
    untrained=Architecture(
        Tower(1, 16, 2, 32), Tower(1, 16, 2, 32), patch=4, image=8, channels=1, context=12,
        projection=16, head_dim=8,
    ),
    augment=AugmentConfig(crop_scale=(1.0, 1.0)),
    optim=OptimConfig(batch_size=16, warmup_steps=2),
    schedule=ScheduleConfig(steps=9, evaluate_steps=0, checkpoint_steps=4, log_steps=3),
    threads=1,
)
"""


def start(folder, *argv):
    command = [sys.executable, "-m", "codesign", "finetune", "config.py", "--out", "run", *argv]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("stall_s", ["0", "300"])
def test_sigterm_during_a_stall_saves_and_ends_within_seconds(tmp_path, stall_s):
    """With the watch, and without: then the loop itself waits for the picture."""
    (tmp_path / "source.py").write_text(SOURCE)
    (tmp_path / "config.py").write_text(CONFIG)
    metrics, steps = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "checkpoints" / "steps"
    with start(tmp_path, "--stall_s", stall_s) as process:
        while process.poll() is None and not (metrics.exists() and len(read_metrics(metrics)) == 6):
            time.sleep(0.1)
        time.sleep(1)
        assert process.poll() is None and not (steps / "6").exists()
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        took_s = time.monotonic() - asked
    assert process.returncode == 0, errors
    assert took_s < 20
    assert "stopped by SIGTERM; the run is kept: codesign finetune config.py" in errors
    assert "Traceback" not in errors and (steps / "6").is_dir()
    (tmp_path / "mended").touch()
    with start(tmp_path, "--resume") as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [row["step"] for row in read_metrics(metrics)] == list(range(9))
