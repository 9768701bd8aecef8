"""DRESS of any image classifier, compiled: dense, joint and post-training steps, evaluation.

Axes: K subnets, M members of a step, B images, S side in pixels, C channels.

In a joint step its members go through one after another in a `lax.scan` (on CPU written out)
that adds up the gradient, so memory is that of one dense step and one more gradient. Which
subnets take part, and their weights, are arrays: the sandwich rule, say, needs no new program.
How masks follow the weights is a function of the caller's.

BatchNorm trains on the statistics of the batch, as each subnet finds them; running statistics
are kept for each subnet, and for the dense network last, at number -1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.dress.masks import Masks, apply
from codesign.dress.trees import named_leaves, pick, replace_leaves
from codesign.train.dress.classifier import Classifier, Variables

Array = jax.Array
Tree = TypeVar("Tree")
Metrics = dict[str, Array]


def decayed_kernels(params: nnx.State) -> Any:
    """True for the leaves called "kernel", which alone weight decay shrinks in a Flax model."""
    names = [name.split(".")[-1] == "kernel" for name in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), names)


def make_optimizer(
    kind: Literal["sgd", "adamw"], rate: optax.Schedule | float, weight_decay: float, decays: Any
) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum of 0.9, or AdamW.

    Args:
      kind: which.
      rate: learning rate, see `warmup_cosine`.
      weight_decay: with SGD as a term of the gradient, decoupled with AdamW.
      decays: tree of bools, which parameters it is for.
    """
    if kind == "adamw":
        return optax.adamw(rate, weight_decay=weight_decay, mask=decays)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decays),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )


class State(NamedTuple):
    """What a dense or a joint step changes.

    Attributes:
      params: shared by all subnets.
      stats: BatchNorm's running statistics, [K+1,...], of the dense network last.
      rest: of the network's state, at rest.
      masks: of the subnets, as of the last renewal.
      opt_state: the optimizer's.
      step: steps taken, [].
    """

    params: nnx.State
    stats: nnx.State
    rest: nnx.State
    masks: Masks
    opt_state: optax.OptState
    step: Array


class PostState(NamedTuple):
    """What a step of post-training changes: norms and statistics, and nothing else.

    Attributes:
      params: shared by all subnets, at rest.
      norms: each subnet's own, by name, [K,...].
      stats: each subnet's own, [K,...].
      rest: of the network's state, at rest.
      masks: of the subnets, at rest.
      opt_state: the optimizers', leaves [K,...].
      step: steps of this stage taken, [].
    """

    params: nnx.State
    norms: dict[str, Array]
    stats: nnx.State
    rest: nnx.State
    masks: Masks
    opt_state: optax.OptState
    step: Array


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierTrainer:
    """Everything a step needs that does not change; hashed by identity, static under jit.

    Attributes:
      classifier: the network.
      optimizer: of the dense and joint steps.
      masks_of: parameters -> masks of K subnets, pure.
      subnets: K.
      norms: names of the parameters that post-training makes each subnet's own.
      post_optimizer: of one subnet's norms; None: post-training only measures statistics.
      refresh_steps: joint steps between new masks.
      in_place: weight of the divergence from the first member's distribution in the others'
        loss; the first learns nothing from it.
      label_smoothing: share of a label's weight that is spread over all classes.
      momentum: share of the running statistics that stays in each step.
      vmapped: all members of a step at once: more memory.
    """

    classifier: Classifier
    optimizer: optax.GradientTransformation
    masks_of: Callable[[nnx.State], Masks]
    subnets: int
    norms: tuple[str, ...] = ()
    post_optimizer: optax.GradientTransformation | None = None
    refresh_steps: int = 10
    in_place: float = 0.0
    label_smoothing: float = 0.0
    momentum: float = 0.9
    vmapped: bool = False

    def begin(self, variables: Variables) -> State:
        """The state before the first step, of copies; every subnet has these statistics."""
        params, stats, rest = _copied(variables)
        return State(
            params=params,
            stats=_repeated(stats, self.subnets + 1),
            rest=rest,
            masks=jax.jit(self.masks_of)(params),
            opt_state=jax.jit(self.optimizer.init)(params),
            step=jnp.zeros((), jnp.int32),
        )

    def begin_joint(self, state: State) -> State:
        """After dense training: every subnet has the dense network's statistics."""
        dense = jax.tree.map(lambda x: x[-1], state.stats)
        return self.begin(Variables(state.params, dense, state.rest))

    def begin_post(self, state: State) -> PostState:
        """After joint training: masks of the final weights, norms to be each subnet's own."""
        params, stats, rest = _copied(Variables(state.params, state.stats, state.rest))
        norms = _repeated(pick(params, self.norms), self.subnets)
        optimizer = self.post_optimizer
        return PostState(
            params=params,
            norms=norms,
            stats=jax.tree.map(lambda x: x[:-1], stats),
            rest=rest,
            masks=jax.jit(self.masks_of)(params),
            opt_state=optax.EmptyState() if optimizer is None else jax.vmap(optimizer.init)(norms),
            step=jnp.zeros((), jnp.int32),
        )


