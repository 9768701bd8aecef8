"""Writes data/: tiny checkpoints as their programs write them, and PyTorch's answers.

    python tests/models/formats/make_data.py      # needs the extra [parity]

For each: the files; a batch; features, embeddings, logits and loss in float64; and of the
loss's gradient in every tensor the length and a projection. Weights are float16, to be small.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from torch_clip import image_features, outputs, text_features

DATA = Path(__file__).parent / "data"
VOCAB, CONTEXT, PROJECTION, PATCH, GRID = 40, 7, 10, 4, 2


def tower(prefix: str, width: int, layers: list[tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the blocks; a layer is (qkv width, FFN width), qkv width 0: no attention."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (qkv, ffn) in enumerate(layers):
        if qkv:
            shapes |= {
                f"{prefix}{i}.ln_1.weight": (width,),
                f"{prefix}{i}.ln_1.bias": (width,),
                f"{prefix}{i}.attn.in_proj_weight": (3 * qkv, width),
                f"{prefix}{i}.attn.in_proj_bias": (3 * qkv,),
                f"{prefix}{i}.attn.out_proj.weight": (width, qkv),
                f"{prefix}{i}.attn.out_proj.bias": (width,),
            }
        shapes |= {
            f"{prefix}{i}.ln_2.weight": (width,),
            f"{prefix}{i}.ln_2.bias": (width,),
            f"{prefix}{i}.mlp.c_fc.weight": (ffn, width),
            f"{prefix}{i}.mlp.c_fc.bias": (ffn,),
            f"{prefix}{i}.mlp.c_proj.weight": (width, ffn),
            f"{prefix}{i}.mlp.c_proj.bias": (width,),
        }
    return shapes


def values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Far from any initialisation, and lively through every path."""
    noise = torch.randn(shape, generator=generator)
    if "ln_" in name or "layer_norm" in name or "layernorm" in name or "layrnorm" in name:
        return (1.0 if name.endswith("weight") else 0.0) + 0.3 * noise
    if name == "logit_scale":
        return torch.tensor(2.3)
    if len(shape) < 2:
        return 0.3 * noise
    return noise * (1.5 / np.sqrt(max(np.prod(shape[1:]), 1)) if "embedding" not in name else 0.7)


def openclip_state(
    vision: tuple[int, list[tuple[int, int]]], text: tuple[int, list[tuple[int, int]]], seed: int
) -> OrderedDict[str, torch.Tensor]:
    (d, vision_layers), (t, text_layers) = vision, text
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (CONTEXT, t),
        "text_projection": (t, PROJECTION),
        "logit_scale": (),
        "visual.class_embedding": (d,),
        "visual.positional_embedding": (GRID**2 + 1, d),
        "visual.proj": (d, PROJECTION),
        "visual.conv1.weight": (d, 3, PATCH, PATCH),
        "visual.ln_pre.weight": (d,),
        "visual.ln_pre.bias": (d,),
        **tower("visual.transformer.resblocks.", d, vision_layers),
        "visual.ln_post.weight": (d,),
        "visual.ln_post.bias": (d,),
        **tower("transformer.resblocks.", t, text_layers),
        "token_embedding.weight": (VOCAB, t),
        "ln_final.weight": (t,),
        "ln_final.bias": (t,),
    }
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict(
        (name, values(name, shape, generator).half()) for name, shape in shapes.items()
    )


