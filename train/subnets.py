"""The steps of DRESS (Qu et al., CVPR-ECV 2022) for any task: joint training, post-training.

Axes: K subnets, M of them in a joint step, dense network included, B examples.

The joint loss is sum_k pi_k L_k, where L_k is the loss of the network with the zeros of subnet
k. A `lax.scan` takes the subnets of a step one after another and adds up the gradient, so memory
is that of one dense step and one more gradient; `vmapped` runs them at once instead. A weight
outside a subnet's mask gets no gradient from it. Masks are renewed every so many steps within
the program. Which subnets take part, and their weights, are arrays: the sandwich rule, say,
needs no new program. `masks_of` computes the masks from the weights, so a new criterion of weight
sparsity is one function.

Running statistics, where a network has some, are kept for each subnet, and for the dense
network last, at number -1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from codesign.dress.masks import Masks, apply
from codesign.dress.trees import pick, replace_leaves
from codesign.runs import ROLLED_BACK
from codesign.train.rollback import all_finite, taken_if
from codesign.train.sharding import split, vdot
from codesign.train.step import MOMENTUM, first_state, updated
from codesign.train.task import Metrics, Task

Array = jax.Array
Tree = TypeVar("Tree")


class JointState(NamedTuple):
    """What a joint step changes.

    Attributes:
      params: shared by all subnets.
      stats: running statistics, [K+1, ...], of the dense network last; may be empty.
      masks: of the subnets, as of the last renewal.
      opt_state: the optimizer's.
      step: joint steps taken, [], without those that were rolled back.
    """

    params: Any
    stats: Any
    masks: Masks
    opt_state: optax.OptState
    step: Array


class PostState(NamedTuple):
    """What a step of post-training changes: norms and statistics, and nothing else.

    Attributes:
      params: shared by all subnets, at rest.
      masks: likewise.
      norms: each subnet's own, by name, [K, ...].
      stats: each subnet's own, [K, ...]; may be empty.
      opt_state: the optimizers', leaves [K, ...].
      step: steps of this stage taken, [], without those that were rolled back.
    """

    params: Any
    masks: Masks
    norms: dict[str, Array]
    stats: Any
    opt_state: optax.OptState
    step: Array


@dataclasses.dataclass(frozen=True, eq=False)
class SubnetTrainer:
    """Everything these steps need that does not change; hashed by identity, static under jit.

    Attributes:
      task: the loss.
      optimizer: of the joint steps.
      masks_of: the network's parameters -> masks of K subnets, pure.
      subnets: K.
      norms: names of the parameters that post-training makes each subnet's own.
      post_optimizer: of one subnet's norms; None: post-training only measures statistics.
      learning_rate: of the joint steps, for the metrics; None: not told.
      refresh_steps: joint steps between new masks.
      in_place: weight of the divergence from the first subnet's outputs in the others' loss;
        the first learns nothing from it.
      vmapped: all subnets of a step at once: more memory.
      begins_run: no dense stage comes before the joint one, so that its first step is the one in
        which the task sets what it has of a run's first batch.
      mesh: over which states are split, see `sharding.split`; None: over none.
    """

    task: Task
    optimizer: optax.GradientTransformation
    masks_of: Callable[[nnx.State], Masks]
    subnets: int
    norms: tuple[str, ...] = ()
    post_optimizer: optax.GradientTransformation | None = None
    learning_rate: optax.Schedule | None = None
    refresh_steps: int = 10
    in_place: float = 0.0
    vmapped: bool = False
    begins_run: bool = False
    mesh: Mesh | None = None

    def masks(self, params: Any) -> Masks:
        """The masks that suit the params."""
        return self.masks_of(self.task.network(params))

    @functools.cached_property
    def compiled_masks(self) -> Callable[[Any], Masks]:
        """`masks` as a program of its own: two stages begin with it, and it is compiled once."""

        def masks(params: Any) -> Masks:
            return split(self.masks(params), self.mesh)

        return jax.jit(masks)

    def begin(self, params: Any, stats: Any = ()) -> JointState:
        """The state before the first joint step; every subnet has these statistics."""
        return JointState(
            params=params,
            stats=_repeated(stats, self.subnets + 1),
            masks=self.compiled_masks(params),
            opt_state=first_state(self.optimizer, params, self.mesh),
            step=jnp.zeros((), jnp.int32),
        )

    def begin_post(self, state: JointState) -> PostState:
        """After joint training: masks of the final weights, norms to be each subnet's own."""
        # Copies: some leaves would be the params' own buffers, which the step is given as well.
        norms = _repeated(pick(self.task.network(state.params), self.norms), self.subnets)
        optimizer = self.post_optimizer
        return PostState(
            params=state.params,
            masks=self.compiled_masks(state.params),
            norms=norms,
            stats=jax.tree.map(lambda x: x[:-1], state.stats),
            opt_state=optax.EmptyState() if optimizer is None else jax.vmap(optimizer.init)(norms),
            step=jnp.zeros((), jnp.int32),
        )


