"""CLIP in JAX against PyTorch's `transformers.CLIPModel`, side by side on one machine.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --threads 1 --clock cpu          # on a busy machine
    python benchmarks/throughput.py --dtype bfloat16 --batch 256     # on a GPU

A ViT-B/16 CLIP of random weights, saved by transformers and loaded by `load_clip`, so that
both hold the same numbers; first both embed the same batch, and their embeddings must agree.
Measured are inference (image tower, text tower, both), one image and one text alone, and a
training step: forward, contrastive loss, backward, AdamW. bfloat16 is mixed precision on both
sides: f32 parameters, PyTorch under autocast.

Each program has a process of its own on the same cores, with as many threads, and they take
turns: one sleeps while the other runs. A pause before each turn lets the other's threads
stop spinning. A ratio is the median over turns of PyTorch's time by ours in the same turn,
so that a busy machine slows both alike. A very busy one does not: a thread that others displace
holds up the rest at PyTorch's barriers. CPU time of one thread then still compares.

On Linux, `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` before the command gives large buffers huge
pages, in both programs: a training step of batch 4 on one core then takes 6 % less CPU time
here, 5 % less in PyTorch, as fewer pages are faulted in at every step.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from codesign.architecture import TOWERS, Architecture, clip_vit_b16
from codesign.workload import clip_workload, outside_workload, tower_layer_workload
from machine import bf16_peak_flops, here

# name -> (batch of one, towers, training); FLOPs and rates are per image-text pair.
TASKS = {
    "image tower": (False, ("vision",), False),
    "text tower": (False, ("text",), False),
    "both towers": (False, TOWERS, False),
    "training step": (False, TOWERS, True),
    "one image": (True, ("vision",), False),
    "one text": (True, ("text",), False),
}
LEARNING_RATE, WEIGHT_DECAY, BETAS = 1e-5, 0.1, (0.9, 0.98)
PAUSE_S = 0.05
AGREEMENT = {"float32": 1e-5, "bfloat16": 3e-2}
Call = Callable[[], Any]


def batch_of(architecture: Architecture, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images NHWC and ids with the end-of-text token, the largest id, somewhere in each row."""
    a, rng = architecture, np.random.default_rng(0)
    images = rng.normal(size=(size, a.image, a.image, a.channels)).astype(np.float32)
    ids = rng.integers(1, a.vocab - 2, size=(size, a.context))
    ids[np.arange(size), rng.integers(4, a.context, size=size)] = a.vocab - 1
    return images, ids


# PyTorch