def tinyclip_names(state: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """As TinyCLIP's pruned training checkpoints spell them: every encoder tensor twice."""
    named: OrderedDict[str, torch.Tensor] = OrderedDict()
    for outer in ("_image_encoder.module.", "image_encoder_without_ddp."):
        named |= {outer + k: v for k, v in state.items() if k.startswith("visual.")}
    for outer in ("_text_encoder.module.", "text_encoder_without_ddp."):
        named |= {
            outer + k: v for k, v in state.items() if not k.startswith(("visual.", "logit_scale"))
        }
    named["_logit_scale.module.logit_scale"] = state["logit_scale"]
    named["_image_encoder.module.l0_module.heads_loga"] = torch.full((3, 2), 12.0)
    return named


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [3,3,S,S] and ids [3,T], with end-of-text at three places."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn((3, 3, PATCH * GRID, PATCH * GRID), generator=generator)
    end = VOCAB - 2
    ids = [[1, 5, 9, end, 0, 0, 0], [1, 3, end, end, end, end, end], [1, 2, 4, 6, 8, 10, end]]
    return pixels.float(), torch.tensor(ids)


def huggingface_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with an added token, larger than end-of-text, behind it."""
    pixels, ids = batch(seed)
    ids[0, 4] = VOCAB - 1
    return pixels, ids


def probe(gradient: torch.Tensor) -> list[float]:
    """Length of a gradient, and its projection on a fixed direction."""
    flat = gradient.double().numpy().ravel()
    return [float(np.linalg.norm(flat)), float(flat @ np.cos(np.arange(flat.size)))]


def reference(state: dict[str, torch.Tensor], head_dims: tuple[int, int], quick: bool, seed: int):
    """(outputs, gradients) in float64 of a CLIP in OpenCLIP's names."""
    w = {k: v.double().requires_grad_() for k, v in state.items()}
    pixels, ids = batch(seed)
    image = image_features(w, pixels.double(), head_dims[0], quick)
    text = text_features(w, ids, head_dims[1], quick)
    out = outputs(image, text, w["logit_scale"])
    return out, dict(zip(w, torch.autograd.grad(out["loss"], list(w.values())), strict=True))


def huggingface_reference(folder: Path, seed: int):
    """(outputs, gradients) in float64 of transformers' own CLIPModel."""
    from transformers import CLIPModel

    # "eager" would take the softmax in float32.
    model = CLIPModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa")
    pixels, ids = huggingface_batch(seed)
    w = dict(model.named_parameters())
    found = model(input_ids=ids, pixel_values=pixels.double())
    image = model.visual_projection(model.vision_model(pixels.double()).pooler_output)
    text = model.text_projection(model.text_model(ids).pooler_output)
    out = outputs(image, text, model.logit_scale)
    np.testing.assert_allclose(
        out["logits"].detach(), found.logits_per_image.detach(), rtol=1e-12, atol=1e-12
    )
    return out, dict(zip(w, torch.autograd.grad(out["loss"], list(w.values())), strict=True))


def stored(name: str) -> tuple[dict[str, torch.Tensor], tuple[int, int], bool]:
    """(OpenCLIP's state dict, head widths, QuickGELU?) of a stored file, as torch reads it."""
    path = DATA / ("openclip/epoch_3.pt" if name == "openclip" else f"{name}.pt")
    wrapped = torch.load(path, weights_only=True)["state_dict"]
    state = {
        re.sub(r"^_(image_encoder|text_encoder|logit_scale)\.|module\.", "", key): value
        for key, value in wrapped.items()
        if "l0_module" not in key and "without_ddp" not in key
    }
    state = {re.sub(r"^module\.", "", key): value for key, value in state.items()}
    return state, (8, 4) if name == "openclip" else (64, 64), name == "openclip"


def stored_reference(name: str, seed: int):
    """(outputs, gradients) in float64 of a stored file in OpenCLIP's names."""
    return reference(*stored(name), seed)


def write_answers(
    name: str,
    inputs: tuple[torch.Tensor, torch.Tensor],
    out: dict[str, Any],
    gradients: dict[str, torch.Tensor],
) -> None:
    arrays = {key: value.detach().numpy() for key, value in out.items()}
    arrays |= {"pixels": inputs[0].numpy(), "ids": inputs[1].numpy()}
    arrays |= {f"gradient {key}": np.array(probe(g)) for key, g in gradients.items()}
    np.savez_compressed(DATA / f"{name}.npz", **arrays)


def write_huggingface() -> None:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        projection_dim=PROJECTION,
        vision_config=dict(
            hidden_size=24,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=PATCH * GRID,
            patch_size=PATCH,
            hidden_act="quick_gelu",
            layer_norm_eps=2e-5,
        ),
        text_config=dict(
            hidden_size=18,
            intermediate_size=28,
            num_hidden_layers=3,
            num_attention_heads=3,
            vocab_size=VOCAB,
            max_position_embeddings=CONTEXT,
            hidden_act="gelu",
            bos_token_id=1,
            eos_token_id=VOCAB - 2,
            pad_token_id=0,
        ),
    )
    model = CLIPModel(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values(name, tuple(parameter.shape), generator))
    model.half().save_pretrained(DATA / "huggingface")
    answers = huggingface_reference(DATA / "huggingface", seed=11)
    write_answers("huggingface", huggingface_batch(11), *answers)


