"""A family of CLIPs trained side by side, each with a relaxed design of its own.

Axes: N designs, B image-caption pairs, d coordinates of a relaxed design, c constraints.
One step function serves every phase: the warm-up is a family of one supernet, the joint
search moves weights and designs together, and tuning is the same with designs at rest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from codesign.architecture import Architecture
from codesign.cost.family import FamilyTable
from codesign.cost.model import Costs
from codesign.cost.table import CostTable
from codesign.models import CLIP, ClipOutput, Gates, clamp_logit_scale, gates_for
from codesign.search.lagrangian import AugmentedLagrangian
from codesign.search.objectives import Limits, Mode, excess, metric
from codesign.space import DesignSpace
from codesign.train import placement
from codesign.train.data import augment
from codesign.train.losses import contrastive_loss, distillation_loss, similarity_logits
from codesign.train.pruning import Pruning

Array = jax.Array


class Family(NamedTuple):
    """What a step changes; every leaf but `step` has a leading axis N.

    Attributes:
      params: weights of the gated supernets.
      opt_state: their optimizer's.
      z: relaxed designs in [0, 1], [N, d].
      z_state: their optimizer's.
      multipliers: of the constraints, [N, c].
      step: steps taken, over all phases, [].
    """

    params: nnx.State
    opt_state: optax.OptState
    z: Array
    z_state: optax.OptState
    multipliers: Array
    step: Array


class Members(NamedTuple):
    """What the members of a family are after; fixed within a phase.

    Attributes:
      targets: of the mode's cost, [N].
      searched: 1 where the design moves, 0 where it rests, [N].
      taught: 1 where the member learns from member 0, the supernet, [N].
      sparse: 1 where the member has subnets, 0 where it is dense, [N].
    """

    targets: Array
    searched: Array
    taught: Array
    sparse: Array


class Dataset(NamedTuple):
    """Training data on the device.

    Attributes:
      images: [n, S, S, C].
      labels: [n].
      caption_ids: [classes, templates, T].
    """

    images: Array
    labels: Array
    caption_ids: Array


class Draw(NamedTuple):
    """Which data the steps of a chunk see: image and template indices [steps, B]."""

    images: Array
    templates: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Everything a step needs that does not change; hashed by identity, static under jit.

    Attributes:
      graphdef: the supernet's graph.
      largest: the supernet's architecture.
      optimizer: of the weights of one member.
      design_optimizer: of the relaxed design of one member.
      lagrangian: how constraints are enforced.
      mode: which cost is made small.
      limits: hard limits.
      cost_weight: weight of the log cost itself.
      distillation: weight of the supernet's soft targets.
      shift: random shift of training images, pixels.
      flip: whether they may be mirrored.
      mesh: devices.
      pruning: what the subnets of sparse members are; none: all members are dense.
    """

    graphdef: nnx.GraphDef
    largest: Architecture
    optimizer: optax.GradientTransformation
    design_optimizer: optax.GradientTransformation
    lagrangian: AugmentedLagrangian
    mode: Mode
    limits: Limits
    cost_weight: float
    distillation: float
    shift: int
    flip: bool
    mesh: Mesh
    pruning: Pruning | None = None

    def init(self, params: nnx.State, z: Array, step: Array | int) -> Family:
        """Family of the members' weights [N, ...] and designs [N, d]."""
        constraints = 1 + len(self.limits.active())
        return Family(
            params=params,
            opt_state=jax.vmap(self.optimizer.init)(params),
            z=z,
            z_state=jax.vmap(self.design_optimizer.init)(z),
            multipliers=jax.vmap(lambda _: self.lagrangian.init(constraints))(z),
            step=jnp.asarray(step, jnp.int32),
        )


class Batch(NamedTuple):
    """One batch: images [B, S, S, C], token ids [B, T], labels [B]."""

    images: Array
    ids: Array
    labels: Array


@jax.jit
def member_params(params: nnx.State, member: Array | int) -> nnx.State:
    """The weights of one member; compiled whole, not a slice at a time."""
    return jax.tree.map(lambda x: x[member], params)


class Tables(NamedTuple):
    """Exact costs of all designs: of dense networks and, where there are any, of families."""

    dense: CostTable
    sparse: FamilyTable | None = None

    def of(self, sparse: bool) -> CostTable | FamilyTable:
        """The table of a member."""
        return self.sparse if sparse and self.sparse is not None else self.dense

    def relaxed(self, z: Array, sparse: Array) -> Costs:
        """Costs at a relaxed design z [d] of a member that is sparse or not."""
        costs = self.dense.relaxed(z)
        if self.sparse is None:
            return costs
        return jax.tree.map(
            lambda a, b: jnp.where(sparse > 0, a, b), self.sparse.relaxed(z), costs
        )


