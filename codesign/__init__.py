"""Differentiable co-design of CLIP models and edge accelerators.

What a user needs is importable from here:

    from codesign import Accelerator, Scenario, clip_vit_b16, estimate
    estimate(clip_vit_b16(), Accelerator(), Scenario()).carbon_kgco2e
"""

import importlib as _importlib
from typing import TYPE_CHECKING, Any

# Before JAX starts; imports nothing of it.
_importlib.import_module("codesign.compiler").disable_faulty_fusions()

if TYPE_CHECKING:
    from codesign.accelerator import Accelerator as Accelerator
    from codesign.architecture import Architecture as Architecture
    from codesign.architecture import Tower as Tower
    from codesign.architecture import clip_vit_b16 as clip_vit_b16
    from codesign.cost.estimate import estimate as estimate
    from codesign.cost.model import Costs as Costs
    from codesign.design_file import Design as Design
    from codesign.design_file import load_design as load_design
    from codesign.models.formats import load_clip as load_clip
    from codesign.models.formats import load_processor as load_processor
    from codesign.models.formats import save_clip as save_clip
    from codesign.scenario import Scenario as Scenario
    from codesign.space import DesignSpace as DesignSpace

# Imported when first asked for, so that `codesign --help` need not wait for JAX.
_PUBLIC = {
    "Accelerator": "accelerator",
    "Architecture": "architecture",
    "Costs": "cost.model",
    "Design": "design_file",
    "DesignSpace": "space",
    "Scenario": "scenario",
    "Tower": "architecture",
    "clip_vit_b16": "architecture",
    "estimate": "cost.estimate",
    "load_clip": "models.formats",
    "load_design": "design_file",
    "load_processor": "models.formats",
    "save_clip": "models.formats",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'codesign' has no attribute {name!r}")
    return getattr(_importlib.import_module(f"codesign.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