@functools.partial(jax.jit, static_argnums=1)
def _repeated(tree: Tree, count: int) -> Tree:
    return jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), tree)


def subnet_of(state: JointState | PostState, k: Array | int, task: Task) -> tuple[Any, Any]:
    """Params of subnet k, zeros in place, and its statistics; -1 is the dense network.

    Of a `PostState`, which has no dense network, k is at least 0.
    """
    k = jnp.asarray(k, jnp.int32)
    network = apply(task.network(state.params), state.masks, k)
    if isinstance(state, PostState):
        network = replace_leaves(network, {name: own[k] for name, own in state.norms.items()})
    stats = jax.tree.map(lambda x: x[k], state.stats)
    return task.with_network(state.params, network), stats


def joint_gradient(
    state: JointState,
    fixed: Any,
    batch: Any,
    teacher: Any,
    numbers: Array,
    shares: Array,
    trainer: SubnetTrainer,
) -> tuple[Array, Any, Any]:
    """Losses [M], the gradient of their weighted sum, and the statistics afterwards.

    Args:
      state: params, statistics and masks.
      fixed: of the task.
      batch: prepared.
      teacher: outputs of the teacher, or None.
      numbers: int32 [M], numbers of subnets; -1 is the dense network.
      shares: f32 [M], pi_k of each.
      trainer: the constants.
    """
    task = trainer.task
    subnet_loss = _subnet_loss(state, fixed, teacher, trainer)
    gradient = jax.value_and_grad(subnet_loss, has_aux=True)
    total, stats = jax.tree.map(jnp.zeros_like, state.params), state.stats
    first: list[Array] = []
    densest = None
    if trainer.in_place:
        # Only the others learn from it, so it has to come before them.
        (loss, (densest, seen)), grads = gradient(state.params, numbers[0], batch, None)
        densest = jax.lax.stop_gradient(densest)
        first, total = [loss], jax.tree.map(lambda g: shares[0] * g, grads)
        stats = followed(stats, numbers[0], seen, 1 - MOMENTUM)
        numbers, shares = numbers[1:], shares[1:]
    if trainer.vmapped:
        (losses, (_, seen)), grads = jax.vmap(lambda k: gradient(state.params, k, batch, densest))(
            numbers
        )
        total = jax.tree.map(lambda t, g: t + jnp.tensordot(shares, g, axes=1), total, grads)
        stats = followed(stats, numbers, seen, 1 - MOMENTUM)
    else:

        def add(carry: Any, subnet: Any) -> tuple[Any, Array]:
            total, stats = carry
            k, share = subnet
            ready = after(total, batch, task)
            (loss, (_, seen)), grads = gradient(state.params, k, ready, densest)
            total = split(jax.tree.map(lambda t, g: t + share * g, total, grads), trainer.mesh)
            return (total, followed(stats, k, seen, 1 - MOMENTUM)), loss

        (total, stats), losses = one_after_another(add, (total, stats), (numbers, shares), task)
    return jnp.concatenate([jnp.asarray(first, jnp.float32), losses]), total, stats


def _subnet_loss(
    state: JointState, fixed: Any, teacher: Any, trainer: SubnetTrainer
) -> Callable[..., tuple[Array, Any]]:
    """(params, k, batch, outputs of the densest or None) -> loss, (outputs, statistics)."""
    task = trainer.task

    def loss_of(params: Any, k: Array, batch: Any, densest: Any) -> tuple[Array, Any]:
        own, stats = subnet_of(state._replace(params=params), k, task)
        outputs, seen = task.forward(own, stats, fixed, batch)
        loss, _ = task.loss(own, outputs, teacher, batch)
        if densest is not None:
            loss += trainer.in_place * task.divergence(outputs, densest)
        return loss, (outputs, seen)

    return loss_of


def _ready(
    state: JointState, fixed: Any, batch: Any, key: Array, trainer: SubnetTrainer
) -> tuple[JointState, Any, Any]:
    """The state with the masks of a step, its batch, and what a teacher says of it."""
    task = trainer.task
    batch = task.prepare(batch, jax.random.fold_in(key, state.step))
    if trainer.begins_run:
        first = task.first(state.params, fixed, batch, state.step)
        state = state._replace(params=first)
    masks = jax.lax.cond(
        state.step % trainer.refresh_steps == 0,
        trainer.masks,
        lambda _: state.masks,
        state.params,
    )
    return state._replace(masks=masks), batch, task.teacher_outputs(fixed, batch)