def member_gates(z: Array, rest: nnx.State, space: DesignSpace) -> Gates:
    """Gates of the relaxed design z [d]."""
    architecture, _ = space.relax(z)
    ranks = [rest[tower]["blocks"]["layer_rank"][...] for tower in ("vision", "text")]
    return gates_for(architecture, space, *ranks)


def member_masks(
    params: nnx.State, z: Array, rest: nnx.State, space: DesignSpace, trainer: Trainer
) -> dict[str, Array]:
    """Masks of one member at the relaxed design z [d]; none where there are no subnets."""
    if trainer.pruning is None:
        return {}
    return trainer.pruning.masks(params, member_gates(z, rest, space))


def embed(
    trainer: Trainer, params: nnx.State, rest: nnx.State, gates: Gates | None, images: Array,
    ids: Array,
) -> ClipOutput:
    """Embeddings of one member."""
    model: CLIP = nnx.merge(trainer.graphdef, params, rest)
    return model(images, ids, gates)[0]


def outputs(
    trainer: Trainer, params: nnx.State, rest: nnx.State, z: Array, sparse: Array,
    masks: dict[str, Array], batch: Batch, space: DesignSpace,
) -> tuple[ClipOutput, Array]:
    """Embeddings of every subnet of one member, [K, ...], and their weights in its loss [K].

    Without subnets a member is one network; a dense member among others is K times the same.
    """
    gates = member_gates(z, rest, space)
    pruning = trainer.pruning
    if pruning is None:
        out = embed(trainer, params, rest, gates, batch.images, batch.ids)
        return jax.tree.map(lambda x: x[None], out), jnp.ones((1,))
    subnets = pruning.subnets(params, masks, space.level_weights(z), sparse)
    return jax.vmap(
        lambda params: embed(trainer, params, rest, gates, batch.images, batch.ids)
    )(subnets), jnp.asarray(pruning.weights)


def plain_loss(
    trainer: Trainer, params: nnx.State, rest: nnx.State, gates: Any, batch: Batch
) -> jax.Array:
    """Contrastive loss of one gated member on one batch, no augmentation."""
    out = embed(trainer, params, rest, gates, batch.images, batch.ids)
    return contrastive_loss(*out, batch.labels)


def gather_batch(
    trainer: Trainer, data: Dataset, images: Array, templates: Array, key: Array
) -> Batch:
    """The drawn images, augmented, and their captions, split over the devices."""
    split = functools.partial(
        jax.lax.with_sharding_constraint, shardings=placement.batched(trainer.mesh)
    )
    labels = split(data.labels[images])
    pixels = augment(key, data.images[images], trainer.shift, trainer.flip)
    return Batch(split(pixels), split(data.caption_ids[labels, templates]), labels)


