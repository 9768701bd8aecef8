"""Published models, and models of files, by name: parameters, operators, tables, bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, Tower
from codesign.cli import main
from codesign.design_file import Design, design_to_json
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.workload import PRESETS, clip_workload, load_model
from codesign.workload.blocks import Block, block_operators, block_parameters
from codesign.workload.clip import ClipNetwork

pytestmark = pytest.mark.usefixtures("quick_compilation")

# As the hub counts the tensors of the published files, or the papers' models of torchvision
# and timm (ViT, DeiT).
PUBLISHED = {
    "clip-vit-b-32": 151_277_313,
    "clip-vit-b-16": 149_620_737,
    "clip-vit-l-14": 427_616_513,
    "clip-vit-l-14-336": 427_944_193,
    "clip-vit-h-14": 986_109_441,
    "vit-b-16": 86_567_656,
    "vit-b-32": 88_224_232,
    "vit-l-16": 304_326_632,
    "vit-l-32": 306_535_400,
    "vit-h-14": 632_045_800,
    "deit-ti-16": 5_717_416,
    "deit-s-16": 22_050_664,
    "bert-tiny": 4_385_920,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-medium": 41_373_184,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters(name):
    assert PRESETS[name].network.parameters() == PUBLISHED[name]


# Image encoder, and text encoder without its token table, as the models' names say, millions.
@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        ("tinyclip-8m-16", 8, 3),
        ("tinyclip-39m-16", 39, 19),
        ("tinyclip-40m-32", 40, 19),
        ("tinyclip-61m-32", 61, 29),
    ],
)
def test_tinyclip_is_as_large_as_its_name_says(name, image, text):
    network = PRESETS[name].network
    table = network.architecture.vocab * network.architecture.text.width
    assert network.parameters() - table == pytest.approx(1e6 * (image + text), rel=0.04)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads(name):
    model = load_model(name)
    assert model.name == name and model.source and model.macs > 0
    assert float(model.workload.macs) == pytest.approx(model.macs, rel=1e-5)


def shapes_of_clip(a: Architecture) -> list[tuple[int, ...]]:
    """Tensors of an OpenCLIP file, the layout that CarbonCLIP's are stored in."""
    shapes = [(), (a.vocab, a.text.width), (a.context, a.text.width)]
    v, t = a.vision.width, a.text.width
    shapes += [(v,), (a.patches + 1, v), (v, a.channels, a.patch, a.patch)]
    shapes += [(v,), (v,), (v,), (v,), (v, a.projection), (t,), (t,), (t, a.projection)]
    for tower in (a.vision, a.text):
        d, q, f = tower.width, 64 * tower.heads, tower.ffn
        block = [(d,)] * 4 + [(3 * q, d), (3 * q,), (d, q), (d,), (f, d), (f,), (d, f), (d,)]
        shapes += block * tower.layers
    return shapes


@pytest.mark.parametrize("size", ["xs", "s", "m", "l", "xl"])
def test_carbonclip_where_heads_and_width_part(size):
    model = load_model(f"carbonclip-{size}")
    a = model.architecture
    assert model.parameters == sum(math.prod(shape) for shape in shapes_of_clip(a))
    macs = 196 * 3 * 16**2 * a.vision.width + 512 * (a.vision.width + a.text.width) + 512
    for tower, tokens in ((a.vision, 197), (a.text, 77)):
        d, q, f = tower.width, 64 * tower.heads, tower.ffn
        macs += tower.layers * tokens * (4 * d * q + 2 * q * tokens + 2 * d * f)
    assert model.macs == macs
    assert clip_workload(a).gemm_names == model.workload.gemm_names


def test_towers_whose_heads_differ_in_width():
    """OpenCLIP's H/14: 16 heads of 80 channels for the image, 16 of 64 for the text."""
    model = load_model("clip-vit-h-14")
    assert model.architecture is None  # it has one head width
    gemms = {g.name: g for g in model.operators.gemms}
    assert gemms["vision.scores"][1:6] == (257, 80, 257, 32, 16)
    assert gemms["text.scores"][1:6] == (77, 64, 77, 24, 16)
    assert load_model("clip-vit-l-14").architecture.head_dim == 64