@jax.jit
def _copied(variables: Variables) -> Variables:
    """In buffers of their own, which steps may take over."""
    return jax.tree.map(jnp.copy, variables)


@functools.partial(jax.jit, static_argnums=1)
def _repeated(tree: Tree, count: int) -> Tree:
    return jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), tree)


def member_variables(state: State | PostState, k: Array | int) -> Variables:
    """The arrays of subnet k, zeros in place; -1, of a `State` only, is the dense network."""
    params, k = apply(state.params, state.masks, k), jnp.asarray(k, jnp.int32)
    if isinstance(state, PostState):
        params = replace_leaves(params, {name: own[k] for name, own in state.norms.items()})
    return Variables(params, jax.tree.map(lambda x: x[k], state.stats), state.rest)


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Mean over the batch; `smoothing` is the share of the target spread over all classes."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def divergence(teacher: Array, logits: Array) -> Array:
    """KL(teacher || student) of logits [...,B,classes], mean over the batch, [...]."""
    losses = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits), jax.nn.log_softmax(teacher)
    )
    return jnp.mean(losses, axis=-1)


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def dense_step(
    state: State, images: Array, labels: Array, key: Array, trainer: ClassifierTrainer
) -> tuple[State, Metrics]:
    """One step of the dense network; masks stay as they are.

    Args:
      state: given up.
      images: uint8 [B,S,S,C].
      labels: int [B], in [0, classes).
      key: of the images' variation; the step is added to it.
      trainer: the constants.

    Returns:
      The next state, and the metrics "loss" and "grad_norm".
    """
    classifier = trainer.classifier
    varied = classifier.varied(images, jax.random.fold_in(key, state.step))

    def loss_of(params: nnx.State) -> tuple[Array, nnx.State]:
        variables = Variables(params, jax.tree.map(lambda x: x[-1], state.stats), state.rest)
        logits, seen = classifier.train(variables, varied)
        return cross_entropy(logits, labels, trainer.label_smoothing), seen

    (loss, seen), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    stats = _followed(state.stats, jnp.int32(-1), seen, 1 - trainer.momentum)
    state = _updated(state._replace(stats=stats), grads, trainer)
    return state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def joint_step(
    state: State, images: Array, labels: Array, members: Array, weights: Array, key: Array,
    trainer: ClassifierTrainer,
) -> tuple[State, Metrics]:
    """One step of several members together, and every `refresh_steps` new masks before it.

    Args:
      state: given up.
      images: uint8 [B,S,S,C].
      labels: int [B], in [0, classes).
      members: int32 [M], numbers of subnets; -1 is the dense network.
      weights: f32 [M], pi_k of each.
      key: of the images' variation, the same for all members; the step is added to it.
      trainer: the constants.

    Returns:
      The next state, and the metrics "loss", weighted, "subnet_loss" [M] and "grad_norm".
    """
    varied = trainer.classifier.varied(images, jax.random.fold_in(key, state.step))
    masks = jax.lax.cond(
        state.step % trainer.refresh_steps == 0,
        trainer.masks_of, lambda _: state.masks, state.params,
    )  # fmt: skip
    state = state._replace(masks=masks)
    losses, grads, stats = joint_gradient(state, varied, labels, members, weights, trainer)
    state = _updated(state._replace(stats=stats), grads, trainer)
    return state, {
        "loss": jnp.dot(weights, losses),
        "subnet_loss": losses,
        "grad_norm": optax.tree.norm(grads),
    }


