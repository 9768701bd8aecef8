"""What the engine asks of a kind of model: its loss on a batch, and what a run does around it.

The steps (`step.py`, `subnets.py`) and the runner (`run.py`) are written once, over these two
protocols. A further kind of model is a file for each protocol, as `clip.py` and
`clip_subject.py`, and a line in `run.py:subject_of`. Tasks need JAX and Flax alone.

Axes: B examples, K subnets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from codesign.dress.masks import Masks
from codesign.dress.rows import RowSpec

if TYPE_CHECKING:
    from codesign.train.data import Source

Array = jax.Array
Metrics = dict[str, Array]


class Task(Protocol):
    """The loss of one kind of model, as pure functions; hashed by identity, static under jit.

    `params` are what an optimizer moves: the network's parameters, and possibly more. `stats`
    are running statistics without gradient; `fixed` are arrays that no step changes.
    """

    @property
    def unrolled_on_cpu(self) -> bool:
        """Whether loops over subnets are written out on CPUs, as convolutions need; see
        `subnets.one_after_another`."""
        ...

    def network(self, params: Any) -> nnx.State:
        """The network's own parameters, whose names masks and norms use."""
        ...

    def with_network(self, params: Any, network: nnx.State) -> Any:
        """The same params with another network."""
        ...

    def prepare(self, batch: Any, key: Array) -> Any:
        """The batch as `forward` takes it; done once a step, for all subnets."""
        ...

    def teacher_outputs(self, fixed: Any, batch: Any) -> Any:
        """The teacher's outputs on the batch; None without a teacher."""
        ...

    def first(self, params: Any, fixed: Any, batch: Any, step: Array) -> Any:
        """The params that a step starts from; a run's first step may set some."""
        ...

    def forward(
        self, params: Any, stats: Any, fixed: Any, batch: Any, gates: Any = None
    ) -> tuple[Any, Any]:
        """Outputs on the batch, under optional gates, and the batch's own statistics."""
        ...

    def loss(self, params: Any, outputs: Any, teacher: Any, batch: Any) -> tuple[Array, Metrics]:
        """The loss of these outputs, a scalar, and its parts."""
        ...

    def divergence(self, outputs: Any, densest: Any) -> Array:
        """How far outputs are from those of the densest subnet, a scalar."""
        ...

    def constrain(self, params: Any) -> Any:
        """The params projected to their range, after an update."""
        ...

    def metrics(self, params: Any) -> Metrics:
        """Metrics of the params for each line of metrics.jsonl."""
        ...


class Subject(Protocol):
    """One model in one run: its data, its arrays, and what is measured and delivered."""

    @property
    def task(self) -> Any:
        """The loss."""
        ...

    @property
    def params(self) -> Any:
        """Parameters before the first step, on the devices."""
        ...

    @property
    def stats(self) -> Any:
        """Running statistics before the first step, on the devices."""
        ...

    @property
    def fixed(self) -> Any:
        """Arrays that no step changes, on the devices."""
        ...

    @property
    def source(self) -> Source:
        """The training data."""
        ...

    @property
    def processor(self) -> Any:
        """Prepares images, and texts where the model reads any."""
        ...

    @property
    def validation(self) -> Source | None:
        """Data to evaluate on, or None."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        ...

    @property
    def dtype(self) -> Any:
        """The type of the network's activations."""
        ...

    def optimizer(
        self, steps: int, lr: float, warmup_steps: int
    ) -> tuple[optax.GradientTransformation, Any]:
        """The optimizer of all weights over a stage of `steps`, and its learning rate."""
        ...

    def norm_optimizer(self, steps: int, lr: float) -> optax.GradientTransformation | None:
        """The optimizer of one subnet's norms; None: the stage only measures statistics."""
        ...

    def specs(self, include: Sequence[str], exclude: Sequence[str]) -> dict[str, RowSpec]:
        """The kernels to sparsify, by name.

        Raises:
          ValueError: patterns that match nothing.
        """
        ...

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the scales and biases that a subnet may have for itself."""
        ...

    def model(self, network: nnx.State, stats: Any) -> Any:
        """The network of these arrays, for inference on this process's first device."""
        ...

    def evaluate(self, models: Sequence[Any]) -> list[dict[str, Any]]:
        """Measures each network on the validation data."""
        ...

    def pack(
        self,
        model: Any,
        masks: Masks,
        specs: Mapping[str, RowSpec],
        sparsities: Sequence[float],
        own: Sequence[Mapping[str, Any]],
    ) -> Any:
        """The packed family; `own` are each subnet's norms and statistics by name."""
        ...

    def save_inputs(self, folder: Path) -> None:
        """Writes what prepares the inputs of a packed family, beside it."""
        ...

    def costs(self, masks: Masks, k: int | None) -> dict[str, Any]:
        """Entries of summary.json on the cost of subnet k, or for None of the dense network."""
        ...


class NetworkSubject(Subject, Protocol):
    """A subject that can be fine-tuned: its network is delivered by itself."""

    def save(self, model: Any, folder: Path) -> None:
        """Writes a network and what prepares its inputs; by one process alone."""
        ...