def write_training(state: OrderedDict[str, torch.Tensor]) -> None:
    """A training's checkpoint: these weights as averages, raw ones that differ in a tensor (to
    be small), and what else may lie beside them."""
    raw = state | {"visual.positional_embedding": 2 * state["visual.positional_embedding"]}
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=np.float64(1e-3))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = {
        "epoch": np.int64(3),
        "state_dict": OrderedDict((f"module.clip_model.{k}", v) for k, v in raw.items()),
        "model_ema": OrderedDict((f"module.{k}", v) for k, v in state.items()),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2),
        "args": argparse.Namespace(out=PurePosixPath("/runs"), lr=np.float32(1e-3)),
        "best": defaultdict(list, {"loss": [np.float64(0.5)]}),
        "history": np.arange(3.0),
        "dtype": np.dtype("float32"),
        "complex": torch.zeros(2, dtype=torch.complex64),
    }
    (DATA / "training").mkdir(exist_ok=True)
    torch.save(saved, DATA / "training" / "epoch_3.pt")


def main() -> None:
    DATA.mkdir(exist_ok=True)
    write_huggingface()

    state = openclip_state((24, [(24, 20)] * 2), (16, [(16, 28)] * 3), seed=2)
    (DATA / "openclip").mkdir(exist_ok=True)
    wrapped = OrderedDict((f"module.{k}", v) for k, v in state.items())
    training = {"epoch": 3, "name": "tiny", "state_dict": wrapped, "optimizer": {"state": {}}}
    torch.save(training, DATA / "openclip" / "epoch_3.pt")
    config = {
        "model_cfg": {
            "embed_dim": PROJECTION,
            "quick_gelu": True,
            "vision_cfg": {"layers": 2, "width": 24, "head_width": 8, "patch_size": PATCH},
            "text_cfg": {"layers": 3, "width": 16, "heads": 4, "vocab_size": VOCAB},
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": PATCH * GRID},
    }
    (DATA / "openclip" / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_answers("openclip", batch(12), *stored_reference("openclip", 12))
    write_training(state)

    # qkv width larger than the width in one tower, smaller in the other; strided views.
    state = openclip_state((12, [(64, 20)] * 2), (70, [(64, 9)]), seed=3)
    views = OrderedDict()
    for name, tensor in state.items():
        wide = torch.zeros([2 * n for n in tensor.shape], dtype=torch.float16)
        view = wide[tuple(slice(1, n + 1) for n in tensor.shape)]
        view.copy_(tensor)
        views[f"module.{name}"] = view if tensor.ndim == 1 else tensor
    torch.save({"epoch": 0, "state_dict": views}, DATA / "carbonclip.pt")
    write_answers("carbonclip", batch(13), *stored_reference("carbonclip", 13))

    state = openclip_state((12, [(64, 20), (0, 8), (128, 0)]), (10, [(64, 5), (64, 12)]), seed=4)
    torch.save(
        {"state_dict": tinyclip_names(state)},
        DATA / "tinyclip.pt",
        _use_new_zipfile_serialization=False,
    )
    write_answers("tinyclip", batch(14), *stored_reference("tinyclip", 14))


if __name__ == "__main__":
    main()
