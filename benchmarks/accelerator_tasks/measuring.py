"""How large everything is, and how it is timed."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from codesign.architecture import Architecture, Tower, clip_vit_b16
from machine import bf16_peak_flops

Result = dict[str, Any]
# Of AdamW.
LEARNING_RATE, WEIGHT_DECAY, BETAS = 1e-5, 0.1, (0.9, 0.98)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
      architecture: of the CLIP that is timed.
      batches: pairs of a step.
      search_batch: of the elastic and the joint step, and of DRESS.
      repeats: steps that are timed, where patience lasts.
      patience_s: time a measurement may take.
      designs: priced at once.
      products: tokens x inputs x outputs of the row-sparse products.
      dtype: of the CLIP that is timed.
    """

    architecture: Architecture
    batches: tuple[int, ...]
    search_batch: int
    repeats: int
    patience_s: float
    designs: int
    products: tuple[tuple[int, int, int], ...]
    dtype: str = "bfloat16"

    def space(self) -> Any:
        """The design space whose table is built: the README's for ViT-B/16, else a small one."""
        from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices

        if self.architecture == clip_vit_b16():
            from cost_model import SPACE

            return SPACE
        a = self.architecture

        def halved(dimensions: Any) -> dict[str, tuple[Any, ...]]:
            return {name: (size / 2 if size % 2 else size // 2, size) for name, size in dimensions}

        chip = {f.name: (f.default[0],) for f in dataclasses.fields(AcceleratorChoices)}
        return DesignSpace(
            base=a,
            vision=TowerChoices(**halved(vars(a.vision).items())),
            text=TowerChoices(**halved(vars(a.text).items())),
            accelerator=AcceleratorChoices(**chip),
        )


FULL = Scale(
    clip_vit_b16(),
    (256, 1024, 4096),
    256,
    20,
    12.0,
    2**17,
    ((50_432, 768, 3072), (50_432, 3072, 768)),
)
TINY = Scale(
    Architecture(
        vision=Tower(layers=2, width=32, heads=2, ffn=64),
        text=Tower(layers=2, width=32, heads=2, ffn=64),
        image=16,
        patch=8,
        channels=3,
        head_dim=16,
        projection=32,
        vocab=64,
        context=8,
        activation="gelu",
    ),
    (8, 16),
    8,
    3,
    2.0,
    32,
    ((64, 32, 64),),
)


def timed(call: Callable[[], Any], scale: Scale) -> Result:
    """Seconds of a call whose result is waited for, once its program is compiled."""
    import jax

    for _ in range(2):  # a step's own result, which is its next argument, may be placed otherwise
        jax.block_until_ready(call())
    taken: list[float] = []
    while len(taken) < scale.repeats and (len(taken) < 3 or sum(taken) < scale.patience_s):
        before = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - before)
    return spread(taken)


def spread(taken: list[float]) -> Result:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(taken, n=4, method="inclusive")
    return {"seconds": middle, "quartiles_s": [low, high], "steps": len(taken)}


def peak_bytes() -> int | None:
    """The most device memory that this process has held; None where the platform does not say."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")


def pair_flops(architecture: Architecture) -> float:
    """FLOPs of training on one image-text pair; see accelerator.py for what counts."""
    from codesign.workload import clip_workload

    return 3 * 2 * float(clip_workload(architecture).macs)


def rate(batch: int, seconds: float, architecture: Architecture, chip: str, passes: int = 1) -> Any:
    """Pairs a second and, where the chip's peak is known, MFU."""
    pairs_per_s = batch * passes / seconds
    peak = bf16_peak_flops(chip)
    flops_per_s = pairs_per_s * pair_flops(architecture)
    return {
        "images_per_s": pairs_per_s,
        "model_tflops_per_s": flops_per_s / 1e12,
        "mfu": None if peak is None else flops_per_s / peak,
    }


def chip_name() -> str:
    import jax

    return str(jax.devices()[0].device_kind)
