"""The steps of DRESS (Qu et al., CVPR-ECV 2022), compiled: joint training, and post-training.

Axes: K subnets, B pairs.

The joint loss is sum_k pi_k L_k, where L_k is the loss of the network with the zeros of subnet
k. Subnets go through one after another in a `lax.scan` that adds up the gradient, so memory is
that of one dense step and one more gradient; `vmapped` runs them at once instead. A weight
outside a subnet's mask gets no gradient from it. Masks are renewed every so many steps within
the program.
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

from codesign.dress.masks import Masks, apply, loss_weights, subnet_masks
from codesign.dress.rows import RowSpec
from codesign.dress.trees import replace_leaves
from codesign.models import ClipOutput, clamp_logit_scale
from codesign.train.data import ImageTextBatch
from codesign.train.dress.config import SubnetsConfig
from codesign.train.finetune.step import (
    Trainer,
    Weights,
    embed_in_parts,
    split_batch,
    weighted_losses,
)
from codesign.train.losses import distillation_loss, similarity_logits

Array = jax.Array
States = tuple[nnx.State, nnx.State]


class JointState(NamedTuple):
    """What a joint step changes.

    Attributes:
      weights: shared by all subnets.
      masks: of the subnets, as of the last renewal.
      opt_state: the optimizer's.
      step: joint steps taken, [].
    """

    weights: Weights
    masks: Masks
    opt_state: optax.OptState
    step: Array


class PostState(NamedTuple):
    """What a step of post-training changes: the norms, and nothing else.

    Attributes:
      weights: shared by all subnets, at rest.
      masks: likewise.
      norms: each subnet's own, by name, [K, ...].
      opt_state: the optimizers', leaves [K, ...].
      step: steps of this stage taken, [].
    """

    weights: Weights
    masks: Masks
    norms: dict[str, Array]
    opt_state: optax.OptState
    step: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Dresser:
    """Everything a step needs that does not change; hashed by identity, static under jit.

    Attributes:
      trainer: network, loss and optimizer of the joint stage.
      subnets: the subnets.
      specs: of the kernels that are pruned, by name.
      post_optimizer: of one subnet's norms.
    """

    trainer: Trainer
    subnets: SubnetsConfig
    specs: dict[str, RowSpec]
    post_optimizer: optax.GradientTransformation

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the members trained jointly, the densest first; -1 is the dense network."""
        subnets = tuple(range(len(self.subnets.sparsities)))
        return (-1, *subnets) if self.subnets.dense_member else subnets

    @property
    def shares(self) -> Array:
        """pi_k of the members."""
        sparsities = self.subnets.sparsities
        dense = (0.0,) if self.subnets.dense_member else ()
        return loss_weights((*dense, *sparsities), self.subnets.gamma)

    def masks(self, params: nnx.State) -> Masks:
        """The masks that suit the weights."""
        return subnet_masks(
            params, self.specs, self.subnets.sparsities,
            budget=self.subnets.budget, floor=self.subnets.floor,
        )  # fmt: skip

    @functools.cached_property
    def compiled_masks(self) -> Callable[[nnx.State], Masks]:
        """`masks` as a program of its own: two stages begin with it, and it is compiled once."""
        return jax.jit(self.masks)

    def begin_joint(self, weights: Weights) -> JointState:
        """The state before the first joint step."""
        return JointState(
            weights=weights,
            masks=self.compiled_masks(weights.clip),
            opt_state=self.trainer.optimizer.init(weights),
            step=jnp.zeros((), jnp.int32),
        )

    def begin_post(
        self, state: JointState | PostState, norms: dict[str, Array]
    ) -> PostState:
        """The state before the first step of post-training: every subnet has these norms."""
        count = len(self.subnets.sparsities)
        copies = {name: jnp.repeat(x[None], count, axis=0) for name, x in norms.items()}
        return PostState(
            weights=state.weights,
            masks=state.masks,
            norms=copies,
            opt_state=jax.vmap(self.post_optimizer.init)(copies),
            step=jnp.zeros((), jnp.int32),
        )


def member_loss(
    weights: Weights, rest: nnx.State, masks: Masks, k: Array | int, batch: ImageTextBatch,
    taught: ClipOutput | None, densest: ClipOutput | None, dresser: Dresser,
) -> tuple[Array, ClipOutput]:
    """L_k, with what the densest member teaches, and the embeddings."""
    trainer = dresser.trainer
    params = apply(weights.clip, masks, k)
    out = embed_in_parts(trainer.student, params, rest, batch, trainer.micro_batches)
    loss, _ = weighted_losses(out, weights.logit_bias, taught, batch.labels, trainer.loss)
    if densest is not None:
        apart = distillation_loss(similarity_logits(*out), similarity_logits(*densest))
        loss += dresser.subnets.in_place * apart
    return loss, out