GROUPED = Block(96, 6, 8, 40, kv_heads=2, gated=True, rope=True, norm="rmsnorm", activation="silu")


def test_grouped_queries_share_one_second_operand():
    operators = block_operators(GROUPED, tokens=5, masked=True, layers=7)
    gemms = {g.name: g[1:6] for g in operators.gemms}
    # m, k, n, count, batch
    assert gemms == {
        "q": (5, 96, 48, 7, 1),
        "kv": (5, 96, 16, 14, 1),
        "scores": (15, 8, 5, 7, 2),
        "values": (15, 5, 8, 7, 2),
        "out": (5, 48, 96, 7, 1),
        "ffn_gate": (5, 96, 40, 7, 1),
        "ffn_up": (5, 96, 40, 7, 1),
        "ffn_down": (5, 40, 96, 7, 1),
    }
    vector = {op.name: (op.kind, op.elements, op.count, op.operands) for op in operators.vector_ops}
    assert vector["rmsnorm"] == ("rmsnorm", 5 * 96, 14, 1)
    assert vector["rope"] == ("rope", 5 * (6 + 2) * 8, 7, 1)
    assert vector["softmax"] == ("softmax", 6 * 5 * 5, 7, 1)
    assert vector["activation"] == ("silu", 5 * 40, 7, 1)
    assert vector["gate"] == ("multiply", 5 * 40, 7, 2)
    assert "mask" in vector


def test_grouping_saves_parameters_and_traffic_but_no_attention():
    alone = Block(**{**vars(GROUPED), "kv_heads": None})
    grouped, full = (block_operators(b, tokens=5) for b in (GROUPED, alone))
    assert block_parameters(alone) - block_parameters(GROUPED) == 2 * (96 + 1) * (48 - 16)
    assert full.macs - grouped.macs == 2 * 5 * 96 * (48 - 16)


def test_decoding_reads_the_whole_cache():
    model = load_model("llama-3-8b", phase="decode", context=1000)
    gemms = {g.name: g[1:6] for g in model.operators.gemms}
    assert gemms["text.scores"] == (4, 128, 1000, 32, 8)
    assert gemms["text.values"] == (4, 1000, 128, 32, 8)
    assert "text.mask" not in [op.name for op in model.operators.vector_ops]
    # The token table is looked up, the norms are no matrices.
    weights = 8_030_261_248 - 128256 * 4096 - 65 * 4096
    assert model.macs == weights + 32 * 2 * 32 * 128 * 1000


def test_a_prompt_is_as_much_work_as_its_tokens():
    """All but the language head, which sees the last token alone, and the attention's square."""
    model = load_model("llama-2-7b", tokens=10)
    per_token = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert model.macs == 10 * per_token + 32 * 2 * 4096 * 10**2 + 4096 * 32000
    assert "text.mask" in [op.name for op in model.operators.vector_ops]


def test_heads_of_bert():
    base = PRESETS["bert-base"].network
    masked = type(base)(base.block, base.layers, head="tokens")
    classes = type(base)(base.block, base.layers, head="classes", classes=3)
    assert masked.parameters() == 109_514_298  # BertForMaskedLM
    assert classes.parameters() == base.parameters() + 769 * 3
    more = masked.operators(9).macs - base.operators(9).macs
    assert more == 9 * 768 * (768 + 30522) - 768**2


@pytest.fixture
def design_file(tmp_path):
    design = Design("tiny", Architecture(Tower(2, 64, 3, 96), Tower(1, 32, 1, 64)), Accelerator())
    path = tmp_path / "designs.json"
    other = design_to_json(design) | {"name": "other"}
    path.write_text(json.dumps([design_to_json(design), other]), encoding="utf-8")
    return path, design.architecture


def test_design_file(design_file):
    path, architecture = design_file
    model = load_model(path, design="tiny")
    assert (model.name, model.architecture) == ("tiny", architecture)
    assert model.parameters == ClipNetwork(architecture).parameters()
    assert model.operators == ClipNetwork(architecture).operators()


