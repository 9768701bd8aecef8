"""Hardware searches from Python: what `codesign search hardware` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from codesign.errors import UserError

if TYPE_CHECKING:
    from codesign.fixed_model import Hardware
    from codesign.scenario import Scenario
    from codesign.search.objectives import Limits, Mode
    from codesign.space import AcceleratorChoices


def search_hardware(
    model: str | os.PathLike[str],
    limits: Limits | None = None,
    scenario: Scenario | None = None,
    *,
    space: AcceleratorChoices | None = None,
    objectives: Sequence[Mode] | None = None,
    uncertainty: int | None = None,
    name: str | None = None,
    tokens: int | None = None,
    phase: Literal["prefill", "decode"] | None = None,
    context: int | None = None,
) -> Hardware:
    """The best accelerators of a fixed model on a grid, exactly, as `codesign search hardware`.

        found = cd.search_hardware("tinyclip-39m-16", cd.Limits(latency_s=0.02, tops=20))
        found.designs[0]["accelerator"]

    Args:
      model: a published model's name, a HuggingFace folder, or a design file.
      limits: hard limits; default: none.
      scenario: where and how the device lives; of a design file, fields that differ from the
        default change the file's own. DRAM too small for the model is enlarged, unless it differs
        from the default.
      space: the grid; default: the wide one, of the catransformers costing the published one.
      objectives: what to find the least of; default: carbon, latency and energy.
      uncertainty: sets of components under which the best are held against their rivals.
      name: the design to take from a list of designs.
      tokens: length of a text or prompt, of models that take any.
      phase: of a decoder.
      context: tokens in a decoder's cache.

    Raises:
      UserError: no such model; no accelerator fits it, keeps up with the scenario's inferences or
        meets the limits.
    """
    from codesign.constraints import check_config
    from codesign.fixed_model import hardware_of
    from codesign.printable import short_repr
    from codesign.scenario import Scenario
    from codesign.search.hardware import HardwareConfig
    from codesign.search.objectives import Limits

    if not isinstance(model, (str, os.PathLike)):
        raise UserError(
            f"search_hardware: model is {short_repr(model)}: it must be a published model's name, "
            "a HuggingFace folder or a design file"
        )
    if limits is not None and not isinstance(limits, Limits):
        raise UserError(
            f"search_hardware: limits is {short_repr(limits)}: it must be codesign Limits"
        )
    given: dict[str, Any] = dict(vars(limits if limits is not None else Limits()))
    if space is not None:
        given |= {"space": space, "grid": "wide"}
    if objectives is not None:
        given["objectives"] = tuple(objectives) if isinstance(objectives, list) else objectives
    config = HardwareConfig(
        **given,
        model=os.fspath(model),
        name=name,
        tokens=tokens,
        phase=phase,
        context=context,
        scenario=scenario if scenario is not None else Scenario(),
        uncertainty=uncertainty,
    )
    check_config(config)
    return hardware_of(config)
