"""ZigZag (Mei et al., IEEE TC 2021; `zigzag-dse` on PyPI) as an oracle, driven in this process.

Optional: pip install 'codesign[oracle]'. Analytical cost model and exhaustive loop orders
(LOMA) for one GEMM on one memory hierarchy. How the template is told to it:

    this project             ZigZag
    pe_x columns (n)         D1, always unrolls n
    pe_y rows (k)            D2, always unrolls k
    cores                    D3, unrolls m, n or k
    weight register          rf_w per PE, ports of one word
    column accumulator       rf_o serves D2, 32 bit, 4 ports
    L2 of a core             l2_i, l2_w, l2_o serve D1 and D2: one operand each
    GLB, DRAM                all operands; GLB one read and one write port, DRAM one shared

Settings, frozen before any surrogate was fitted to the results:

- Least energy x delay over the three core splits and over `register_words` usable of the
  32-word weight register, from the largest to the first of which a core's registers hold at
  most an eighth of its L2. ZigZag fills low memories greedily: registers that hold more than
  the L2 must be offered less to run at full speed. On 102 random points no smaller size was
  any better; on 40, six sizes down to one byte were 0.1 % better on average, 4 % at best.
- The energy minimised is the dynamic one, ZigZag's own. With static energy, one of these 102
  points would have been mapped otherwise (4 % faster for 4 % more energy).
- `lpf_limit` 4: loops are split into at most four factors; more buys under 1 % as a rule.
- Each operand has the whole L2 capacity and bandwidth to itself, which is kinder than the
  template's one L2.
- Operands and results have `precision_bits`, partial sums 32. l2_o is wider by as much (four
  times at 8 bits) at the same pJ per byte, so that a partial sum takes one word of bandwidth
  and four bytes of energy.
- Ports are accessed by the byte, by the word where that is less: no charge for the unused rest
  of a line.
- The constants' conventions: each MAC pays its weight register's read, used or held; the
  accumulator is paid in `mac_pj`, so rf_o is free.
- Not modelled by it: network on chip, static energy, vector unit; nothing is padded but what the
  array unrolls.

With the round constants, 256-byte GLB port and {64, 16, 4} register words of an independent
study of 45 (GEMM, chip) pairs, and its charges for registers, this driving gave all 45 of the
study's cycles and energies exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import itertools
import logging
import math
from types import SimpleNamespace
from typing import Any, ClassVar

from codesign.accelerator import Accelerator
from codesign.cost.physical import PRECISIONS_BITS
from codesign.cost.technology import PARTIAL_SUM_BYTES
from codesign.errors import UserError
from codesign.oracle.interface import Events, OracleError, Point, Sample
from codesign.renamed import accepts_old_names

VERSION = "3.9.1"
INSTALL = "pip install 'codesign[oracle]'"
# ZigZag's names of the loops.
LOOPS = {"m": "D0", "n": "D1", "k": "D2"}
DRAM_BYTES = 2**30
SUM_BITS = 8 * PARTIAL_SUM_BYTES
# Registers of at most L2 / CROWDING leave it room: less of them has nothing to gain.
CROWDING = 8
_CLASSES = {
    "AcceleratorFactory": "parser.accelerator_factory",
    "AcceleratorValidator": "parser.accelerator_validator",
    "CostModelStage": "stages.evaluation.cost_model_evaluation",
    "DataDirection": "hardware.architecture.memory_port",
    "MainStage": "stages.main",
    "MappingValidator": "parser.mapping_validator",
    "MinimalEDPStage": "stages.results.reduce_stages",
    "NoValidLoopOrderingFoundException": "opt.loma.engine",
    "SpatialMappingGeneratorStage": "stages.mapping.spatial_mapping_generation",
    "TemporalMappingGeneratorStage": "stages.mapping.temporal_mapping_generator_stage",
    "TemporalMappingType": "mapping.temporal_mapping",
    "WorkloadFactory": "parser.workload_factory",
    "WorkloadStage": "stages.workload_iterator",
    "WorkloadValidator": "parser.workload_validator",
}


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class ZigZag:
    """ZigZag 3.9.1 as an oracle.

    Attributes:
      register_words: usable words of a PE's weight register, decreasing.
      lpf_limit: factors that the temporal loops are split into, at most.
      name: "zigzag".
      precisions_bits: of the words it prices.
    """

    register_words: tuple[int, ...] = (32, 8, 2)
    lpf_limit: int = 4
    name: str = "zigzag"
    precisions_bits: ClassVar[tuple[int, ...]] = PRECISIONS_BITS

    def fingerprint(self) -> str:
        """Tool version and settings."""
        registers = "/".join(map(str, self.register_words))
        # "bytes" is kept for the samples bought by that name; their words have 8 bits.
        return (
            f"zigzag-dse {VERSION}; register bytes {registers} down to 1/{CROWDING} of L2; "
            f"lpf_limit {self.lpf_limit}"
        )

    def __call__(self, point: Point) -> Sample:
        """The mapping of least energy x delay.

        Raises:
          OracleError: no mapping is valid, or ZigZag failed.
          UserError: ZigZag, in this version, is not installed.
        """
        tools = _tools()
        best = None
        sizes = _sizes(point.accelerator, self.register_words, point.constants.word_bytes)
        for registers, unrolling in itertools.product(sizes, _unrollings(point)):
            try:
                found = _evaluate(tools, point, registers, unrolling, self.lpf_limit)
            except tools.NoValidLoopOrderingFoundException:
                continue
            except Exception as error:
                reason = f"{type(error).__name__} {error}".splitlines()[0]
                raise OracleError(f"zigzag failed: {reason}") from error
            if best is None or found.cycles * found.energy_pj < best.cycles * best.energy_pj:
                best = found
        if best is None:
            raise OracleError("zigzag found no valid mapping")
        return best


def _sizes(
    chip: Accelerator, register_words: tuple[int, ...], word_bytes: float = 1.0
) -> list[int]:
    """The register sizes to try, words: down to the first that leaves room in the L2."""
    array_bytes = chip.pe_x * chip.pe_y * word_bytes
    sizes = []
    for size in register_words:
        sizes.append(size)
        if size * array_bytes * CROWDING <= chip.l2_kib * 1024:
            break
    return sizes


def _unrollings(point: Point) -> list[dict[str, list[str]]]:
    """Spatial mappings: n along the columns, k along the rows, either of the three over cores."""
    chip = point.accelerator
    x, y = min(int(chip.pe_x), point.n), min(int(chip.pe_y), point.k)
    left = {"m": point.m, "n": math.ceil(point.n / x), "k": math.ceil(point.k / y)}
    array = {"D1": [f"{LOOPS['n']}, {x}"], "D2": [f"{LOOPS['k']}, {y}"]}
    cores = {loop: min(int(chip.cores), trips) for loop, trips in left.items()}
    # One core, or a loop with nothing left, is the same mapping whatever it is called.
    split = {loop: factor for loop, factor in cores.items() if factor > 1} or {"m": 1}
    return [array | {"D3": [f"{LOOPS[loop]}, {factor}"]} for loop, factor in split.items()]


def _evaluate(
    tools: SimpleNamespace,
    point: Point,
    register_words: int,
    unrolling: dict[str, list[str]],
    lpf_limit: int,
) -> Sample:
    """ZigZag's best loop order for one spatial mapping."""
    bits = point.constants.precision_bits
    layer = {
        "id": 0,
        "name": "gemm",
        "operator_type": "Gemm",
        "equation": "O[d0][d1]+=I[d0][d2]*W[d2][d1]",
        "dimension_relations": [],
        "loop_dims": list(LOOPS.values()),
        "loop_sizes": [getattr(point, loop) for loop in LOOPS],
        "operand_precision": {"W": bits, "I": bits, "O": SUM_BITS, "O_final": bits},
        "operand_source": {"I": 0, "W": 0},
    }
    links = {"O": "O", "W": "I2", "I": "I1"}
    mapping = {"name": "default", "spatial_mapping": unrolling, "memory_operand_links": links}
    chip = _checked(tools.AcceleratorValidator(_chip(point, register_words)))
    workload = _checked(tools.WorkloadValidator([layer]))
    mappings = _checked(tools.MappingValidator([mapping]))
    stages = [
        tools.WorkloadStage,
        tools.MinimalEDPStage,
        tools.SpatialMappingGeneratorStage,
        tools.MinimalEDPStage,
        tools.TemporalMappingGeneratorStage,
        tools.CostModelStage,
    ]
    result = tools.MainStage(
        stages,
        workload=tools.WorkloadFactory(workload, mappings).create(),
        accelerator=tools.AcceleratorFactory(chip).create(),
        loma_lpf_limit=lpf_limit,
        loma_show_progress_bar=False,
        nb_mappings_generated=1,
        access_same_data_considered_as_no_access=True,
        temporal_mapping_type=tools.TemporalMappingType.UNEVEN,
    ).run()[0][0]
    return Sample(float(result.latency_total2), float(result.energy_total), _events(tools, result))


