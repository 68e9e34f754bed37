"""What every optimizer does around its arithmetic: check, clip, accumulate, scale, average."""

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from resnet_keras.optimizers.averaging import Averaging
from resnet_keras.optimizers.backend import behind, copied, summed


class Optimizer(keras.optimizers.Optimizer):
    """What every step does around its arithmetic, in the order of the papers' code.

    The gradient of the whole batch (summed over the replicas, then averaged over the
    micro-batches) is divided by the loss scale; if it is finite, it is clipped, the subclass'
    `compute_update` makes the step, and the averages of the weights follow. If it is not, nothing
    changes but the loss scale. All of that happens after the sum over the replicas: what
    overflowed on one of them is not finite in the sum either, and a norm is that of the batch
    (stock Keras looks at replica 0 only, clips each replica's share, and cannot accumulate under a
    strategy). There are no branches: a step that must not happen is computed and discarded, so
    that a GPU never waits.

    A subclass lists its own arguments as keyword-only parameters, keeps each as the attribute of
    that name, creates its variables in `build`, and computes one variable's step in
    `compute_update`.

    Args:
        learning_rate: a float, 0 or more, or a schedule, which is given the number of the step;
            steps that were discarded count too.
        weight_decay: factor of the L2 penalty, 0 or more.
        exclude: words; a parameter whose path contains one of them is not decayed (e.g.
            `("bias", "gamma", "beta")`).
        clip_norm: upper limit of the L2 norm of all gradients together; None: no limit.
        clip_value: upper limit of the magnitude of each number of the gradient; None: no limit.
        accumulate: number of micro-batches whose mean gradient makes one step, 1 or more.
        loss_scale: factor of the loss, so that float16 gradients do not vanish; steps with
            gradients that are not finite are then discarded. None: neither.
        growth_steps: None: the loss scale is constant (Micikevicius et al. 2017, section 3.2).
            Else it is halved (not below 1) when a step is discarded, and doubled after this many
            steps in a row that were not.
        ema: decay of the exponential moving average of the weights, in [0, 1); the first step
            copies them. 0: no averages are kept. An `Averaging`: they do not move in every step.
        name: of the optimizer; by default that of its class in lower case.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any,
        *,
        weight_decay: float = 0.0,
        exclude: Sequence[str] = (),
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        loss_scale: float | None = None,
        growth_steps: int | None = None,
        ema: float | Averaging | Sequence = 0.0,
        name: str | None = None,
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
        # A list is what JSON makes of an `Averaging`.
        averaging = Averaging(*ema) if isinstance(ema, Sequence) else Averaging(ema)
        averaging.check()
        # Keras' own decay, clipping, accumulation and averages stay off.
        super().__init__(learning_rate, name=name or type(self).__name__.lower())
        self.weight_decay = weight_decay
        self.exclude = tuple(exclude)
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.accumulate = accumulate
        self.loss_scale, self.growth_steps = loss_scale, growth_steps
        self.ema = averaging if isinstance(ema, Sequence) else ema
        # In namespaces: Keras would take variables of the model for the optimizer's own, and a
        # schedule for something to track.
        self._given = SimpleNamespace(learning_rate=learning_rate, averaging=averaging)
        self._model = SimpleNamespace(weights=[], statistics=[], places={})
        # What Keras' training step has called; see `_check_calls`.
        self._calls = SimpleNamespace(scale_loss=0, averaging=False)

    def compute_update(
        self, index: int, gradient: Any, variable: Any, learning_rate: Any
    ) -> tuple[Any, list[tuple]]:
        """Compute one variable's step; for subclasses.

        Args:
            index: number of the variable; `self.decayed[index]` tells whether it decays.
            gradient: of the batch; the shape and dtype of the variable.
            variable: the model's variable before the step.
            learning_rate: a scalar of the variable's dtype.

        Returns:
            The new value, and pairs `(own variable, its new value)`. Nothing is assigned.
        """
        raise NotImplementedError

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the optimizer's own variables, and note which of `variables` decay.

        Raises:
            ValueError: the gradient of a variable is to become its value, as in Keras' float8.
        """
        if self.built:
            return
        for variable in variables:
            if getattr(variable, "overwrite_with_gradient", False):
                raise ValueError(
                    "variables of float8 layers cannot be trained with this optimizer. "
                    f"Received: {variable.path}"
                )
        super().build(variables)
        self._model.weights = list(variables)
        self._model.places = {id(variable): place for place, variable in enumerate(variables)}
        self.decayed = [not any(word in v.path for word in self.exclude) for v in variables]
        self.updates = self.add_variable((), dtype="int", name="updates")
        self.sums = self.add_slots("sum", variables) if self.accumulate > 1 else []
        self.averages = self.add_slots("average", variables) if self.ema else []
        if self.loss_scale:
            initial = keras.initializers.Constant(self.loss_scale)
            self.scale = self.add_variable((), initial, "float32", name="loss_scale")
            self.good_steps = self.add_variable((), dtype="int", name="good_steps")

    def add_slots(self, name: str, variables: Iterable[keras.Variable]) -> list[keras.Variable]:
        """Create a variable of the optimizer's own, initially zeros, for each of the model's."""
        return [self.add_variable_from_reference(variable, name=name) for variable in variables]

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> None:
        """Make a step, or take in a micro-batch.

        Keras' training step calls it: on TensorFlow in each replica, on JAX in a stateless scope.

        Args:
            grads: gradients of the scaled loss on this replica's images. A variable whose
                gradient is None keeps its value.
            trainable_variables: the variables of these gradients; None: all that the optimizer
                was built with. If it was not built before, it is built with these.

        Raises:
            ValueError: the gradients are not those of the variables.
            RuntimeError: something that Keras' training step should have called was not called.
        """
        if trainable_variables is None:
            if not self.built:
                raise ValueError("`apply` needs variables: the optimizer was not built with any.")
            trainable_variables = self._model.weights
        elif not self.built:
            self.build(list(trainable_variables))
        places, gradients = self._matched(list(grads), list(trainable_variables))
        self._check_calls()
        with keras.name_scope(self.name):
            values = self._new_values(places, summed(gradients))
            # Each replica writes its own copy; all have computed the same numbers.
            for place, value in zip(places, values, strict=True):
                self.assign(self._model.weights[place], value)
        super().iterations.assign_add(1)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Refuse Keras' own way of making a step, which goes around `apply`.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"Keras {keras.__version__} called `update_step`, not `{type(self).__name__}.apply`: "
            "this version of Keras does not work with the optimizers of resnet_keras."
        )

    def also_average(self, variables: Iterable[keras.Variable]) -> None:
        """Average these variables too, to be called after `build`.

        They are batch norm's statistics, which belong to the averaged weights. On JAX a step
        does not see them; whoever trains must then run it within `averaging_statelessly` and
        call `average_statelessly` after it.

        Args:
            variables: what the forward pass changes.
        """
        if self.ema:
            # The states of random generators are not numbers to average.
            floats = [v for v in variables if keras.backend.is_float_dtype(v.dtype)]
            self._model.statistics += floats
            self.averages = [*self.averages, *self.add_slots("average", floats)]

    @contextmanager
    def averaging_statelessly(self) -> Iterator[None]:
        """Announce to the step within that `average_statelessly` is called after it."""
        self._calls.averaging = True
        try:
            yield
        finally:
            self._calls.averaging = False

    def average_statelessly(self, before: list, after: list, values: dict[int, Any]) -> list:
        """Compute the averages of what `also_average` named, after a stateless step.

        Args:
            before: values of `self.variables` before the step.
            after: their values after it.
            values: of the model's variables after the step, by `id(variable)`.

        Returns:
            `after`, with these averages changed if the step was taken and they move after it.
        """
        place = {id(variable): number for number, variable in enumerate(self.variables)}
        updates = place[id(self.updates)]
        taken = after[updates] > before[updates]
        moves, copies = self._given.averaging.at(before[updates])
        after, statistics = list(after), self._model.statistics
        averages = self.averages[len(self.averages) - len(statistics) :]
        for average, variable in zip(averages, statistics, strict=True):
            old, new = before[place[id(average)]], values[id(variable)]
            after[place[id(average)]] = self._mixed(old, new, copies, _both(taken, moves))
        return after

    def swap_averages(self) -> None:
        """Swap the weights and their averages, once a step was taken; calling it twice undoes it.

        Without averages nothing happens.
        """
        if not self.ema or not int(copied(self.updates)):
            return
        weights = [*self._model.weights, *self._model.statistics]
        for weight, average in zip(weights, self.averages, strict=True):
            old, new = copied(weight), copied(average)
            weight.assign(new)
            average.assign(old)

    def scale_loss(self, loss: Any) -> Any:
        """Multiply the loss by the loss scale; Keras' training step calls it."""
        if not self.loss_scale:
            return loss
        self._calls.scale_loss += 1
        return loss * ops.cast(self.scale if self.built else self.loss_scale, loss.dtype)

    @property
    def iterations(self) -> Any:
        """Batches seen; micro-batches are parts of one."""
        if self.accumulate == 1:
            return super().iterations
        return ops.floor_divide(super().iterations, self.accumulate)

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the next step: a scalar."""
        # Keras would give the schedule micro-batches.
        if isinstance(self._given.learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._given.learning_rate(self.iterations)
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        keras.optimizers.Optimizer.learning_rate.fset(self, learning_rate)
        self._given.learning_rate = learning_rate

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructors of this class and of its bases."""
        names = [
            name
            for kind in reversed(type(self).__mro__)
            if issubclass(kind, Optimizer)
            for name, parameter in inspect.signature(kind.__init__).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        config = {"learning_rate": super().get_config()["learning_rate"]}
        return config | {name: getattr(self, name) for name in names}

    def _matched(self, gradients: list, variables: list) -> tuple[list[int], list]:
        """The numbers of the variables that have a gradient, and these gradients."""
        if len(gradients) != len(variables):
            raise ValueError(
                f"`grads` must be those of the {len(variables)} variables. "
                f"Received: {len(gradients)} gradients"
            )
        for variable in variables:
            if id(variable) not in self._model.places:
                raise ValueError(
                    "`apply` takes the variables that the optimizer was built with. "
                    f"Received: {getattr(variable, 'path', variable)}"
                )
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        if not pairs:
            raise ValueError("`grads` must have a gradient. Received: None for every variable")
        if missing := [v.path for g, v in zip(gradients, variables, strict=True) if g is None]:
            warnings.warn(f"the loss has no gradient for {', '.join(missing)}", stacklevel=3)
        return [self._model.places[id(v)] for _, v in pairs], [g for g, _ in pairs]

    def _check_calls(self) -> None:
        """Refuse a step before which something was not called that its numbers depend on.

        These are calls of Python: where the step is compiled, they happen when it is traced.
        """
        if self.loss_scale:
            if not self._calls.scale_loss:
                raise RuntimeError(
                    "`scale_loss` was not called before `apply`: gradients of a loss that is not "
                    "scaled would be divided by the loss scale. In a loop of your own, take the "
                    f"gradients of `optimizer.scale_loss(loss)`. Received: Keras "
                    f"{keras.__version__}, loss_scale={self.loss_scale}"
                )
            self._calls.scale_loss -= 1
        stateless = keras.backend.backend() != "tensorflow"
        if stateless and self._model.statistics and not self._calls.averaging:
            raise RuntimeError(
                "the training step was not run within `averaging_statelessly`: the averages of "
                "batch norm's statistics would stay what they are. Received: Keras "
                f"{keras.__version__}, backend={keras.backend.backend()}, ema={self.ema}"
            )

    def _new_values(self, places: list[int], gradients: list) -> list:
        """Compute the new values of variables from gradients that are summed over the replicas.

        Variables of the optimizer's own are assigned.
        """
        variables = [self._model.weights[place] for place in places]
        gradients = [ops.cast(g, v.dtype) for g, v in zip(gradients, variables, strict=True)]
        gradients, whole = self._accumulated(places, gradients)
        gradients, finite = self._unscaled(gradients, whole)
        gradients = self._clipped(gradients)
        taken = _both(whole, finite)

        learning_rate, values = self.learning_rate, []
        for place, gradient, variable in zip(places, gradients, variables, strict=True):
            with behind(gradient):
                value, moments = self.compute_update(
                    place, gradient, variable, ops.cast(learning_rate, variable.dtype)
                )
            if variable.constraint is not None:
                value = variable.constraint(value)
            values.append(_if(taken, value, variable))
            for own, new in moments:
                self.assign(own, _if(taken, new, own))
        self._average(places, values, taken)
        one = 1 if taken is None else ops.cast(taken, self.updates.dtype)
        self.assign_add(self.updates, one)
        return values

    def _accumulated(self, places: list[int], gradients: list) -> tuple[list, Any]:
        """The mean gradient of the micro-batches so far, and whether the batch is whole."""
        if self.accumulate == 1:
            return gradients, None
        whole = ops.equal((super().iterations + 1) % self.accumulate, 0)
        totals = [self.sums[place] + g for place, g in zip(places, gradients, strict=True)]
        for place, total in zip(places, totals, strict=True):
            self.assign(self.sums[place], _if(whole, ops.zeros_like(total), total))
        return [total / self.accumulate for total in totals], whole

    def _unscaled(self, gradients: list, whole: Any) -> tuple[list, Any]:
        """Gradients without the loss scale, and whether all are finite; adapts the scale."""
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

    def _clipped(self, gradients: list) -> list:
        """Gradients, clipped by value, then by their norm."""
        if self.clip_value is not None:
            gradients = [ops.clip(g, -self.clip_value, self.clip_value) for g in gradients]
        if self.clip_norm is not None:
            factor = ops.minimum(1.0, self.clip_norm / norm(gradients))
            gradients = [g * ops.cast(factor, g.dtype) for g in gradients]
        return gradients

    def _average(self, places: list[int], values: list, taken: Any) -> None:
        """Let the averages follow the variables' new values."""
        if not self.ema:
            return
        changed = dict(zip(places, values, strict=True))
        news = [changed.get(place, v) for place, v in enumerate(self._model.weights)]
        if keras.backend.backend() == "tensorflow":
            news += self._model.statistics
        moves, copies = self._given.averaging.at(self.updates)
        # On JAX the averages of the statistics wait for `average_statelessly`.
        for average, new in zip(self.averages, news, strict=False):
            self.assign(average, self._mixed(average, new, copies, _both(taken, moves)))

    def _mixed(self, average: Any, new: Any, copies: Any, moves: Any) -> Any:
        """What an average becomes with a new value."""
        decay = self._given.averaging.decay
        mixed = decay * average + (1 - decay) * new
        return _if(moves, _if(copies, new, mixed), average)


def norm(tensors: Iterable) -> Any:
    """Compute the L2 norm of all the numbers of some tensors: a scalar."""
    return ops.sqrt(sum(ops.sum(ops.square(tensor)) for tensor in tensors))


def _both(one: Any, other: Any) -> Any:
    """Logical and of two conditions, of which None is always true."""
    if one is None or other is None:
        return other if one is None else one
    return ops.logical_and(one, other)


def _if(condition: Any, new: Any, old: Any) -> Any:
    """`new` where the condition holds (None always does), else `old`."""
    if condition is None:
        return new
    # JAX's `where` takes no Keras variables.
    return ops.where(condition, ops.convert_to_tensor(new), ops.convert_to_tensor(old))