def joint_gradient(
    state: State, images: Array, labels: Array, members: Array, weights: Array,
    trainer: ClassifierTrainer,
) -> tuple[Array, nnx.State, nnx.State]:
    """Losses [M], the gradient of their weighted sum, and the statistics afterwards.

    Args:
      state: parameters, statistics and masks.
      images: f32 [B,S,S,C], normalised.
      labels: int [B].
      members: int32 [M].
      weights: f32 [M].
      trainer: the constants.
    """
    if trainer.vmapped:
        return _gradient_at_once(state, images, labels, members, weights, trainer)

    def weighted(
        params: nnx.State, images: Array, k: Array, share: Array, teacher: Array, taught: Array
    ) -> tuple[Array, tuple[Array, Array, nnx.State]]:
        variables = member_variables(state._replace(params=params), k)
        logits, seen = trainer.classifier.train(variables, images)
        loss = cross_entropy(logits, labels, trainer.label_smoothing)
        if trainer.in_place:
            loss += trainer.in_place * taught * divergence(teacher, logits)
        return share * loss, (loss, logits, seen)

    def add(carry: Any, member: Any) -> tuple[Any, Array]:
        total, stats, teacher = carry
        k, share, taught = member
        gradient = jax.value_and_grad(weighted, has_aux=True)
        (_, (loss, logits, seen)), grads = gradient(
            state.params, images + _done(total), k, share, teacher, taught
        )
        total = jax.tree.map(jnp.add, total, grads)
        stats = _followed(stats, k, seen, 1 - trainer.momentum)
        return (total, stats, jnp.where(taught, teacher, logits)), loss

    classes = jax.eval_shape(
        lambda: trainer.classifier.train(member_variables(state, 0), images)[0]
    ).shape
    start = jax.tree.map(jnp.zeros_like, state.params), state.stats, jnp.zeros(classes)
    # All but the first member are taught by it.
    taught = jnp.arange(members.shape[0]) > 0
    (total, stats, _), losses = _one_after_another(add, start, (members, weights, taught))
    return losses, total, stats


def _gradient_at_once(
    state: State, images: Array, labels: Array, members: Array, weights: Array,
    trainer: ClassifierTrainer,
) -> tuple[Array, nnx.State, nnx.State]:
    """`joint_gradient` with the members vmapped."""

    def weighted(params: nnx.State) -> tuple[Array, tuple[Array, nnx.State]]:
        def member(k: Array) -> tuple[Array, nnx.State]:
            variables = member_variables(state._replace(params=params), k)
            return trainer.classifier.train(variables, images)

        logits, seen = jax.vmap(member)(members)
        losses = jax.vmap(cross_entropy, (0, None, None))(logits, labels, trainer.label_smoothing)
        if trainer.in_place:
            apart = divergence(jax.lax.stop_gradient(logits[0]), logits)
            losses += trainer.in_place * apart.at[0].set(0.0)
        return jnp.dot(weights, losses), (losses, seen)

    (_, (losses, seen)), grads = jax.value_and_grad(weighted, has_aux=True)(state.params)
    return losses, grads, _followed(state.stats, members, seen, 1 - trainer.momentum)


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def post_step(
    state: PostState, images: Array, labels: Array, key: Array, trainer: ClassifierTrainer
) -> tuple[PostState, Metrics]:
    """One step of every subnet's own norms, each under its own loss, and of its statistics.

    The statistics are means over the steps of this stage: plain ones where nothing is trained,
    else weighted by the number of the step, as the early ones are of norms that have changed.

    Args:
      state: given up.
      images: uint8 [B,S,S,C].
      labels: int [B], in [0, classes).
      key: of the images' variation; the step is added to it.
      trainer: the constants.

    Returns:
      The next state, and the metrics "loss", their mean, and "subnet_loss" [K].
    """
    classifier, optimizer = trainer.classifier, trainer.post_optimizer
    varied = classifier.varied(images, jax.random.fold_in(key, state.step))

    def loss_of(norms: dict[str, Array], k: Array, images: Array) -> tuple[Array, nnx.State]:
        variables = member_variables(state, k)
        params = replace_leaves(variables.params, norms)
        logits, seen = classifier.train(variables._replace(params=params), images)
        return cross_entropy(logits, labels, trainer.label_smoothing), seen

    def of_subnet(before: Array, subnet: tuple[Array, dict[str, Array]]) -> tuple[Array, Any]:
        k, norms = subnet
        if optimizer is None:
            result = loss_of(norms, k, varied + before), norms
        else:
            gradient = jax.value_and_grad(loss_of, has_aux=True)
            result = gradient(norms, k, varied + before)
        return _done(result), result

    numbers = jnp.arange(trainer.subnets)
    _, ((losses, seen), grads) = _one_after_another(
        of_subnet, jnp.zeros(()), (numbers, state.norms)
    )
    norms: Any = state.norms
    opt_state = state.opt_state
    if optimizer is not None:
        updates, opt_state = jax.vmap(optimizer.update)(grads, opt_state, norms)
        norms = optax.apply_updates(norms, updates)
    rate = 1 / (state.step + 1) if optimizer is None else 2 / (state.step + 2)
    stats = _followed(state.stats, numbers, seen, rate)
    state = state._replace(norms=norms, stats=stats, opt_state=opt_state, step=state.step + 1)
    return state, {"loss": jnp.mean(losses), "subnet_loss": losses}


