"""The same training step in PyTorch, where it is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from accelerator_tasks.measuring import (
    BETAS,
    FULL,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Result,
    Scale,
    rate,
    spread,
)


def torch_step(scale: Scale, batch: int) -> Iterator[Result]:
    """transformers.CLIPModel: fused attention, torch.compile, autocast to bf16, fused AdamW."""
    try:
        import torch
        from transformers import CLIPConfig, CLIPModel
    except ImportError as error:
        yield {"skipped": str(error)}
        return
    if not torch.cuda.is_available() and scale is FULL:
        yield {"skipped": f"torch {torch.__version__} sees no GPU"}
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = scale.architecture
    sides = {"attn_implementation": "sdpa"}
    config = CLIPConfig(
        text_config={
            "hidden_size": a.text.width,
            "intermediate_size": a.text.ffn,
            "num_hidden_layers": a.text.layers,
            "num_attention_heads": a.text.heads,
            "vocab_size": a.vocab,
            "max_position_embeddings": a.context,
            "projection_dim": a.projection,
            "eos_token_id": a.vocab - 1,
            **sides,
        },
        vision_config={
            "hidden_size": a.vision.width,
            "intermediate_size": a.vision.ffn,
            "num_hidden_layers": a.vision.layers,
            "num_attention_heads": a.vision.heads,
            "image_size": a.image,
            "patch_size": a.patch,
            "projection_dim": a.projection,
            **sides,
        },
        projection_dim=a.projection,
        **sides,
    )
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model: Any = CLIPModel(config).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    rng = np.random.default_rng(0)
    pixels = torch.tensor(rng.normal(size=(batch, a.channels, a.image, a.image)).astype("f4"))
    ids = rng.integers(1, a.vocab - 1, size=(batch, a.context))
    ids[:, -1] = a.vocab - 1
    inputs = {"pixel_values": pixels.to(device), "input_ids": torch.tensor(ids).to(device)}
    # A compiler for the CPU may be missing, and is not what is measured.
    forward = torch.compile(model) if device == "cuda" else model

    def run() -> float:
        with torch.autocast(device, torch.bfloat16):
            loss = forward(**inputs, return_loss=True).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    before = time.perf_counter()
    try:
        for _ in range(2):
            run()
        compile_s = time.perf_counter() - before
        taken: list[float] = []
        while len(taken) < scale.repeats and (len(taken) < 3 or sum(taken) < scale.patience_s):
            before = time.perf_counter()
            run()
            taken.append(time.perf_counter() - before)
    except torch.cuda.OutOfMemoryError:
        yield {"batch": batch, "failed": "out of memory"}
        return
    result = spread(taken)
    chip = torch.cuda.get_device_name() if device == "cuda" else device
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    yield {
        "batch": batch,
        "torch": torch.__version__,
        "compiled": device == "cuda",
        **result,
        **rate(batch, result["seconds"], a, chip),
        "peak_bytes": peak,
        "compile_s": compile_s,
    }
