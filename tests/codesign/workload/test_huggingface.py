"""HuggingFace configs as workloads, held against the models that transformers builds of them."""

from __future__ import annotations

import json

import pytest

from codesign.errors import UserError
from codesign.workload import PRESETS, load_model
from simulators.mutations import mutations

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Published config.json files on the hub, the fields that tell dimensions.
HUB = {
    "clip-vit-l-14-336": {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
    },
    "clip-vit-b-32": {"architectures": ["CLIPModel"], "model_type": "clip"},
    "vit-b-16": {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "id2label": {str(i): f"class {i}" for i in range(1000)},
    },
    "bert-large": {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    },
    "llama-2-7b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 4096,
    },
    "llama-3.2-3b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 128,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_attention_heads": 24,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
}

# Small networks of awkward dimensions, one for every head of every family.
SMALL_CLIP = {
    "model_type": "clip",
    "projection_dim": 13,
    "text_config": {
        "hidden_size": 30,
        "intermediate_size": 41,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "vocab_size": 101,
        "max_position_embeddings": 11,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
    },
    "vision_config": {
        "hidden_size": 35,
        "intermediate_size": 43,
        "num_attention_heads": 5,
        "num_hidden_layers": 3,
        "image_size": 23,
        "patch_size": 7,
        "hidden_act": "gelu",
    },
}
SMALL_VIT = {
    "model_type": "vit",
    "hidden_size": 33,
    "intermediate_size": 47,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "image_size": 21,
    "patch_size": 7,
    "num_channels": 5,
}
SMALL_BERT = {
    "model_type": "bert",
    "hidden_size": 33,
    "intermediate_size": 47,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "vocab_size": 101,
    "max_position_embeddings": 29,
    "type_vocab_size": 3,
}
SMALL_LLAMA = {
    "model_type": "llama",
    "hidden_size": 33,
    "intermediate_size": 47,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "num_key_value_heads": 1,
    "head_dim": 10,
}
SMALL = {
    "CLIPModel": SMALL_CLIP,
    "ViTModel": SMALL_VIT | {"qkv_bias": False, "pooler_output_size": 17},
    "ViTForImageClassification": SMALL_VIT | {"num_labels": 19},
    "BertModel": SMALL_BERT,
    "BertForMaskedLM": SMALL_BERT,
    "BertForSequenceClassification": SMALL_BERT | {"num_labels": 5},
    "LlamaForCausalLM": SMALL_LLAMA,
    "LlamaForCausalLM tied": SMALL_LLAMA
    | {"tie_word_embeddings": True, "mlp_bias": True, "attention_bias": True, "hidden_act": "gelu"},
    "LlamaModel": SMALL_LLAMA | {"num_key_value_heads": 3},
}


@pytest.fixture
def folder(tmp_path):
    """Writes a config.json and gives its folder."""

    def write(config, architecture=None):
        if architecture is not None:
            config = config | {"architectures": [architecture.split()[0]]}
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize("name", HUB)
def test_published_config_is_the_preset(folder, name):
    from codesign.workload.huggingface import describe, read_config

    assert describe(read_config(folder(HUB[name])), name) == PRESETS[name].network


def built(folder, name):
    """The torch network of one of SMALL, and its folder."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    path = folder(SMALL[name], name)
    config = transformers.AutoConfig.from_pretrained(path, attn_implementation="eager")
    return getattr(transformers, name.split()[0])(config).eval(), path


def macs_of(network, **inputs):
    """Multiply-accumulates of all products that torch dispatches."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(**inputs)
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


def words(tokens):
    import torch

    return {"input_ids": torch.ones((1, tokens), dtype=torch.int64)}


def image(side, channels):
    import torch

    return {"pixel_values": torch.zeros((1, channels, side, side))}


@pytest.mark.parametrize("name", SMALL)
def test_parameters_of_the_torch_model(folder, name):
    network, path = built(folder, name)
    assert load_model(path).parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "task", "inputs"),
    [
        ("CLIPModel", {}, lambda: words(11) | image(23, 3)),
        ("ViTModel", {}, lambda: image(21, 5)),
        ("ViTForImageClassification", {}, lambda: image(21, 5)),
        ("BertModel", {"tokens": 9}, lambda: words(9)),
        ("BertForMaskedLM", {"tokens": 9}, lambda: words(9)),
        ("BertForSequenceClassification", {"tokens": 9}, lambda: words(9)),
    ],
)
def test_macs_of_the_torch_model(folder, name, task, inputs):
    network, path = built(folder, name)
    assert load_model(path, **task).macs == macs_of(network, **inputs())


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "LlamaForCausalLM tied", "LlamaModel"])
def test_macs_of_the_torch_decoder(folder, name):
    """A prompt of 9 tokens; then one token behind a cache of 12."""
    import transformers

    network, path = built(folder, name)
    last = {} if name == "LlamaModel" else {"logits_to_keep": 1}
    assert load_model(path, tokens=9).macs == macs_of(network, **words(9), **last)
    cache = transformers.DynamicCache(config=network.config)
    network(**words(12), past_key_values=cache, use_cache=True)
    token = macs_of(network, **words(1), **last, past_key_values=cache)
    assert load_model(path, phase="decode", context=13).macs == token