def test_loading_a_preset_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from codesign.workload import load_model;"
        "load_model('clip-vit-b-16').workload;"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command_prints_every_operator(capsys):
    assert main(["workload", "bert-tiny", "--tokens", "16"]) == 0
    out = capsys.readouterr().out
    model = load_model("bert-tiny", tokens=16)
    assert "4,385,920 parameters" in out and f"{model.macs:,} MACs" in out
    for name in (*model.workload.gemm_names, *model.workload.vector_names):
        assert name in out
    assert main(["workload", "bert-tiny", "--tokens", "16", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["parameters"] == 4_385_920 and plain["architecture"] is None
    assert sum(g["macs"] for g in plain["gemms"]) == plain["macs"] == model.macs
    assert [op["name"] for op in plain["vector_ops"]] == list(model.workload.vector_names)
    # 16 tokens of width 128 with 2 heads of 64: queries, keys, values, and twice the tokens.
    scores = next(g for g in plain["gemms"] if g["name"].endswith("scores"))
    assert scores["live"] == dict.fromkeys(("input", "second", "output"), 5 * 16 * 128)
    up = next(g for g in plain["gemms"] if g["name"].endswith("ffn_up"))
    late = 16 * (2 * 128 + 512)
    assert up["live"] == {"input": late, "second": None, "output": late}


def test_command_takes_a_phase_and_a_design(capsys, design_file):
    assert main(["workload", "llama-3.2-1b", "--phase", "decode", "--context", "64"]) == 0
    assert "decode of one token, the last of 64" in capsys.readouterr().out
    assert main(["workload", str(design_file[0]), "--name", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["vision"]["heads"] == 3


@pytest.mark.parametrize(
    ("texts", "task"),
    [
        (0.0, "one image of 197 tokens"),
        (1.0, "one image of 197 and one text of 77 tokens"),
        (5.0, "one image of 197 and 5 texts of 77 tokens"),
    ],
)
def test_a_task_has_the_texts_of_its_scenario(texts, task):
    model = load_model("clip-vit-b-16").in_scenario(Scenario(texts_per_image=texts))
    assert model.task == task


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "tinyclip-39m"}, r"no model 'tinyclip-39m'; did you mean 'tinyclip-39m-16'\?"),
        ({"model": "./nowhere"}, "no file or folder ./nowhere"),
        ({"model": "nowhere.json"}, "no file or folder nowhere.json"),
        ({"model": "bert-base", "phase": "decode"}, "phase: bert-base is no decoder; drop --phase"),
        ({"model": "vit-b-16", "context": 3}, "context: vit-b-16 is no decoder; drop --context"),
        ({"model": "vit-b-16", "tokens": 3}, "vit-b-16 has a fixed number of them; drop --tokens"),
        ({"model": "bert-base", "tokens": 513}, "tokens: expected .* 1 to 512, .* got 513"),
        ({"model": "llama-2-7b", "tokens": 0}, "tokens: expected .* 1 to 4096, .* got 0"),
        ({"model": "bert-base", "tokens": 1.5}, "tokens: expected a whole number .* got 1.5"),
        ({"model": "llama-2-7b", "tokens": True}, "tokens: expected a whole .* got True"),
        ({"model": "llama-2-7b", "phase": "decod"}, "'decod'; did you mean 'decode'"),
        ({"model": "llama-2-7b", "phase": "decode", "tokens": 2}, "tokens: .* set --context"),
        ({"model": "llama-2-7b", "context": 2}, "context: .* set --tokens"),
        ({"model": "bert-base", "design": "x"}, "bert-base is no list of designs; drop --name"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        load_model(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: "),
        ("3", "expected an object"),
        ('{"hidden_size": 8}', "missing key 'model_type'"),
        ('{"model_type": "gpt2"}', "model_type 'gpt2'; supported: clip, vit, bert, llama"),
        ('{"model_type": ["x"]}', "unsupported model_type"),
        ('{"architecture": {"depth": 3}}', "missing key 'accelerator'"),
        ("[]", "the list holds no design"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_folder_without_config(tmp_path, capsys):
    assert main(["workload", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"codesign: {tmp_path} holds no config.json; give a model's folder or file\n"
    )
