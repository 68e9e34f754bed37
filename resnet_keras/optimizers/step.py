"""What every optimizer does around its arithmetic: check, clip, accumulate, average."""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops


class Optimizer(keras.optimizers.Optimizer):
    """What every step does around its arithmetic, in the order of the papers' code.

    The gradient of the whole batch (summed over the replicas, then averaged over the
    micro-batches) is freed from the loss scale; if it is finite, it is clipped, a subclass' `move`
    makes the step, and the average of the weights follows. If it is not, nothing moves but the
    loss scale. All of that happens after the sum over the replicas: what one of them overflowed is
    not finite in the sum either, and a norm is that of the batch (stock Keras looks at replica 0
    only, clips each replica's share, and cannot accumulate under a strategy). There are no
    branches: a step that must not happen is computed and not taken, so that a GPU never waits.

    Args:
        learning_rate: a float, 0 or more, or a schedule; a schedule is asked by the number of the
            step, those without effect counted in.
        weight_decay: factor of the L2 penalty, 0 or more.
        exclude: words; a parameter whose path has one of them is not decayed (e.g.
            `("bias", "gamma", "beta")`).
        clip_norm: the L2 norm of all gradients together is cut to this.
        clip_value: each number of the gradient is cut to this magnitude.
        accumulate: micro-batches whose mean gradient makes one step.
        loss_scale: what the loss is multiplied with, so that float16 gradients do not vanish;
            steps with gradients that are not finite are then left out. None: neither.
        growth_steps: None: the scale stays (Micikevicius et al. 2017, section 3.2). Else it is
            halved (not below 1) when a step is left out, and doubled after so many good ones.
        ema: in [0, 1): decay of the exponential moving average of the weights; the first step
            copies them. 0: none is kept.
        name: of the optimizer.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        learning_rate,
        *,
        weight_decay: float = 0.0,
        exclude: Sequence[str] = (),
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        loss_scale: float | None = None,
        growth_steps: int | None = None,
        ema: float = 0.0,
        name: str,
    ):
        if isinstance(learning_rate, float | int) and not 0 <= learning_rate < math.inf:
            raise ValueError(
                f"`learning_rate` must be >= 0. Received: learning_rate={learning_rate}"
            )
        if isinstance(exclude, str):  # its letters would be the words
            raise ValueError(f"`exclude` must be a tuple of words. Received: exclude={exclude!r}")
        if weight_decay < 0:
            raise ValueError(f"`weight_decay` must be >= 0. Received: weight_decay={weight_decay}")
        limits = {"clip_norm": clip_norm, "clip_value": clip_value, "loss_scale": loss_scale}
        for argument, value in limits.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{argument}` must be above 0. Received: {argument}={value}")
        for argument, value in {"accumulate": accumulate, "growth_steps": growth_steps}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{argument}` must be 1 or more. Received: {argument}={value}")
        if not 0 <= ema < 1:
            raise ValueError(f"`ema` must be in [0, 1). Received: ema={ema}")
        super().__init__(learning_rate, name=name)  # Keras' own decay, clipping, EMA stay off
        self.l2 = weight_decay
        self.exclude = tuple(exclude)
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.accumulate = accumulate
        self.loss_scale, self.growth_steps = loss_scale, growth_steps
        self.ema = ema
        # Hidden in a namespace: Keras would take the model's variables for the optimizer's.
        self._followed = SimpleNamespace(variables=[])

    def move(self, place: int, gradient, variable, rate) -> tuple[Any, list[tuple]]:
        """Compute one variable's step; for subclasses.

        Args:
            place: number of the variable; `self.decayed[place]` says whether it decays.
            gradient: of the batch, of the variable's shape and dtype.
            variable: what moves.
            rate: the learning rate, of the variable's dtype.

        Returns:
            The new value, and pairs `(own variable, its new value)`. Nothing is assigned.
        """
        raise NotImplementedError

    def build(self, variables):
        """Create the optimizer's own variables, and note which of `variables` decay."""
        if self.built:
            return
        super().build(variables)
        self.decayed = [not any(word in v.path for word in self.exclude) for v in variables]
        self.updates = self.add_variable((), dtype="int", name="updates")
        self.sums = self._slots("sum", variables) if self.accumulate > 1 else []
        self.averages = self._slots("average", variables) if self.ema else []
        if self.loss_scale:
            initial = keras.initializers.Constant(self.loss_scale)
            self.scale = self.add_variable((), initial, "float32", name="loss_scale")
            self.good_steps = self.add_variable((), dtype="int", name="good_steps")

    def follow(self, variables: Iterable) -> None:
        """Average these too: batch norm's statistics, which belong to the averaged weights.

        On JAX the step does not see them; whoever trains must call `follow_stateless` after it.

        Args:
            variables: which the forward pass moves. To be called after `build`.
        """
        if self.ema:
            # States of random generators are no numbers to average.
            floats = [v for v in variables if keras.backend.is_float_dtype(v.dtype)]
            self._followed.variables += floats
            self.averages = [*self.averages, *self._slots("average", floats)]

    def follow_stateless(self, before: list, after: list, values: dict[int, Any]) -> list:
        """Move the averages of what `follow` follows, in a step without state.

        Args:
            before: values of `self.variables` before the step.
            after: and after it.
            values: of the model's variables after the step, by `id(variable)`.

        Returns:
            `after`, with these averages moved if the step was taken.
        """
        place = {id(variable): number for number, variable in enumerate(self.variables)}
        updates = place[id(self.updates)]
        taken = after[updates] > before[updates]
        first = ops.equal(before[updates], 0)
        after, followed = list(after), self._followed.variables
        averages = self.averages[len(self.averages) - len(followed) :]
        for average, variable in zip(averages, followed, strict=True):
            old, new = before[place[id(average)]], values[id(variable)]
            after[place[id(average)]] = self._mixed(old, new, first, taken)
        return after

    def exchange(self) -> None:
        """Swap the weights and their averages, once the first step is made; twice: as before."""
        if not self.ema or not int(_copy(self.updates)):
            return
        weights = [*self._trainable_variables, *self._followed.variables]
        for weight, average in zip(weights, self.averages, strict=True):
            old, new = _copy(weight), _copy(average)
            weight.assign(new)
            average.assign(old)

    def scale_loss(self, loss):
        """Multiply the loss with the loss scale; Keras' training step calls it."""
        if not self.loss_scale:
            return loss
        return loss * ops.cast(self.scale if self.built else self.loss_scale, loss.dtype)

    @property
    def iterations(self):
        """Batches seen; micro-batches are parts of one."""
        if self.accumulate == 1:
            return self._iterations
        return ops.floor_divide(self._iterations, self.accumulate)

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        config = super().get_config()
        return {
            "name": config["name"],
            "learning_rate": config["learning_rate"],
            "weight_decay": self.l2,
            "exclude": self.exclude,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "accumulate": self.accumulate,
            "loss_scale": self.loss_scale,
            "growth_steps": self.growth_steps,
            "ema": self.ema,
        }

    def update_step(self, value, variable, learning_rate):
        """Write a new value; on TensorFlow, Keras calls it once for each replica."""
        self.assign(variable, value)

    def _get_current_learning_rate(self):
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _backend_apply_gradients(self, grads, trainable_variables):
        # Stock Keras clips, decays and accumulates here, before the sum over the replicas.
        self._backend_update_step(grads, trainable_variables, None)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        # On TensorFlow the parent sums over the replicas with the method below, then writes. On
        # other backends there is nothing to sum.
        if keras.backend.backend() != "tensorflow":
            grads = self._new_values(grads, trainable_variables)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        summed, variables = zip(*super()._all_reduce_sum_gradients(grads_and_vars), strict=True)
        return list(zip(self._new_values(summed, variables), variables, strict=True))

    def _new_values(self, gradients, variables) -> list:
        """The step: from gradients, summed over the replicas, to the variables' new values.

        Variables of the optimizer's own are assigned: each replica has the same numbers in its
        copies. Those of the model are shared, so Keras must write them.
        """
        places = [self._get_variable_index(variable) for variable in variables]
        variables = [self._trainable_variables[place] for place in places]
        gradients = [ops.cast(g, v.dtype) for g, v in zip(gradients, variables, strict=True)]
        gradients, whole = self._accumulated(places, gradients)
        gradients, finite = self._unscaled(gradients, whole)
        gradients = self._clipped(gradients)
        taken = _both(whole, finite)

        rate, values = self.learning_rate, []
        for place, gradient, variable in zip(places, gradients, variables, strict=True):
            with _behind(gradient):
                moved = self.move(place, gradient, variable, ops.cast(rate, variable.dtype))
            values.append(_if(taken, moved[0], variable))
            for own, value in moved[1]:
                self.assign(own, _if(taken, value, own))
        self._average(places, values, taken)
        one = 1 if taken is None else ops.cast(taken, self.updates.dtype)
        self.assign_add(self.updates, one)
        return values

    def _accumulated(self, places, gradients):
        """The mean gradient of the micro-batches so far, and whether the batch is whole."""
        if self.accumulate == 1:
            return gradients, None
        whole = ops.equal((self._iterations + 1) % self.accumulate, 0)
        totals = [self.sums[place] + g for place, g in zip(places, gradients, strict=True)]
        for place, total in zip(places, totals, strict=True):
            self.assign(self.sums[place], _if(whole, ops.zeros_like(total), total))
        return [total / self.accumulate for total in totals], whole

    def _unscaled(self, gradients, whole):
        """Gradients without the loss scale, and whether all are finite; then moves the scale."""
        if not self.loss_scale:
            return gradients, None
        finite = ops.all(ops.stack([ops.all(ops.isfinite(g)) for g in gradients]))
        unscaled = [g / ops.cast(self.scale, g.dtype) for g in gradients]
        if self.growth_steps:
            good = ops.where(finite, self.good_steps + 1, 0)
            grow = ops.equal(good, self.growth_steps)
            scale = _if(grow, self.scale * 2, self.scale)
            scale = _if(finite, scale, ops.maximum(self.scale / 2, 1.0))
            self.assign(self.scale, _if(whole, scale, self.scale))
            self.assign(self.good_steps, _if(whole, ops.where(grow, 0, good), self.good_steps))
        return unscaled, finite

    def _clipped(self, gradients):
        """Gradients cut by value, then by their norm."""
        if self.clip_value is not None:
            gradients = [ops.clip(g, -self.clip_value, self.clip_value) for g in gradients]
        if self.clip_norm is not None:
            factor = ops.minimum(1.0, self.clip_norm / norm(gradients))
            gradients = [g * ops.cast(factor, g.dtype) for g in gradients]
        return gradients

    def _average(self, places, values, taken) -> None:
        """Let the averages follow the variables' new values."""
        if not self.ema:
            return
        moved = dict(zip(places, values, strict=True))
        news = [moved.get(place, v) for place, v in enumerate(self._trainable_variables)]
        if keras.backend.backend() == "tensorflow":
            news += self._followed.variables
        first = ops.equal(self.updates, 0)
        for average, new in zip(self.averages, news, strict=False):  # on JAX, followed ones wait
            self.assign(average, self._mixed(average, new, first, taken))

    def _mixed(self, average, new, first, taken):
        """What an average becomes by a new value."""
        mixed = self.ema * average + (1 - self.ema) * new
        return _if(taken, _if(first, new, mixed), average)

    def _slots(self, name, variables) -> list:
        """One variable of the optimizer's own, zeros at first, for each of the model's."""
        return [self.add_variable_from_reference(variable, name=name) for variable in variables]


def norm(tensors: Iterable):
    """L2 norm of all the numbers of some tensors."""
    return ops.sqrt(sum(ops.sum(ops.square(tensor)) for tensor in tensors))


def _behind(tensor):
    """What is computed within waits for a tensor.

    TensorFlow would else compute whatever asks for variables only, a decay of each, before the
    forward pass, and keep it in memory all the while.
    """
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf  # not above: with the JAX backend there may be no TensorFlow

    return tf.control_dependencies([tensor])


def _copy(variable):
    """A variable's value, which does not change when the variable does."""
    if keras.backend.backend() == "tensorflow":
        # A tensor first: what lives on several replicas is no array by itself.
        return np.array(ops.convert_to_numpy(ops.convert_to_tensor(variable)))
    return variable.value  # values of other backends never change


def _both(one, other):
    """Logical and of two conditions, of which None is always true."""
    if one is None or other is None:
        return other if one is None else one
    return ops.logical_and(one, other)


def _if(condition, new, old):
    """`new` where the condition holds (None always does), else `old`."""
    if condition is None:
        return new
    # JAX's `where` takes no Keras variables.
    return ops.where(condition, ops.convert_to_tensor(new), ops.convert_to_tensor(old))
