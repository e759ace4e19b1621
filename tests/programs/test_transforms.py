"""Records of programs under every transformation of jax: values, lanes, order, host calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from members import some_long
from memory import Memory, host_calls, logging_to_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from metriplex import MetricsCallback, MetricsState

LANES = 4
ITERATIONS = 5
KEYS = jax.random.split(jax.random.key(0), LANES)
RATES = jnp.array([0.1, 0.2, 0.3])
MINIMUM = jnp.arange(3.0)

Train: TypeAlias = "Callable[..., jax.Array]"
Seen: TypeAlias = "list[tuple[int | None, int, dict[str, Any]]]"


class Probe:
    """An open callback, and what programs have logged with it since the last look."""

    def __init__(self, metrics: MetricsCallback, memory: Memory, blocks: list[np.ndarray]) -> None:
        self.metrics = metrics
        self.memory = memory
        self.blocks = blocks

    @property
    def calls(self) -> int:
        self.metrics.flush()
        return len(self.blocks)

    @property
    def seen(self) -> Seen:
        """Lane, step and the training log's values of every record, in order of arrival."""
        self.metrics.flush()
        return [
            (
                record.lane,
                record.step,
                {tag: value for tag, value in record.values.items() if not tag.startswith("time/")},
            )
            for record in self.memory.records
        ]


