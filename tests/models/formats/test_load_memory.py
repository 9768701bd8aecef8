"""Memory that loading takes, in processes of their own: of each format, in units of the file."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="as Linux tells it"),
]

SMALL = Path(__file__).parent / "data" / "huggingface"
WRITE = """
import sys
import numpy as np
from codesign.architecture import Architecture, Tower
from codesign.models.dialect import Dialect
from codesign.models.formats import checkpoint_tensors, save_clip
from codesign.models.formats.assemble import abstract_clip, assemble, variables

towers = Tower(12, 512, 8, 2048), Tower(6, 512, 8, 2048)
architecture = Architecture(*towers, patch=16, image=224, context=77, projection=512, vocab=1000)
abstract = abstract_clip(architecture, Dialect(), dtype=np.float32, remat=False)
values = {path: np.full(v.shape, 0.5, v.dtype) for path, v in variables(abstract).items()}
for path in values:
    if path[-1] == "layer_rank":
        values[path] = np.arange(len(values[path]), dtype=np.int32)
model = assemble(abstract, values)
for name, format in (("hf", "hf"), ("own.safetensors", "openclip"), ("native", "native")):
    save_clip(model, f"{sys.argv[1]}/{name}", format)
try:
    import torch
except ModuleNotFoundError:
    sys.exit()
tensors = {name: torch.tensor(np.asarray(x)) for name, x in checkpoint_tensors(model).items()}
torch.save(tensors, f"{sys.argv[1]}/zip.pt")
torch.save(tensors, f"{sys.argv[1]}/old.pt", _use_new_zipfile_serialization=False)
"""
READ = """
import re, sys, warnings
from pathlib import Path
from codesign.models.formats import load_clip

def status(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

warnings.simplefilter("ignore")
load_clip(sys.argv[2])  # imports
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
model = load_clip(sys.argv[1])
print(status("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A network of 58 million weights in every format."""
    folder = tmp_path_factory.mktemp("checkpoints")
    subprocess.run([sys.executable, "-c", WRITE, folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", ["hf", "own.safetensors", "zip.pt", "old.pt", "native"])
def test_weights_are_not_in_memory_twice(checkpoints, name):
    path = checkpoints / name
    if not path.exists():
        pytest.skip("torch is not installed")
    read = subprocess.run(
        [sys.executable, "-c", READ, path, SMALL], check=True, capture_output=True, text=True
    )
    weights = 4 * 58.3e6
    # The weights, one array of them twice (a fifth), and what the libraries keep.
    assert float(read.stdout) < (2.3 if name == "native" else 1.9) * weights