@pytest.mark.parametrize("name", ["clip-vit-l-14-336", "llama-3.2-3b"])
def test_published_model_on_the_meta_device(folder, name):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = transformers.AutoConfig.from_pretrained(folder(HUB[name]))
    with torch.device("meta"):
        network = getattr(transformers, config.architectures[0])(config)
    assert load_model(name).parameters == sum(p.numel() for p in network.parameters())


def test_name_and_architecture_of_a_folder(folder):
    path = folder(HUB["clip-vit-b-32"])
    model = load_model(path)
    assert model.name == path.name and model.source == str(path / "config.json")
    assert model.architecture == PRESETS["clip-vit-b-32"].network.architecture
    # 30 / 3 channels a head for the text, 35 / 5 for the image
    assert load_model(folder(SMALL_CLIP)).architecture is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama", "hidden_size": None}, "hidden_size"),
        (
            SMALL_BERT | {"num_attention_heads": 4},
            "num_attention_heads: expected a divisor of .* 33",
        ),
        (
            SMALL_BERT | {"num_hidden_layers": 0},
            "num_hidden_layers: expected a whole number from 1",
        ),
        (SMALL_BERT | {"hidden_act": "mish"}, "hidden_act: unsupported 'mish'"),
        (SMALL_BERT | {"architectures": ["BertForMaskedML"]}, "did you mean 'BertForMaskedLM'"),
        (SMALL_LLAMA | {"num_key_value_heads": 2}, "expected a divisor of 3 heads, got 2"),
        (SMALL_BERT | {"is_decoder": True}, "is_decoder: only BERT's encoder is modelled"),
        (
            SMALL_BERT | {"is_decoder": True, "add_cross_attention": True},
            "add_cross_attention: only BERT's encoder is modelled",
        ),
        (
            SMALL_BERT | {"tie_word_embeddings": False, "architectures": ["BertForMaskedLM"]},
            "tie_word_embeddings: expected true",
        ),
        (SMALL_VIT | {"head_dim": 8}, "head_dim: expected .* 11, got 8"),
        (SMALL_VIT | {"patch_size": 22}, "patch_size: expected at most image_size 21, got 22"),
        (SMALL_VIT | {"image_size": [21, 14]}, "image_size: expected a whole number"),
        (
            SMALL_CLIP | {"vision_config": SMALL_CLIP["vision_config"] | {"patch_size": 24}},
            "vision_config: patch_size: expected at most image_size 23",
        ),
        (SMALL_VIT | {"patch_size": [7, 7]}, "patch_size: expected a whole number"),
        (SMALL_VIT | {"architectures": ["ViTModel"], "pooler_act": "gelu"}, "expected 'tanh'"),
        (SMALL_CLIP | {"text_config": {"hidden_act": "quick_gelu"}}, "hidden_act: expected vision"),
        (SMALL_VIT | {"architectures": 1.5}, "architectures: expected a list of names, got 1.5"),
        (SMALL_VIT | {"architectures": [1]}, r"architectures: expected a list of names, got \[1\]"),
        (SMALL_VIT | {"id2label": 3}, "config.json: "),
        (SMALL_LLAMA | {"num_attention_heads": 0}, "config.json: "),
        (
            SMALL_LLAMA | {"vocab_size": 10**30},
            "vocab_size: expected a whole number from 1 to 1000",
        ),
    ],
)
def test_bad_configs(folder, config, message):
    path = folder(config)
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(path / "config.json") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL_CLIP, SMALL_VIT, SMALL_BERT, SMALL_LLAMA])
def test_mutations(folder, config):
    """Of one value at a time: a model of possible size, or one line."""
    path = folder(config)
    for _, _, mutated in mutations(config, 150):
        (path / "config.json").write_text(json.dumps(mutated))
        try:
            model = load_model(path)
        except UserError as error:
            told = str(error)
            assert str(path / "config.json") in told and "\n" not in told and len(told) < 500
        else:
            assert 0 < model.macs < 1e15 and 0 < model.parameters < 1e12


def test_hub_out_of_reach(monkeypatch):
    import transformers

    def fail(name):
        raise OSError(f"no route\nto {name}")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(UserError, match=r"^cannot get the config of some/model: no route to"):
        load_model("some/model")


def test_an_image_with_a_margin_is_no_design(folder):
    """Its patches are those of the image without, which a design file would state."""
    vision = SMALL_CLIP["vision_config"] | {"image_size": 25, "patch_size": 6}
    text = SMALL_CLIP["text_config"] | {"hidden_size": 14, "num_attention_heads": 2}
    config = SMALL_CLIP | {"text_config": text}
    model = load_model(folder(config | {"vision_config": vision}))
    assert model.architecture is None and "one image of 17" in model.task
    whole = load_model(folder(config | {"vision_config": vision | {"image_size": 24}}))
    assert whole.architecture is not None and model.macs == whole.macs


def test_config_by_its_name_on_the_hub(monkeypatch):
    import transformers

    config = transformers.BertConfig(**SMALL_BERT)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda name: config)
    assert load_model("some/model", tokens=8).name == "some/model"