def family_loss(
    params: nnx.State, z: Array, multipliers: Array, members: Members, batch: Batch,
    rest: nnx.State, tables: Tables, trainer: Trainer, gated: bool,
    masks: dict[str, Array] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Sum over members of contrastive, distillation and constraint terms, and metrics [N].

    A member's loss is the weighted mean of its subnets'. No term of one member
    depends on the weights or design of another (the supernet's logits, which teach the
    others, are not differentiated), so the gradient of the sum is every member's own.

    Args:
      masks: of every member, leaves [N, ...]; `member_masks`.
    """
    if not gated:
        out = jax.vmap(
            lambda params: embed(trainer, params, rest, None, batch.images, batch.ids)
        )(params)
        task = jax.vmap(contrastive_loss, in_axes=(0, 0, 0, None))(*out, batch.labels)
        return jnp.sum(task), {"loss": task}

    space = tables.dense.space
    # Embeddings [N, K, ...] and weights [N, K].
    out, weights = jax.vmap(
        lambda p, z, sparse, m: outputs(trainer, p, rest, z, sparse, m, batch, space)
    )(params, z, members.sparse, masks or {})
    of_subnets = jax.vmap(jax.vmap(contrastive_loss, in_axes=(0, 0, 0, None)), (0, 0, 0, None))
    task = jnp.sum(weights * of_subnets(*out, batch.labels), axis=1)
    total = jnp.sum(task)

    logits = jax.vmap(jax.vmap(similarity_logits))(*out)
    distil = jax.vmap(jax.vmap(distillation_loss, in_axes=(0, None)), (0, None))
    taught = jnp.sum(weights * distil(logits, jax.lax.stop_gradient(logits[0, 0])), axis=1)
    total += trainer.distillation * jnp.sum(members.taught * taught)

    costs = jax.vmap(tables.relaxed)(z, members.sparse)
    over = jax.vmap(excess, in_axes=(0, None, None, 0))(
        costs, trainer.limits, trainer.mode, members.targets
    )
    value = metric(costs, trainer.mode)
    penalty = jax.vmap(trainer.lagrangian.penalty)(multipliers, over)
    total += jnp.sum(members.searched * (trainer.cost_weight * jnp.log(value) + penalty))
    return total, {
        "loss": task,
        "distillation_loss": taught,
        "carbon_kgco2e": costs.carbon_kgco2e,
        "latency_s": costs.latency_s,
        "energy_j": costs.energy_j,
        "area_mm2": costs.area_mm2,
        "excess": over,
        "indices": space.indices(z),
    }


def train_step(
    family: Family, members: Members, batch: Batch, rest: nnx.State, tables: Tables,
    trainer: Trainer, gated: bool, masks: dict[str, Array] | None = None,
) -> tuple[Family, dict[str, Array]]:
    """One step of every member: weights, design and multipliers."""
    (_, metrics), (grads, z_grads) = jax.value_and_grad(family_loss, (0, 1), has_aux=True)(
        family.params, family.z, family.multipliers, members, batch, rest, tables, trainer,
        gated, masks,
    )  # fmt: skip
    metrics["grad_norm"] = jax.vmap(optax.tree.norm)(grads)
    metrics["grad_dot_params"] = jax.vmap(optax.tree.vdot)(grads, family.params)
    updates, opt_state = jax.vmap(trainer.optimizer.update)(
        grads, family.opt_state, family.params
    )
    params = clamp_logit_scale(optax.apply_updates(family.params, updates))
    family = family._replace(params=params, opt_state=opt_state, step=family.step + 1)
    if not gated:
        return family, metrics
    moves, z_state = jax.vmap(trainer.design_optimizer.update)(z_grads, family.z_state, family.z)
    z = optax.projections.projection_box(
        family.z + members.searched[:, None] * moves, 0.0, 1.0
    )
    multipliers = jax.vmap(trainer.lagrangian.update)(family.multipliers, metrics["excess"])
    return family._replace(z=z, z_state=z_state, multipliers=multipliers), metrics


def family_masks(
    family: Family, rest: nnx.State, tables: Tables, trainer: Trainer, gated: bool
) -> dict[str, Array]:
    """Masks of every member, leaves [N, ...]; none in the warm-up."""
    if not gated:
        return {}
    space = tables.dense.space
    return jax.vmap(lambda p, z: member_masks(p, z, rest, space, trainer))(
        family.params, family.z
    )


def objective(
    family: Family, members: Members, draw: Draw, data: Dataset, key: Array, rest: nnx.State,
    tables: Tables, trainer: Trainer, gated: bool,
) -> tuple[nnx.State, Callable[[nnx.State], tuple[Array, dict[str, Array]]]]:
    """What the first step of a chunk differentiates: the weights, and `family_loss` of others.

    The arguments are those of `train_chunk`.
    """
    step_key = jax.random.fold_in(key, family.step)
    batch = gather_batch(trainer, data, draw.images[0], draw.templates[0], step_key)
    masks = family_masks(family, rest, tables, trainer, gated)
    return family.params, lambda params: family_loss(
        params, family.z, family.multipliers, members, batch, rest, tables, trainer, gated, masks
    )


@functools.partial(
    jax.jit, static_argnames=("trainer", "gated"), donate_argnames=("family",)
)
def train_chunk(
    family: Family, members: Members, draw: Draw, data: Dataset, key: Array, rest: nnx.State,
    tables: Tables, trainer: Trainer, gated: bool,
) -> tuple[Family, dict[str, Array]]:
    """The steps of a chunk in one compiled loop; metrics are stacked, [steps, N, ...].

    Masks of subnets are those of the weights and designs at the chunk's start.
    """
    masks = family_masks(family, rest, tables, trainer, gated)

    def step(family: Family, drawn: Draw) -> tuple[Family, Any]:
        step_key = jax.random.fold_in(key, family.step)
        batch = gather_batch(trainer, data, drawn.images, drawn.templates, step_key)
        return train_step(family, members, batch, rest, tables, trainer, gated, masks)

    return jax.lax.scan(step, family, draw)