def joint_gradient(
    weights: Weights, rest: nnx.State, masks: Masks, batch: ImageTextBatch,
    taught: ClipOutput | None, dresser: Dresser,
) -> tuple[Array, Weights]:
    """Losses of the members [K], and the gradient of their weighted sum."""
    gradient = jax.value_and_grad(member_loss, has_aux=True)
    members, shares = jnp.asarray(dresser.members, jnp.int32), dresser.shares
    first, total, densest = [], jax.tree.map(jnp.zeros_like, weights), None
    if dresser.subnets.in_place:
        # Only the others learn from it, so it has to come before them.
        (loss, densest), grads = gradient(
            weights, rest, masks, members[0], batch, taught, None, dresser
        )
        densest = jax.lax.stop_gradient(densest)
        first, total = [loss], jax.tree.map(lambda g: shares[0] * g, grads)
        members, shares = members[1:], shares[1:]

    def one(k: Array) -> tuple[Array, Weights]:
        (loss, _), grads = gradient(weights, rest, masks, k, batch, taught, densest, dresser)
        return loss, grads

    if dresser.subnets.vmapped:
        losses, grads = jax.vmap(one)(members)
        total = jax.tree.map(
            lambda t, g: t + jnp.tensordot(shares, g, axes=1), total, grads
        )
    else:

        def add(total: Weights, member: tuple[Array, Array]) -> tuple[Weights, Array]:
            k, share = member
            loss, grads = one(k)
            return jax.tree.map(lambda t, g: t + share * g, total, grads), loss

        total, losses = jax.lax.scan(add, total, (members, shares))
    return jnp.concatenate([jnp.asarray(first, jnp.float32), losses]), total


@functools.partial(jax.jit, static_argnames="dresser", donate_argnames="state")
def joint_step(
    state: JointState, rest: nnx.State, teacher: States | None, batch: ImageTextBatch,
    dresser: Dresser,
) -> tuple[JointState, dict[str, Array]]:
    """One step of all subnets together.

    Returns:
      The next state, and metrics: scalars, and "subnet_loss" [K], the densest member first.
    """
    trainer = dresser.trainer
    batch = split_batch(batch, trainer.mesh)
    masks = jax.lax.cond(
        state.step % dresser.subnets.refresh_steps == 0,
        dresser.masks, lambda _: state.masks, state.weights.clip,
    )  # fmt: skip
    losses, grads = joint_gradient(
        state.weights, rest, masks, batch, _taught(teacher, batch, trainer), dresser
    )
    updates, opt_state = trainer.optimizer.update(grads, state.opt_state, state.weights)
    weights: Any = optax.apply_updates(state.weights, updates)
    weights = Weights(clamp_logit_scale(weights.clip), weights.logit_bias)
    metrics = {
        "loss": jnp.dot(dresser.shares, losses),
        "subnet_loss": losses,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": trainer.learning_rate(state.step),
    }
    return JointState(weights, masks, opt_state, state.step + 1), metrics


@functools.partial(jax.jit, static_argnames="dresser", donate_argnames="state")
def post_step(
    state: PostState, rest: nnx.State, teacher: States | None, batch: ImageTextBatch,
    dresser: Dresser,
) -> tuple[PostState, dict[str, Array]]:
    """One step of every subnet's own norms, each under its own loss.

    Returns:
      The next state, and metrics: "loss", their mean, and "subnet_loss" [K].
    """
    batch = split_batch(batch, dresser.trainer.mesh)
    taught = _taught(teacher, batch, dresser.trainer)

    def gradient(subnet: tuple[Array, dict[str, Array]]) -> tuple[Array, dict[str, Array]]:
        k, norms = subnet

        def loss(norms: dict[str, Array]) -> Array:
            own = state.weights._replace(clip=replace_leaves(state.weights.clip, norms))
            return member_loss(own, rest, state.masks, k, batch, taught, None, dresser)[0]

        return jax.value_and_grad(loss)(norms)

    numbers = jnp.arange(len(dresser.subnets.sparsities))
    losses, grads = jax.lax.map(gradient, (numbers, state.norms))
    updates, opt_state = jax.vmap(dresser.post_optimizer.update)(
        grads, state.opt_state, state.norms
    )
    norms: Any = optax.apply_updates(state.norms, updates)
    state = state._replace(norms=norms, opt_state=opt_state, step=state.step + 1)
    return state, {"loss": jnp.mean(losses), "subnet_loss": losses}


def _taught(teacher: States | None, batch: ImageTextBatch, trainer: Trainer) -> ClipOutput | None:
    if trainer.teacher is None or teacher is None:
        return None
    return embed_in_parts(trainer.teacher, *teacher, batch, trainer.micro_batches)