def _checked(validator: Any) -> Any:
    """The description with its defaults, where it is a valid one."""
    if not validator.validate():
        raise ValueError(f"{type(validator).__name__} refuses {validator.data}")
    return validator.normalized_data


def _chip(point: Point, register_words: int) -> dict[str, Any]:
    """The accelerator; memories from the lowest to the highest, an order that ZigZag needs."""
    chip, costs = point.accelerator, point.constants
    core, everything = ["D1", "D2"], ["D1", "D2", "D3"]
    word = costs.precision_bits
    memory = functools.partial(_memory, least=min(word, 8))
    l2_bits, l2_width = int(8 * 1024 * chip.l2_kib), int(8 * chip.l2_bytes_per_cycle)
    l2_pj = (costs.l2_read_pj, costs.l2_write_pj)
    operands = ["I1", "I2", "O"]
    memories = {
        "rf_w": memory(["I2"], register_words * word, word, (0.0, costs.register_write_pj), []),
        "rf_o": _accumulator(),
        "l2_i": memory(["I1"], l2_bits, l2_width, l2_pj, core),
        "l2_w": memory(["I2"], l2_bits, l2_width, l2_pj, core),
        "l2_o": memory(["O"], l2_bits, SUM_BITS * l2_width // word, l2_pj, core),
        "glb": memory(
            operands,
            int(8 * chip.glb_mib * 2**20),
            int(8 * costs.glb_bytes_per_cycle),
            (costs.glb_read_pj, costs.glb_write_pj),
            everything,
        ),
        "dram": memory(
            operands,
            8 * DRAM_BYTES,
            int(8 * costs.dram_bytes_per_cycle),
            (costs.dram_pj, costs.dram_pj),
            everything,
            one_port=True,
        ),
    }
    array = {
        "dimensions": everything,
        "sizes": [int(chip.pe_x), int(chip.pe_y), int(chip.cores)],
        "unit_energy": costs.mac_pj + costs.word_bytes * costs.register_read_pj,
        "unit_area": 0.0,
    }
    return {"name": "chip", "memories": memories, "operational_array": array}


def _memory(
    operands: list[str],
    size: int,
    width: int,
    pj_per_byte: tuple[float, float],
    serves: list[str],
    least: int,
    one_port: bool = False,
) -> dict[str, Any]:
    """A memory with a read and a write port, or one for both; sizes in bits, as ZigZag's.

    Args:
      operands: whose data it holds, by ZigZag's names.
      size: its capacity.
      width: of a port: bits moved a cycle, at most.
      pj_per_byte: read, written.
      serves: dimensions of the array whose PEs share it.
      least: bits of the smallest access.
      one_port: whether reads and writes share a port.
    """
    # From and to: f is filled, t is taken; h is the level above, l the one below.
    taken = [f"{o}, {d}" for o in operands for d in (("tl", "th") if o == "O" else ("tl",))]
    filled = [f"{o}, {d}" for o in operands for d in (("fh", "fl") if o == "O" else ("fh",))]
    kinds = {"r_port_1": ("read", taken), "w_port_1": ("write", filled)}
    if one_port:
        kinds = {"rw_port_1": ("read_write", taken + filled)}
    ports = [_port(name, *kind, width, min(least, width)) for name, kind in kinds.items()]
    read_pj, write_pj = pj_per_byte
    return {
        "size": size,
        "r_cost": float(read_pj * width / 8),
        "w_cost": float(write_pj * width / 8),
        "area": 0.0,
        "latency": 1,
        "operands": operands,
        "ports": ports,
        "served_dimensions": serves,
    }


def _accumulator() -> dict[str, Any]:
    """One 32-bit sum under each column, read and written from both sides in the same cycle."""
    ports = [
        _port(name, kind, [f"O, {direction}"], SUM_BITS, SUM_BITS)
        for name, kind, direction in (
            ("r_port_1", "read", "tl"),
            ("r_port_2", "read", "th"),
            ("w_port_1", "write", "fh"),
            ("w_port_2", "write", "fl"),
        )
    ]
    return {
        "size": SUM_BITS,
        "r_cost": 0.0,
        "w_cost": 0.0,
        "area": 0.0,
        "latency": 1,
        "operands": ["O"],
        "ports": ports,
        "served_dimensions": ["D2"],
    }


def _port(name: str, kind: str, allocation: list[str], bits: int, least: int) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "allocation": allocation,
        "bandwidth_min": least,
        "bandwidth_max": bits,
    }