@pytest.fixture(params=["auto", pytest.param("callback", marks=pytest.mark.long)])
def probe(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[Probe]:
    blocks = host_calls(monkeypatch)
    with logging_to_memory(tmp_path, transport=request.param) as (metrics, memory):
        yield Probe(metrics, memory, blocks)


# ---- training -----------------------------------------------------------------------------------


def train(metrics: MetricsCallback, key: jax.Array, rate: Any = 1.0) -> jax.Array:
    """Logs `ITERATIONS` iterations; gives the losses, `[ITERATIONS]`."""
    state = metrics.on_training_start(metrics.init(1))

    def iterate(carry: Any, index: jax.Array) -> Any:
        state, loss = carry
        loss = loss + rate
        state = metrics.on_step(state, jnp.ones(1), jnp.zeros(1, bool))
        log = {"loss": loss, "nested": {"tens": 10 * index, "late": index > 2}}
        log["half"] = loss.astype(jnp.bfloat16)
        return (metrics.on_iteration(state, training_log=log), loss), loss

    start = (state, jax.random.uniform(key))
    (state, _), losses = lax.scan(iterate, start, jnp.arange(ITERATIONS))
    metrics.on_training_end(state)
    return losses


def over_seeds_and_rates(train: Train) -> Train:
    return jax.jit(lambda keys: jax.vmap(jax.vmap(train, (0, None)), (None, 0))(keys, RATES))


def over_rates_and_seeds(train: Train) -> Train:
    return jax.jit(lambda keys: jax.vmap(jax.vmap(train, (None, 0)), (0, None))(keys, RATES))


def moved_axes(train: Train) -> Train:
    mapped = jax.vmap(train, in_axes=1, out_axes=1)
    return lambda keys: jax.jit(mapped)(jax.random.key_data(keys).T).T


UNBATCHED: dict[str, Callable[[Train], Train]] = {
    "eager": lambda train: train,
    "jit": jax.jit,
    "jit of jit": lambda train: jax.jit(jax.jit(train)),
    "checkpoint": lambda train: jax.jit(jax.checkpoint(train)),
    "filter_jit": eqx.filter_jit,
}
BATCHED: dict[str, Callable[[Train], Train]] = {
    "vmap": jax.vmap,
    "jit of vmap": lambda train: jax.jit(jax.vmap(train)),
    "vmap of jit": lambda train: jax.vmap(jax.jit(train)),
    "rates of seeds": over_seeds_and_rates,
    "seeds of rates": over_rates_and_seeds,
    "filter_jit of filter_vmap": lambda train: eqx.filter_jit(eqx.filter_vmap(train)),
    "in_axes and out_axes of 1": moved_axes,
    "vmap with a name": lambda train: jax.jit(jax.vmap(train, axis_name="seed")),
    "vmap with spmd_axis_name": lambda train: jax.jit(jax.vmap(train)),
    "one lane": lambda train: lambda keys: jax.jit(jax.vmap(train))(keys[:1]),
}


def expected(lane: int | None, losses: np.ndarray) -> Seen:
    return [
        (
            lane,
            index + 1,
            {
                "train/loss": float(loss),
                "train/nested/tens": 10 * index,
                "train/nested/late": index > 2,
                "train/half": float(loss.astype(jnp.bfloat16)),
            },
        )
        for index, loss in enumerate(losses)
    ]


@pytest.mark.parametrize("way", some_long(UNBATCHED, "eager", "jit", "checkpoint"))
def test_a_program_logs_each_iteration_by_one_host_call(probe: Probe, way: str) -> None:
    program = UNBATCHED[way](lambda key: train(probe.metrics, key))
    losses = np.asarray(program(KEYS[0]))
    assert probe.seen == expected(None, losses)
    assert probe.calls == ITERATIONS + 2  # with start and end


@pytest.mark.parametrize("way", some_long(BATCHED, "jit of vmap", "rates of seeds"))
def test_lanes_log_all_together_by_one_host_call(probe: Probe, way: str) -> None:
    def of_lane(key: jax.Array, rate: Any = 1.0) -> jax.Array:
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        return train(probe.metrics, key, rate)

    losses = np.asarray(BATCHED[way](of_lane)(KEYS)).reshape(-1, ITERATIONS)
    seen = probe.seen
    for lane, of_lane_losses in enumerate(losses):
        assert [one for one in seen if one[0] == lane] == expected(lane, of_lane_losses)
    assert len(seen) == losses.size
    assert probe.calls == ITERATIONS + 2


def test_lanes_that_differ_in_nothing_logged_are_tied_to_their_key(probe: Probe) -> None:
    def program(key: jax.Array, tie: Any) -> MetricsState:
        state = probe.metrics.on_training_start(probe.metrics.init(1))
        for _ in range(2):
            state = probe.metrics.on_iteration(state, training_log={"a": 7}, key=tie(key))
        return probe.metrics.on_training_end(state)

    jax.jit(jax.vmap(lambda key: program(key, lambda _: None)))(KEYS)
    assert probe.seen == [(None, 0, {"train/a": 7})] * 2
    probe.memory.records.clear()
    for tie in (lambda key: key, jax.random.key_data):
        jax.jit(jax.vmap(lambda key, tie=tie: program(key, tie)))(KEYS)
        assert sorted(probe.seen) == sorted(
            (lane, 0, {"train/a": 7}) for lane in range(LANES) for _ in range(2)
        )
        probe.memory.records.clear()


def test_iterations_before_the_lanes_differ_are_logged_once(probe: Probe) -> None:
    def program(key: jax.Array) -> None:
        state = probe.metrics.on_training_start(probe.metrics.init(1))
        state = probe.metrics.on_iteration(state, training_log={"a": 0})
        state = probe.metrics.on_iteration(state, training_log={"a": jax.random.bits(key) * 0 + 1})
        state = probe.metrics.on_iteration(state, training_log={"a": 2})
        probe.metrics.on_training_end(state)

    for _ in range(2):
        jax.jit(jax.vmap(program))(KEYS[:2])
        seen = [(lane, values["train/a"]) for lane, _, values in probe.seen]
        # The order of the calls is XLA's choice; only the records of one lane have an order.
        by_lane = sorted(seen[1:], key=lambda one: one[0] or 0)
        assert [seen[0], *by_lane] == [(None, 0), (0, 1), (0, 2), (1, 1), (1, 2)]
        probe.memory.records.clear()


def test_a_vmapped_step_inside_of_a_scan(probe: Probe) -> None:
    def step(state: MetricsState, value: jax.Array) -> tuple[MetricsState, jax.Array]:
        return probe.metrics.on_iteration(state, training_log={"a": value}), value + 1

    def program(values: jax.Array) -> None:
        states = jax.vmap(lambda _: probe.metrics.init(1))(values)
        lax.scan(lambda carry, _: (jax.vmap(step)(*carry), None), (states, values), length=3)

    jax.jit(program)(jnp.arange(2.0))
    assert [(lane, values["train/a"]) for lane, _, values in probe.seen] == [
        *[(0, 0.0), (1, 1.0), (0, 1.0), (1, 2.0), (0, 2.0), (1, 3.0)]
    ]
    assert probe.calls == 3


def test_an_optax_training_in_an_equinox_module(probe: Probe) -> None:
    optimizer = optax.adam(optax.linear_schedule(1e-2, 0.0, ITERATIONS))

    def fit(key: jax.Array) -> jax.Array:
        model = eqx.nn.Linear(3, 1, key=key)
        opt_state = optimizer.init(eqx.filter(model, eqx.is_array))
        state = probe.metrics.init(1)

        def iterate(carry: Any, _: None) -> Any:
            model, opt_state, state = carry
            loss, gradient = eqx.filter_value_and_grad(lambda m: (m(MINIMUM) ** 2).sum())(model)
            updates, opt_state = optimizer.update(gradient, opt_state)
            state = probe.metrics.on_iteration(
                state, training_log={"loss": loss}, opt_state=opt_state
            )
            return (eqx.apply_updates(model, updates), opt_state, state), loss

        return lax.scan(iterate, (model, opt_state, state), length=ITERATIONS)[1]

    losses = np.asarray(eqx.filter_jit(eqx.filter_vmap(fit))(KEYS))
    probe.metrics.flush()
    for lane in range(LANES):
        assert probe.memory.values("train/loss", lane) == losses[lane].tolist()
    assert probe.calls == ITERATIONS


# ---- control flow -------------------------------------------------------------------------------


def steps(probe: Probe) -> list[tuple[int | None, int]]:
    return [(lane, step) for lane, step, _ in probe.seen]


def test_cond_logs_in_the_branch_that_is_taken(probe: Probe) -> None:
    def body(carry: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        def logs() -> None:
            probe.metrics.log(index, {"a": carry})

        lax.cond(index % 2 == 0, logs, lambda: None)
        return carry + 1, None

    program = jax.jit(lambda start: lax.scan(body, start, jnp.arange(5))[0])
    program(10.0)
    assert probe.seen == [(None, index, {"a": 10.0 + index}) for index in (0, 2, 4)]
    probe.memory.records.clear()
    jax.jit(jax.vmap(program))(jnp.array([10.0, 20.0]))
    assert probe.seen == [
        (lane, index, {"a": 10.0 * (lane + 1) + index}) for index in (0, 2, 4) for lane in (0, 1)
    ]
    assert probe.calls == 6


def test_switch_logs_other_tags_in_other_branches(probe: Probe) -> None:
    def body(carry: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        branches = [
            lambda: probe.metrics.log(index, {"a": carry}),
            lambda: probe.metrics.log(index, {"b": carry, "c": index}),
            lambda: None,
        ]
        lax.switch(index % 3, branches)
        return carry + 1, None

    program = jax.jit(jax.vmap(lambda start: lax.scan(body, start, jnp.arange(5))[0]))
    program(jnp.array([0.5]))
    assert probe.seen == [
        (0, 0, {"a": 0.5}),
        (0, 1, {"b": 1.5, "c": 1}),
        (0, 3, {"a": 3.5}),
        (0, 4, {"b": 4.5, "c": 4}),
    ]


def test_while_fori_and_map(probe: Probe) -> None:
    def counted(count: jax.Array) -> jax.Array:
        probe.metrics.log(count, {"while": count})
        return count + 1

    def indexed(index: jax.Array, carry: jax.Array) -> jax.Array:
        probe.metrics.log(index, {"fori": carry})
        return carry * 2

    def mapped(value: jax.Array) -> jax.Array:
        probe.metrics.log(7, {"map": value})
        return value

    jax.jit(lambda end: lax.while_loop(lambda count: count < end, counted, jnp.int32(0)))(3)
    jax.jit(lambda start: lax.fori_loop(0, 3, indexed, start))(1.0)
    jax.jit(lambda values: lax.map(mapped, values))(jnp.arange(3.0))
    assert probe.seen == [
        *[(None, index, {"while": index}) for index in range(3)],
        *[(None, index, {"fori": 2.0**index}) for index in range(3)],
        *[(None, 7, {"map": float(index)}) for index in range(3)],
    ]


def test_where_lets_each_lane_decide_for_itself(probe: Probe) -> None:
    def program(limit: jax.Array) -> jax.Array:
        def body(state: MetricsState, index: jax.Array) -> tuple[MetricsState, None]:
            state = probe.metrics.on_step(state, jnp.ones(1), jnp.zeros(1, bool))
            log = {"index": index, "limit": limit}
            return probe.metrics.on_iteration(state, training_log=log, where=index < limit), None

        return lax.scan(body, probe.metrics.init(1), jnp.arange(4))[0].iteration

    np.testing.assert_array_equal(jax.jit(jax.vmap(program))(jnp.array([3, 0, 1])), 4)
    assert steps(probe) == [(0, 1), (2, 1), (0, 2), (0, 3)]
    assert probe.calls == 3  # none for the last iteration, which no lane wants
    probe.memory.records.clear()
    jax.jit(program)(2)
    program(jnp.int32(1))
    assert steps(probe) == [(None, 1), (None, 2), (None, 1)]


def test_a_while_loop_whose_lanes_end_at_different_times(probe: Probe) -> None:
    def program(end: jax.Array) -> None:
        def body(carry: tuple[jax.Array, MetricsState]) -> tuple[jax.Array, MetricsState]:
            count, state = carry
            log = {"count": count}
            state = probe.metrics.on_iteration(state, training_log=log, where=count < end)
            return count + 1, state

        lax.while_loop(lambda carry: carry[0] < end, body, (jnp.int32(0), probe.metrics.init(1)))

    jax.jit(jax.vmap(program))(jnp.arange(1, 4))
    for lane in range(3):
        assert [v["train/count"] for at, _, v in probe.seen if at == lane] == list(range(lane + 1))
    assert len(probe.seen) == 1 + 2 + 3


@pytest.mark.parametrize("log_every", some_long([1, 2, 3, 7], 3))
def test_log_every_counts_iterations_of_each_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    blocks = host_calls(monkeypatch)
    with logging_to_memory(tmp_path, log_every=log_every) as (metrics, memory):
        jax.jit(jax.vmap(lambda key: train(metrics, key)))(KEYS[:2])
    due = [index for index in range(ITERATIONS) if (index + 1) % log_every == 0]
    for lane in range(2):
        assert [one.iteration for one in memory.records if one.lane == lane] == due
    assert len(blocks) == len(due) + 2


# ---- differentiation ----------------------------------------------------------------------------

W = 0.7


def pure_loss(weight: jax.Array) -> jax.Array:
    return jnp.sin(weight * MINIMUM).sum() ** 2


Loss: TypeAlias = "Callable[[Any], jax.Array]"


def with_custom_vjp(loss: Loss) -> Loss:
    function = jax.custom_vjp(loss)
    function.defvjp(lambda w: (loss(w), w), lambda w, g: (g * jax.grad(pure_loss)(w),))
    return function


def with_custom_jvp(loss: Loss) -> Loss:
    function = jax.custom_jvp(loss)
    function.defjvp(lambda p, t: (function(*p), jax.grad(pure_loss)(*p) * t[0]))
    return function


DIFFERENTIATED: dict[str, Callable[[Loss], Any]] = {
    "grad": lambda loss: jax.grad(loss)(W),
    "jit of grad": lambda loss: jax.jit(jax.grad(loss))(W),
    "grad of jit": lambda loss: jax.grad(jax.jit(loss))(W),
    "value_and_grad": lambda loss: jax.jit(jax.value_and_grad(loss))(W)[1],
    "has_aux": lambda loss: jax.jit(jax.grad(lambda w: (loss(w), w), has_aux=True))(W)[0],
    "jvp": lambda loss: jax.jit(lambda w: jax.jvp(loss, (w,), (1.0,))[1])(W),
    "jacfwd": lambda loss: jax.jit(jax.jacfwd(loss))(W),
    "jacrev": lambda loss: jax.jit(jax.jacrev(loss))(W),
    "vjp": lambda loss: jax.vjp(loss, W)[1](1.0)[0],
    "linearize": lambda loss: jax.linearize(loss, W)[1](1.0),
    "custom_vjp": lambda loss: jax.jit(jax.grad(with_custom_vjp(loss)))(W),
    "custom_jvp": lambda loss: jax.jit(jax.grad(with_custom_jvp(loss)))(W),
    "cond": lambda loss: jax.jit(jax.grad(lambda w: lax.cond(w > 0, loss, lambda w: w, w)))(W),
    "filter_grad": lambda loss: eqx.filter_jit(eqx.filter_grad(loss))(jnp.float32(W)),
}


@pytest.mark.parametrize("way", DIFFERENTIATED)
@pytest.mark.long
def test_a_loss_that_logs_keeps_its_gradient(probe: Probe, way: str) -> None:
    def loss(weight: jax.Array) -> jax.Array:
        value = pure_loss(weight)
        probe.metrics.log(3, {"loss": value})
        return value

    assert float(DIFFERENTIATED[way](loss)) == pytest.approx(
        float(jax.grad(pure_loss)(W)), rel=1e-6
    )
    ((lane, step, values),) = probe.seen
    assert (lane, step) == (None, 3)
    assert values["loss"] == pytest.approx(float(pure_loss(jnp.float32(W))), rel=1e-6)


def test_second_derivatives_log_once(probe: Probe) -> None:
    def loss(weight: jax.Array) -> jax.Array:
        probe.metrics.log(3, {"weight": weight})
        return pure_loss(weight)

    exact = jax.hessian(pure_loss)(W)
    assert float(jax.jit(jax.hessian(loss))(W)) == pytest.approx(float(exact), rel=1e-6)
    assert probe.calls == 1


def test_lanes_of_gradients_and_of_batches(probe: Probe) -> None:
    def loss(weight: jax.Array, shift: jax.Array) -> jax.Array:
        probe.metrics.log(3, {"shift": shift + 0 * weight})
        return pure_loss(weight + shift)

    shifts = jnp.arange(3.0)
    jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(W, shifts)
    jax.jit(jax.grad(lambda w: jax.vmap(loss, (None, 0))(w, shifts).sum()))(W)
    assert probe.seen == [(lane, 3, {"shift": float(lane)}) for lane in range(3)] * 2
    assert probe.calls == 2


def rolled(metrics: MetricsCallback, wrap: Callable[..., Any]) -> Loss:
    """A loss by a scan whose body logs, and is wrapped by `wrap`."""

    def loss(weight: jax.Array) -> jax.Array:
        def body(carry: Any, index: jax.Array) -> Any:
            value, state = carry
            value = jnp.sin(value * weight)
            log = {"index": index, "value": value}
            return (value, metrics.on_iteration(state, training_log=log)), None

        return lax.scan(wrap(body), (weight, metrics.init(1)), jnp.arange(ITERATIONS))[0][0]

    return loss


def pure_rolled(weight: jax.Array) -> jax.Array:
    return lax.fori_loop(0, ITERATIONS, lambda _, value: jnp.sin(value * weight), weight)


CHECKPOINTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "none": (lambda body: body, lambda loss: loss),
    "body": (jax.checkpoint, lambda loss: loss),
    "loss": (lambda body: body, jax.checkpoint),
    "both": (jax.checkpoint, jax.checkpoint),
    **{
        policy: (
            lambda body, policy=policy: jax.checkpoint(
                body, policy=getattr(jax.checkpoint_policies, policy)
            ),
            lambda loss: loss,
        )
        for policy in ("everything_saveable", "nothing_saveable", "dots_saveable")
    },
}


@pytest.mark.parametrize("vmapped", [False, True], ids=["", "vmap"])
@pytest.mark.parametrize("way", some_long(CHECKPOINTS, "both"))
def test_gradients_through_a_scan_log_every_iteration_once(
    probe: Probe, way: str, vmapped: bool
) -> None:
    body, whole = CHECKPOINTS[way]
    gradient = jax.grad(whole(rolled(probe.metrics, body)))
    exact = float(jax.jacfwd(pure_rolled)(W))
    program = jax.jit(jax.vmap(gradient) if vmapped else gradient)
    found = program(jnp.array([W, W]) if vmapped else W)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    lanes = [0, 1] if vmapped else [None]
    for lane in lanes:
        of_lane = [values for at, _, values in probe.seen if at == lane]
        assert [values["train/index"] for values in of_lane] == list(range(ITERATIONS))
        value = np.float32(W)
        for values in of_lane:
            value = np.sin(value * np.float32(W))
            assert values["train/value"] == pytest.approx(float(value), rel=1e-5)
    assert len(probe.seen) == len(lanes) * ITERATIONS
