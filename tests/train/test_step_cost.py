"""What a step is said to take, against what is traced and what compiled programs tell."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from codesign.train.step_cost import exchanged_bytes, flops, memory_bytes, weight_bytes
from simulators import planned_steps
from simulators.planned_steps import DEEPER, PLANS, plan


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"remat": True},
        {"micro_batches": 2},
        {"micro_batches": 4, "remat": True},
        {"logits_chunk": 64},
    ],
)
def test_products_are_those_that_are_traced(more):
    planned = plan(DEEPER, **more)
    assert flops(planned) == pytest.approx(planned_steps.product_flops(planned), rel=1e-4)


def test_devices_share_the_products_and_groups_the_state():
    one, many = plan(DEEPER), plan(DEEPER, data=8, fsdp=8)
    assert flops(many) * 64 == pytest.approx(flops(one))
    whole, part = weight_bytes(one), weight_bytes(many)
    assert whole.held == whole.total == part.total
    # An eighth of the matrices, and all of the vectors.
    assert 1 / 8 < part.held / whole.held < 1 / 8 + 0.02
    assert memory_bytes(many).state == 3 * part.held
    assert exchanged_bytes(one).total == 0
    # Twice as many groups of the same devices hardly send more.
    more = dataclasses.replace(many, data=16)
    assert (
        exchanged_bytes(many).total
        < exchanged_bytes(more).total
        < 1.02 * (exchanged_bytes(many).total)
    )


@pytest.fixture(scope="module")
def programs():
    done = subprocess.run(
        [sys.executable, planned_steps.__file__],
        text=True,
        capture_output=True,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=64"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # As XLA says where it finds no way to lay arrays out but whole.
    assert "rematerialization" not in done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_memory_is_that_of_the_compiled_step(programs, name):
    planned, told = PLANS[name], programs[name]
    memory = memory_bytes(planned)
    # Beside the state its arguments are the batch, and a few counts.
    batch = told["batch"] / planned.devices
    assert told["arguments"] - batch == pytest.approx(memory.state, abs=1024)
    assert memory.total - memory.state == pytest.approx(told["temporary"], rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "data", "fsdp", "many"])
def test_operations_are_those_of_the_compiled_step(programs, name):
    # Which counts softmax, norms and the optimizer too; these every device of a group does for all
    # vectors, and the many for few pairs.
    ratio = programs[name]["flops"] / flops(PLANS[name])
    assert 1 < ratio < (1.15 if name != "many" else 1.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "fsdp", "many"])
def test_what_is_exchanged_is_that_of_the_compiled_step(programs, name):
    planned, told = PLANS[name], programs[name]
    sent = exchanged_bytes(planned)
    others = 1 - 1 / planned.devices
    gradients = told["all-reduce"] * 2 * others
    assert sent.gradients <= gradients <= 1.1 * sent.gradients + sent.embeddings
    embeddings = sent.embeddings / 4 / others  # one side's
    gathered = told["all-gather"] - 2 * embeddings
    if planned.fsdp > 1:
        assert gathered * (1 - 1 / planned.fsdp) == pytest.approx(sent.weights, rel=0.1)
    else:
        # Three numbers a pair, which the model leaves out: its label, and the softmax's of a text.
        assert gathered <= 3 * 4 * planned.batch and sent.weights == 0


def test_a_network_that_no_memory_here_could_hold_costs_nothing_to_plan():
    vision = dataclasses.replace(DEEPER.vision, layers=48, width=8192, heads=256, ffn=32768)
    huge = plan(dataclasses.replace(DEEPER, vision=vision), data=16, fsdp=64)
    assert weight_bytes(huge).total > 1e11