def _events(tools: SimpleNamespace, result: Any) -> Events:
    """Bytes moved, from ZigZag's accesses, which it counts in full widths of the memory."""
    reads: dict[str, float] = {}
    writes: dict[str, float] = {}
    way = tools.DataDirection
    for operand, levels in result.memory_word_access.items():
        # From the highest level down; what is below L2 are registers.
        for name, accesses, level in zip(
            ("dram", "glb", "l2", "register"),
            reversed(levels),
            reversed(_levels(result, operand)),
            strict=False,
        ):
            if name == "register" and operand.name == "O":
                continue
            width = level.memory_instance.ports[0].bw_max / 8
            taken = accesses.get(way.RD_OUT_TO_LOW) + accesses.get(way.RD_OUT_TO_HIGH)
            filled = accesses.get(way.WR_IN_BY_LOW) + accesses.get(way.WR_IN_BY_HIGH)
            reads[name] = reads.get(name, 0.0) + taken * width
            writes[name] = writes.get(name, 0.0) + filled * width
    return Events(
        register_writes=writes["register"],
        l2_reads=reads["l2"],
        l2_writes=writes["l2"],
        glb_reads=reads["glb"],
        glb_writes=writes["glb"],
        dram_bytes=reads["dram"] + writes["dram"],
    )


def _levels(result: Any, operand: Any) -> list[Any]:
    """Memories of an operand from the lowest to the highest."""
    memory_operand = result.memory_operand_links.layer_to_mem_op(operand)
    return result.accelerator.memory_hierarchy.get_memory_levels(mem_op=memory_operand)


@functools.cache
def _tools() -> SimpleNamespace:
    """ZigZag's classes by name, imported when first needed.

    Raises:
      UserError: not installed, or another version.
    """
    try:
        version = importlib.metadata.version("zigzag-dse")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"the zigzag oracle needs zigzag-dse {VERSION}: {INSTALL}") from None
    if version != VERSION:
        raise UserError(f"the zigzag oracle needs zigzag-dse {VERSION}, not {version}: {INSTALL}")
    # It reports each mapping tried.
    logging.getLogger("zigzag").setLevel(logging.CRITICAL)
    found = {
        name: getattr(importlib.import_module(f"zigzag.{module}"), name)
        for name, module in _CLASSES.items()
    }
    return SimpleNamespace(**found)