def write_checkpoint(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    vision = {"patch_size": 16}  # the other defaults are those of ViT-B
    CLIPModel(CLIPConfig(vision_config=vision, projection_dim=512)).save_pretrained(folder)


def torch_calls(folder: Path, batch: int, dtype: str, threads: int) -> dict[str, Call]:
    """The tasks in PyTorch: "sdpa TASK" with its fused attention, the default, and "eager TASK"."""
    import torch
    import transformers
    from transformers import CLIPModel

    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = CLIPModel.from_pretrained(folder)
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    inputs = {}
    for size in (batch, 1):
        images, ids = batch_of(clip_vit_b16(), size)
        inputs[size] = {
            "pixel_values": torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(device),
            "input_ids": torch.tensor(ids).to(device),
        }

    def mixed() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def infer(size: int, towers: tuple[str, ...]) -> Any:
        x = inputs[size]
        with torch.inference_mode(), mixed():
            if len(towers) == 2:
                out = model(**x)
                return out.image_embeds, out.text_embeds
            if towers == ("vision",):
                return model.get_image_features(pixel_values=x["pixel_values"])
            return model.get_text_features(input_ids=x["input_ids"])

    def train() -> Any:
        with mixed():
            loss = model(**inputs[batch], return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def call(attention: str, one: bool, towers: tuple[str, ...], training: bool) -> Any:
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        model.train(training)
        result = train() if training else infer(1 if one else batch, towers)
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    calls: dict[str, Call] = {
        f"{attention} {name}": functools.partial(call, attention, *task)
        for attention in ("sdpa", "eager")
        for name, task in TASKS.items()
    }
    calls["embed"] = lambda: [x.float().cpu().numpy() for x in calls["sdpa both towers"]()]
    calls["about"] = lambda: (
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), "
        f"transformers {transformers.__version__}"
    )
    return calls


# JAX


def jax_calls(folder: Path, batch: int, dtype: str, threads: int) -> dict[str, Call]:
    """The tasks in JAX; each is compiled at its first call."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from codesign import load_clip
    from codesign.models.clip import CLIP, clamp_logit_scale
    from codesign.train.losses import contrastive_loss

    model = load_clip(folder, dtype=jnp.dtype(dtype))
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    optimizer = optax.adamw(LEARNING_RATE, *BETAS, weight_decay=WEIGHT_DECAY)
    inputs = {
        size: tuple(jnp.asarray(x) for x in batch_of(model.architecture, size))
        for size in (batch, 1)
    }

    def merged(params: nnx.State) -> CLIP:
        return nnx.merge(graphdef, params, rest)

    encode = {
        ("vision",): jax.jit(lambda p, images, ids: merged(p).encode_image(images)[0]),
        ("text",): jax.jit(lambda p, images, ids: merged(p).encode_text(ids)[0]),
        TOWERS: jax.jit(lambda p, images, ids: merged(p)(images, ids)[0]),
    }

    def step(state: tuple[Any, Any], images: jax.Array, ids: jax.Array) -> tuple[Any, jax.Array]:
        params, opt_state = state
        loss, grads = jax.value_and_grad(lambda p: contrastive_loss(*merged(p)(images, ids)[0]))(
            params
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (clamp_logit_scale(optax.apply_updates(params, updates)), opt_state), loss

    step = jax.jit(step, donate_argnums=0)
    trained = jax.tree.map(jnp.copy, params)
    states = [(trained, optimizer.init(trained))]

    def call(one: bool, towers: tuple[str, ...], training: bool) -> Any:
        x = inputs[1 if one else batch]
        if training:
            states[0], result = step(states[0], *x)
            return jax.block_until_ready((states[0], result))[1]
        return jax.block_until_ready(encode[towers](params, *x))

    calls: dict[str, Call] = {
        f"jax {name}": functools.partial(call, *task) for name, task in TASKS.items()
    }
    calls["embed"] = lambda: [np.asarray(x) for x in calls["jax both towers"]()[:2]]
    device = jax.devices()[0]
    calls["about"] = lambda: f"jax {jax.__version__}, {device.platform} {device.device_kind}"
    return calls


# Turns


def serve(
    make: Callable[..., dict[str, Call]],
    link: Connection,
    cores: set[int],
    clock: str,
    *options: Any,
) -> None:
    """A program's process: answers a call's name with the seconds it took."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    if cores:  # before any thread pool is made, so that it is made as large
        os.sched_setaffinity(0, cores)
    calls = make(*options)
    while name := link.recv():
        if not name.startswith(("jax", "sdpa", "eager")):
            link.send(calls[name]())
            continue
        before = now()
        calls[name]()
        link.send(now() - before)


class Program:
    """A process that serves calls by name, idle but while it is asked."""

    def __init__(self, make: Callable[..., dict[str, Call]], *options: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.link, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(make, theirs, *options), daemon=True)
        self.process.start()

    def ask(self, name: str) -> Any:
        self.link.send(name)
        while not self.link.poll(1.0):
            if not self.process.is_alive():
                raise SystemExit(f"the process of {name} ended; its error is above")
        return self.link.recv()

    def stop(self) -> None:
        self.link.send("")
        self.process.join()


def turns(
    programs: dict[str, Program], task: str, rounds: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds of a task, [rounds] of each program, each the least of `repeats` calls in a row."""
    times_s: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            time.sleep(PAUSE_S)
            took_s = min(program.ask(f"{name} {task}") for _ in range(repeats))
            if number:  # the first round compiles and warms up
                times_s[name].append(took_s)
    return times_s


def flops(towers: tuple[str, ...], training: bool) -> float:
    """FLOPs of one image, text or pair, two a MAC; the backward pass is twice the forward."""
    a = clip_vit_b16()
    if len(towers) == 2:
        macs = clip_workload(a).macs
    else:
        (name,) = towers
        tower = getattr(a, name)
        tokens = a.vision_tokens if name == "vision" else a.context
        layers = tower_layer_workload(
            tower,
            name=name,
            tokens=tokens,
            head_dim=a.head_dim,
            activation=a.activation,
            causal=name == "text",
            layers=tower.layers,
        )
        macs = layers.macs + outside_workload(a, name).macs
    return 2 * float(macs) * (3 if training else 1)


def rows(
    programs: dict[str, Program], tasks: list[str], batch: int, rounds: int, peak: float | None
) -> Iterator[str]:
    for task in tasks:
        one, towers, training = TASKS[task]
        times_s = turns(programs, task, rounds, repeats=3 if one else 1)
        ours = times_s["jax"]
        cells = []
        for name, seconds in times_s.items():
            middle_s = statistics.median(seconds)
            cell = f"{1e3 * middle_s:.1f} ms" if one else f"{batch / middle_s:.2f}/s"
            if name != "jax":
                ratio = statistics.median(b / a for a, b in zip(ours, seconds, strict=True))
                cell += f" ({ratio:.2f})"
            cells.append(cell)
        rate = flops(towers, training) * (1 if one else batch) / statistics.median(ours)
        cells.append(f"{rate / 1e9:.0f} GFLOP/s" + (f", {100 * rate / peak:.0f} %" if peak else ""))
        yield f"| {task} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=sorted(AGREEMENT), default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of each program; 0: all cores")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--skip-eager", action="store_true")
    args = parser.parse_args()
    cores: set[int] = set()
    if args.threads and hasattr(os, "sched_setaffinity"):
        cores = set(sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        options = (cores, args.clock, Path(folder), args.batch, args.dtype, args.threads)
        ours, torch = Program(jax_calls, *options), Program(torch_calls, *options)
        about = [program.ask("about") for program in (ours, torch)]
        pairs = zip(ours.ask("embed"), torch.ask("embed"), strict=True)
        error = max(float(np.abs(a - b).max()) for a, b in pairs)
    if error > AGREEMENT[args.dtype]:
        raise SystemExit(f"the two programs' embeddings differ by {error:.1e}")
    print("; ".join([here(args.threads or None), *about]))
    if tunables := os.environ.get("GLIBC_TUNABLES"):
        print(f"GLIBC_TUNABLES={tunables}")
    print(
        f"CLIP ViT-B/16, {args.dtype}, batch {args.batch}, {args.clock} time, median of "
        f"{args.rounds} turns; in brackets PyTorch's time by ours; embeddings within "
        f"{error:.0e}\n"
    )
    peak = bf16_peak_flops(about[0]) if args.dtype == "bfloat16" else None
    programs = {"jax": ours, "sdpa": torch} | ({} if args.skip_eager else {"eager": torch})
    names = {"jax": "JAX", "sdpa": "PyTorch sdpa", "eager": "PyTorch eager"}
    share = ", share of the chip's peak" if peak else ""
    print("| | " + " | ".join(names[name] for name in programs) + f" | JAX rate{share} |")
    print("|---" * (len(programs) + 2) + "|")
    for row in rows(programs, args.tasks, args.batch, args.rounds, peak):
        print(row, flush=True)
    ours.stop()
    torch.stop()


if __name__ == "__main__":
    main()