def _done(results: Any) -> Array:
    """Zero, f32 [], which is not to be had before these results are.

    Of loops that are written out, XLA's CPU compiler would run the members side by side, with the
    memory of all of them; it drops optimization barriers too early to be told by these.
    """
    firsts = [x[(0,) * x.ndim].astype(jnp.float32) for x in jax.tree.leaves(results)]
    return jnp.minimum(jnp.abs(sum(firsts, jnp.zeros(()))), 0.0)


def _one_after_another(
    function: Callable[[Any, Any], tuple[Any, Any]], carry: Any, items: Any
) -> tuple[Any, Any]:
    """`jax.lax.scan`, but on CPU written out.

    XLA's CPU compiler has no fast gradient of a convolution inside a loop: that of 3 x 3 kernels
    takes 15 times as long there (openxla, as of jax 0.10; jax-ml/jax issue 12868). A scan of
    length 1 stays a loop even if it is told to unroll.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.scan(function, carry, items)
    results = []
    for i in range(jax.tree.leaves(items)[0].shape[0]):
        carry, result = function(carry, jax.tree.map(lambda x, i=i: x[i], items))
        results.append(result)
    return carry, jax.tree.map(lambda *x: jnp.stack(x), *results)


def _updated(state: State, grads: nnx.State, trainer: ClassifierTrainer) -> State:
    updates, opt_state = trainer.optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1)


def _followed(stats: nnx.State, k: Array, seen: nnx.State, rate: Array | float) -> nnx.State:
    """Running statistics after those of one or several members; all others stay."""
    return jax.tree.map(lambda old, new: old.at[k].add(rate * (new - old[k])), stats, seen)


@functools.partial(jax.jit, static_argnames="classifier")
def count_right(
    state: State | PostState, members: Array, images: Array, labels: Array, classifier: Classifier
) -> Array:
    """How many images of a batch each member gets right, int32 [M]; a label below 0 never is."""
    normalised = classifier.normalised(images)

    def of_member(k: Array) -> Array:
        logits = classifier.infer(member_variables(state, k), normalised)
        return jnp.sum(jnp.argmax(logits, axis=-1) == labels)

    return jax.lax.map(of_member, members)


def evaluate(
    state: State | PostState, members: Iterable[int], images: np.ndarray, labels: np.ndarray,
    classifier: Classifier, batch_size: int = 500,
) -> np.ndarray:
    """Share of images that each member gets right, float [M].

    Args:
      state: the network and its subnets.
      members: numbers of subnets; -1, of a `State` only, is the dense network.
      images: uint8 [N,S,S,C].
      labels: int [N].
      classifier: the network's.
      batch_size: images at a time; the last batch is filled up, so that one program serves all.
    """
    numbers = jnp.asarray(list(members), jnp.int32)
    right = np.zeros(len(numbers), np.int64)
    for start in range(0, len(images), batch_size):
        part, own = images[start : start + batch_size], labels[start : start + batch_size]
        missing = batch_size - len(part)
        part = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
        own = np.pad(own, (0, missing), constant_values=-1)
        right += np.asarray(count_right(state, numbers, part, own, classifier))
    return right / len(images)
