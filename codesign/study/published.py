"""What CATransformers (arXiv 2505.01386) prints: networks, designs and what is said of them."""

from __future__ import annotations

import dataclasses
import functools

from codesign import tables
from codesign.accelerator import Accelerator
from codesign.architecture import Architecture, read_towers
from codesign.workload.clip import ClipNetwork
from codesign.workload.load import Model, clip_model
from codesign.workload.presets import PRESETS

PAPER = "CATransformers (Wang et al., NeurIPS 2025, arXiv 2505.01386)"
_DATA = "codesign.study.data"
# The published costs of TinyCLIP come out with so many layers in both towers, which it does not
# have: a network is shown as released and so.
_PRINTED_LAYERS = 12
_AS_PRINTED = f", {_PRINTED_LAYERS} layers in both towers"
_ACCELERATOR = ("cores", "pe_x", "pe_y", "l2_kib", "l2_bytes_per_cycle", "glb_mib")


@dataclasses.dataclass(frozen=True)
class Design:
    """A published network on a published accelerator.

    Attributes:
      network: its name, of `networks`.
      optimised: what it was chosen for: "carbon", "latency", "energy", "carbon and latency".
      accelerator: of the published grid.
      carbon_kgco2e, latency_ms: as published.
      source: table of the paper.
    """

    network: str
    optimised: str
    accelerator: Accelerator
    carbon_kgco2e: float
    latency_ms: float
    source: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A number that the paper's text states.

    Attributes:
      subject: what it is of.
      quantity: what it is, with its unit.
      published: the number.
      source: section of the paper.
    """

    subject: str
    quantity: str
    published: float
    source: str


@functools.cache
def designs() -> tuple[Design, ...]:
    """All published designs, in the order of the tables."""
    return tuple(
        Design(
            row["network"],
            row["optimised"],
            Accelerator(*(int(row[field]) for field in _ACCELERATOR)),
            float(row["carbon_kgco2e"]),
            float(row["latency_ms"]),
            row["source"],
        )
        for row in tables.rows(_DATA, "catransformers_designs")
    )


def claims(finding: str) -> tuple[Claim, ...]:
    """What the paper's text states of a finding."""
    return tuple(
        Claim(row["subject"], row["quantity"], float(row["published"]), row["source"])
        for row in tables.rows(_DATA, "catransformers_claims")
        if row["finding"] == finding
    )


@functools.cache
def networks() -> dict[str, Model]:
    """Every published network by name; TinyCLIPs also as their published costs have them.

    CLIP and CarbonCLIP have the quick GELU with which their published latencies come out,
    TinyCLIP its own; only the reference's costing tells them apart.
    """
    own = tables.table(_DATA, "catransformers_networks", "name")
    clips: dict[str, ClipNetwork] = {}
    for name in dict.fromkeys(design.network for design in designs()):
        if name in own:
            released = ClipNetwork(Architecture(**read_towers(own[name])))
            clips[name] = _with(released, activation="quick_gelu")
            continue
        network = PRESETS[name].network
        assert isinstance(network, ClipNetwork), "presets of the table are CLIPs"
        if not name.startswith("tinyclip"):
            clips[name] = _with(network, activation="quick_gelu")
            continue
        a = network.architecture
        clips[name] = network
        clips[as_printed(name)] = _with(
            network,
            vision=dataclasses.replace(a.vision, layers=_PRINTED_LAYERS),
            text=dataclasses.replace(a.text, layers=_PRINTED_LAYERS),
        )
    return {name: clip_model(name, clip, PAPER) for name, clip in clips.items()}


def as_printed(name: str) -> str:
    """The name of a network with the layers with which its published costs come out."""
    return name + _AS_PRINTED if name.startswith("tinyclip") else name


def _with(clip: ClipNetwork, **changes: object) -> ClipNetwork:
    changed = dataclasses.replace(clip.architecture, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(clip, architecture=changed)