def joint_objective(
    state: JointState,
    fixed: Any,
    batch: Any,
    numbers: Array,
    shares: Array,
    key: Array,
    trainer: SubnetTrainer,
) -> tuple[Any, Callable[[Any], tuple[Array, Metrics]]]:
    """What a joint step differentiates: its params, and the weighted loss of all its subnets.

    The arguments are those of `joint_step`.
    """
    state, batch, teacher = _ready(state, fixed, batch, key, trainer)
    subnet_loss = _subnet_loss(state, fixed, teacher, trainer)

    def loss(params: Any) -> tuple[Array, Metrics]:
        def add(densest: Any, k: Array) -> tuple[Any, Array]:
            return densest, subnet_loss(params, k, batch, densest)[0]

        first, densest, others = [], None, numbers
        if trainer.in_place:
            value, (densest, _) = subnet_loss(params, numbers[0], batch, None)
            first, densest, others = [value], jax.lax.stop_gradient(densest), numbers[1:]
        _, values = one_after_another(add, densest, others, trainer.task)
        total = jnp.dot(shares, jnp.concatenate([jnp.asarray(first, jnp.float32), values]))
        return total, {"loss": total}

    return state.params, loss


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def joint_step(
    state: JointState,
    fixed: Any,
    batch: Any,
    numbers: Array,
    shares: Array,
    key: Array,
    trainer: SubnetTrainer,
) -> tuple[JointState, Metrics]:
    """One step of several subnets together, and every `refresh_steps` new masks before it.

    Where the loss or the gradient is not finite, the state stays as it is.

    Args:
      state: given up.
      fixed: of the task.
      batch: as the data give it, leaves [B, ...].
      numbers: int32 [M], numbers of subnets; -1 is the dense network.
      shares: f32 [M], pi_k of each.
      key: of random variation, the same for all subnets; the step is added to it.
      trainer: the constants.

    Returns:
      The next state, and metrics: scalars, and "subnet_loss" [M].
    """
    state, batch, teacher = _ready(state, fixed, batch, key, trainer)
    losses, grads, stats = joint_gradient(state, fixed, batch, teacher, numbers, shares, trainer)
    metrics = {
        "loss": jnp.dot(shares, losses),
        "subnet_loss": losses,
        "grad_norm": optax.tree.norm(grads),
        "grad_dot_params": vdot(grads, state.params, trainer.mesh),
    }
    if trainer.learning_rate is not None:
        metrics["learning_rate"] = jnp.asarray(trainer.learning_rate(state.step))
    finite = all_finite(metrics["loss"], metrics["grad_norm"])
    metrics[ROLLED_BACK] = ~finite

    def take() -> JointState:
        params, opt_state = updated(
            state.params, grads, state.opt_state, trainer.optimizer, trainer.task, trainer.mesh
        )
        return JointState(params, stats, state.masks, opt_state, state.step + 1)

    return split(taken_if(finite, take, state), trainer.mesh), metrics


def _own_loss(
    state: PostState, fixed: Any, batch: Any, key: Array, trainer: SubnetTrainer
) -> tuple[Any, Callable[..., tuple[Array, Any]]]:
    """The prepared batch, and (norms, k, batch) -> loss of subnet k with them, statistics."""
    task = trainer.task
    batch = task.prepare(batch, jax.random.fold_in(key, state.step))
    teacher = task.teacher_outputs(fixed, batch)

    def loss_of(norms: dict[str, Array], k: Array, batch: Any) -> tuple[Array, Any]:
        params, stats = subnet_of(state, k, task)
        own = task.with_network(params, replace_leaves(task.network(params), norms))
        outputs, seen = task.forward(own, stats, fixed, batch)
        return task.loss(own, outputs, teacher, batch)[0], seen

    return batch, loss_of


