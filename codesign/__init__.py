"""Differentiable co-design of CLIP models and edge accelerators.

What a user needs is importable from here:

    import codesign as cd

    cd.estimate(cd.clip_vit_b16(), cd.Accelerator(), cd.Scenario()).carbon_kgco2e
    cd.search_hardware("tinyclip-39m-16", cd.Limits(latency_s=0.02)).front()
    cd.search("quickstart", progress=print).plot()
"""

import importlib as _importlib
import sys as _sys
import types as _types
from typing import TYPE_CHECKING, Any

# Before JAX starts; imports nothing of it.
_importlib.import_module("codesign.compiler").disable_faulty_fusions()

if TYPE_CHECKING:
    from codesign.accelerator import Accelerator as Accelerator
    from codesign.api import dress as dress
    from codesign.api import evaluate as evaluate
    from codesign.api import finetune as finetune
    from codesign.api import prune as prune
    from codesign.api import search as search
    from codesign.api import search_hardware as search_hardware
    from codesign.architecture import Architecture as Architecture
    from codesign.architecture import Tower as Tower
    from codesign.architecture import clip_vit_b16 as clip_vit_b16
    from codesign.cost.estimate import estimate as estimate
    from codesign.cost.model import Costs as Costs
    from codesign.cost.model import clip_costs as clip_costs
    from codesign.design_file import Design as Design
    from codesign.design_file import load_design as load_design
    from codesign.dress.masks import subnet_masks as subnet_masks
    from codesign.dress.trees import kernel_specs as kernel_specs
    from codesign.errors import RunError as RunError
    from codesign.errors import UserError as UserError
    from codesign.models.formats import load_clip as load_clip
    from codesign.models.formats import load_processor as load_processor
    from codesign.models.formats import save_clip as save_clip
    from codesign.models.formats.hub import push_to_hub as push_to_hub
    from codesign.models.subnets import load_family as load_family
    from codesign.progress import Progress as Progress
    from codesign.runs import Run as Run
    from codesign.runs import read_run as read_run
    from codesign.scenario import Scenario as Scenario
    from codesign.search.objectives import Limits as Limits
    from codesign.space import DesignSpace as DesignSpace
    from codesign.workload import load_model as load_model

# Imported when first asked for, so that `codesign --help` need not wait for JAX.
_PUBLIC = {
    "Accelerator": "accelerator",
    "Architecture": "architecture",
    "Costs": "cost.model",
    "Design": "design_file",
    "DesignSpace": "space",
    "Limits": "search.objectives",
    "Progress": "progress",
    "Run": "runs",
    "RunError": "errors",
    "Scenario": "scenario",
    "Tower": "architecture",
    "UserError": "errors",
    "clip_costs": "cost.model",
    "clip_vit_b16": "architecture",
    "dress": "api",
    "estimate": "cost.estimate",
    "evaluate": "api",
    "finetune": "api",
    "kernel_specs": "dress.trees",
    "load_clip": "models.formats",
    "load_design": "design_file",
    "load_family": "models.subnets",
    "load_model": "workload",
    "load_processor": "models.formats",
    "prune": "api",
    "push_to_hub": "models.formats.hub",
    "read_run": "runs",
    "save_clip": "models.formats",
    "search": "api",
    "search_hardware": "api",
    "subnet_masks": "dress.masks",
}
__all__ = sorted(_PUBLIC)


def _public(name: str) -> Any:
    return getattr(_importlib.import_module(f"codesign.{_PUBLIC[name]}"), name)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'codesign' has no attribute {name!r}")
    return _public(name)


def __dir__() -> list[str]:
    return __all__


class _Callable(_types.ModuleType):
    """`codesign.search` and `codesign.dress`: packages, and the functions of these names."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        return _public(self.__name__.rpartition(".")[2])(*args, **named)

    @property
    def __wrapped__(self) -> Any:
        """Whose signature and docstring `inspect` and notebooks show."""
        return _public(self.__name__.rpartition(".")[2])


class _Package(_types.ModuleType):
    """This package: what is imported into it under a function's name can be called as well."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PUBLIC and isinstance(value, _types.ModuleType):
            value.__class__ = _Callable
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