def post_objective(
    state: PostState, fixed: Any, batch: Any, key: Array, trainer: SubnetTrainer
) -> tuple[Any, Callable[[Any], tuple[Array, Metrics]]]:
    """What a step of post-training differentiates: all norms, and the mean of the losses.

    The arguments are those of `post_step`.
    """
    batch, loss_of = _own_loss(state, fixed, batch, key, trainer)

    def loss(norms: dict[str, Array]) -> tuple[Array, Metrics]:
        def of_subnet(carry: Any, subnet: tuple[Array, dict[str, Array]]) -> tuple[Any, Array]:
            k, own = subnet
            return carry, loss_of(own, k, batch)[0]

        subnets = jnp.arange(trainer.subnets), norms
        _, losses = one_after_another(of_subnet, None, subnets, trainer.task)
        return jnp.mean(losses), {"loss": jnp.mean(losses)}

    return state.norms, loss


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def post_step(
    state: PostState, fixed: Any, batch: Any, key: Array, trainer: SubnetTrainer
) -> tuple[PostState, Metrics]:
    """One step of every subnet's own norms, each under its own loss, and of its statistics.

    The statistics are means over the steps of this stage: plain ones where nothing is trained,
    else weighted by the number of the step, as the early ones are of norms that have changed.
    Where a loss or a gradient is not finite, the state stays as it is.

    Args:
      state: given up.
      fixed: of the task.
      batch: as the data give it.
      key: as in `joint_step`.
      trainer: the constants.

    Returns:
      The next state, and metrics: "loss", their mean, and "subnet_loss" [K].
    """
    task, optimizer = trainer.task, trainer.post_optimizer
    batch, loss_of = _own_loss(state, fixed, batch, key, trainer)

    def of_subnet(before: Any, subnet: tuple[Array, dict[str, Array]]) -> tuple[Any, Any]:
        k, norms = subnet
        ready = after(before, batch, task)
        if optimizer is None:
            result = loss_of(norms, k, ready), norms
        else:
            result = jax.value_and_grad(loss_of, has_aux=True)(norms, k, ready)
        return result[0][0], result

    numbers = jnp.arange(trainer.subnets)
    _, ((losses, seen), grads) = one_after_another(
        of_subnet, jnp.zeros(()), (numbers, state.norms), task
    )
    metrics = {"loss": jnp.mean(losses), "subnet_loss": losses}
    finite = jnp.isfinite(metrics["loss"])
    if optimizer is not None:
        finite = all_finite(metrics["loss"], optax.tree.norm(grads))
        metrics["grad_dot_params"] = optax.tree.vdot(grads, state.norms) / trainer.subnets

    def take() -> PostState:
        norms: Any = state.norms
        opt_state = state.opt_state
        if optimizer is not None:
            updates, opt_state = jax.vmap(optimizer.update)(grads, opt_state, norms)
            norms = optax.apply_updates(norms, updates)
        rate = 1 / (state.step + 1) if optimizer is None else 2 / (state.step + 2)
        stats = followed(state.stats, numbers, seen, rate)
        return state._replace(norms=norms, stats=stats, opt_state=opt_state, step=state.step + 1)

    state = split(taken_if(finite, take, state), trainer.mesh)
    return state, metrics | {ROLLED_BACK: ~finite}


def followed(stats: Tree, k: Array, seen: Any, rate: Array | float) -> Tree:
    """Running statistics after those of one or several subnets; all others stay."""
    return jax.tree.map(lambda old, new: old.at[k].add(rate * (new - old[k])), stats, seen)


def _written_out(task: Task) -> bool:
    return task.unrolled_on_cpu and jax.default_backend() == "cpu"


def after(results: Any, batch: Any, task: Task) -> Any:
    """The batch, not to be had before these results are where loops are written out.

    XLA's CPU compiler would run the subnets in parallel, with the memory of all of them; it
    drops optimization barriers too early to be told by these. So a zero made of the results is
    added to the images.
    """
    if not _written_out(task):
        return batch
    firsts = [x[(0,) * x.ndim].astype(jnp.float32) for x in jax.tree.leaves(results)]
    zero = jnp.minimum(jnp.abs(sum(firsts, jnp.zeros(()))), 0.0)
    return batch._replace(images=batch.images + zero.astype(batch.images.dtype))


def one_after_another(
    function: Callable[[Any, Any], tuple[Any, Any]], carry: Any, items: Any, task: Task
) -> tuple[Any, Any]:
    """`jax.lax.scan`, but on CPU written out for tasks that need it.

    XLA's CPU compiler has no fast gradient of a convolution inside a loop: that of 3 x 3 kernels
    takes 15 times as long there (openxla, as of jax 0.10; jax-ml/jax issue 12868). A scan of
    length 1 stays a loop even if it is told to unroll.
    """
    if not _written_out(task):
        return jax.lax.scan(function, carry, items)
    results = []
    for i in range(jax.tree.leaves(items)[0].shape[0]):
        carry, result = function(carry, jax.tree.map(lambda x, i=i: x[i], items))
        results.append(result)
    return carry, jax.tree.map(lambda *x: jnp.stack(x), *results)
