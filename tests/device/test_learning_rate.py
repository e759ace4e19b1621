"""`learning_rates` of every kind of optimizer state, under every jax transformation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast, final

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex.device.learning_rate import TAG, explain_unknown, learning_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Expected: TypeAlias = "Mapping[str, Callable[[int], float]]"
STEPS = 4
SCHEDULE = optax.linear_schedule(1.0, 0.0, 8)  # exact in float32: 1, 7/8, 6/8, ...
PARAMS = {"b": jnp.ones(1), "w": jnp.arange(3.0)}
LABELS = {"b": "b", "w": "w"}
injected = optax.inject_hyperparams


def used(step: int) -> float:
    """Return SCHEDULE's rate for the update that follows `step` updates."""
    return 1.0 - step / 8


class Case(NamedTuple):
    name: str
    tx: optax.GradientTransformation
    expected: Expected
    """Tag to a function of `step`: the rate after that update, counted from 0."""
    given: Any = None
    extra: bool = False
    """True if `update` takes the value of the loss."""


def constant(value: float, tag: str = TAG) -> Expected:
    return {tag: lambda step: value}


def multi_steps(tx: optax.GradientTransformation, every: int = 2) -> optax.GradientTransformation:
    return optax.MultiSteps(tx, every).gradient_transformation()


def only_even(step: Any, **_: Any) -> Any:
    return step % 2 == 0


def outer_and_inner(learning_rate: Any) -> optax.GradientTransformation:
    return injected(optax.sgd)(learning_rate=0.25)


def two_groups(**rates: Any) -> optax.GradientTransformation:
    return optax.partition({key: injected(optax.adam)(rate) for key, rate in rates.items()}, LABELS)


NAN = constant(float("nan"))
SCHEDULED = {TAG: used}
UPDATED_EVERY_2 = {TAG: lambda step: used(max((step + 1) // 2 - 1, 0))}

CASES = [
    Case("sgd", optax.sgd(0.1), NAN),
    Case("sgd given", optax.sgd(0.5), constant(0.5), 0.5),
    Case("sgd schedule given", optax.sgd(SCHEDULE), SCHEDULED, SCHEDULE),
    Case("adam", optax.adam(1e-3), NAN),
    Case("adam given", optax.adam(1e-3), constant(1e-3), 1e-3),
    Case("adam schedule", optax.adam(SCHEDULE), NAN),
    Case("adam schedule given", optax.adam(SCHEDULE), SCHEDULED, SCHEDULE),
    Case("no count", optax.sgd(0.5), NAN, SCHEDULE),
    Case("no count, constant", optax.sgd(0.5), constant(0.5), optax.constant_schedule(0.5)),
    Case("injected", injected(optax.adam)(1e-3), constant(1e-3)),
    Case("injected and given", injected(optax.adam)(1e-3), constant(1e-3), 0.5),
    Case("injected schedule", injected(optax.adam)(SCHEDULE), SCHEDULED),
    Case("injected without a rate", injected(optax.scale_by_adam)(b1=0.5), NAN),
    Case("chain", optax.chain(optax.clip(1.0), injected(optax.sgd)(SCHEDULE)), SCHEDULED),
    Case(
        "named chain",
        optax.named_chain(("clip", optax.clip(1.0)), ("sgd", injected(optax.sgd)(0.5))),
        constant(0.5),
    ),
    Case(
        "chain of two rates",
        optax.chain(optax.clip(1.0), injected(optax.adam)(SCHEDULE), injected(optax.sgd)(0.5)),
        {f"{TAG}/1": used, **constant(0.5, f"{TAG}/2")},
    ),
    Case("MultiSteps", multi_steps(injected(optax.sgd)(SCHEDULE)), UPDATED_EVERY_2),
    Case("MultiSteps given", multi_steps(optax.adam(SCHEDULE)), UPDATED_EVERY_2, SCHEDULE),
    Case("MultiSteps of sgd given", multi_steps(optax.sgd(0.5)), UPDATED_EVERY_2, SCHEDULE),
    Case("masked", optax.masked(injected(optax.sgd)(0.5), {"b": False, "w": True}), constant(0.5)),
    Case(
        "two rates",
        two_groups(b=0.5, w=SCHEDULE),
        {**constant(0.5, f"{TAG}/b"), f"{TAG}/w": used},
    ),
    Case(
        "one group frozen",
        optax.partition({"b": optax.set_to_zero(), "w": injected(optax.adam)(0.5)}, LABELS),
        constant(0.5),
    ),
    Case(
        "nested groups",
        optax.partition(
            {
                "b": injected(optax.sgd)(0.5),
                "w": optax.partition(
                    {7: injected(optax.sgd)(0.125), 8: injected(optax.sgd)(0.25)},
                    lambda params: {"b": 7, "w": 8},
                ),
            },
            LABELS,
        ),
        {
            **constant(0.5, f"{TAG}/b"),
            **constant(0.125, f"{TAG}/w/7"),
            **constant(0.25, f"{TAG}/w/8"),
        },
    ),
    Case("nested, inner wins", injected(outer_and_inner)(SCHEDULE), constant(0.25)),
    Case(
        "nested, only the outer has a rate",
        injected(
            lambda learning_rate: optax.chain(
                injected(optax.clip)(1.0), optax.scale_by_learning_rate(learning_rate)
            )
        )(SCHEDULE),
        SCHEDULED,
    ),
    Case("apply_if_finite", optax.apply_if_finite(injected(optax.sgd)(SCHEDULE), 2), SCHEDULED),
    Case("apply_if_finite given", optax.apply_if_finite(optax.adam(0.1), 2), SCHEDULED, SCHEDULE),
    Case(
        "conditionally_transform",
        optax.conditionally_transform(injected(optax.sgd)(SCHEDULE), only_even),
        {TAG: lambda step: used(step // 2)},
    ),
    Case(
        "conditionally_mask given",
        optax.conditionally_mask(optax.adam(SCHEDULE), only_even),
        {TAG: lambda step: used(step // 2)},
        SCHEDULE,
    ),
    Case("schedule_free", optax.contrib.schedule_free_adamw(0.5), NAN),
    Case("schedule_free given", optax.contrib.schedule_free_adamw(0.5), constant(0.5), 0.5),
    Case(
        "schedule_free of sgd, schedule given",
        optax.contrib.schedule_free(optax.sgd(0.5), 0.5),
        SCHEDULED,
        SCHEDULE,
    ),
    Case(
        "schedule_free of injected",
        optax.contrib.schedule_free(injected(optax.sgd)(SCHEDULE), SCHEDULE),
        SCHEDULED,
    ),
    Case(
        "reduce_on_plateau",
        optax.chain(
            injected(optax.sgd)(0.5),
            optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.5),
        ),
        {TAG: lambda step: 0.5 * 0.5**step},
        extra=True,
    ),
    Case(
        "reduce_on_plateau given",
        optax.chain(
            optax.adam(0.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.5)
        ),
        {TAG: lambda step: 0.5 * 0.5**step},
        given=0.5,
        extra=True,
    ),
    Case("adan given", optax.adan(SCHEDULE), SCHEDULED, SCHEDULE),
    Case("lion given", optax.lion(SCHEDULE), SCHEDULED, SCHEDULE),
    Case("apply_every", optax.chain(optax.apply_every(2), optax.adam(0.1)), SCHEDULED, SCHEDULE),
    Case(
        "sam",
        optax.contrib.sam(
            injected(optax.sgd)(SCHEDULE),
            optax.chain(optax.contrib.normalize(), injected(optax.sgd)(0.0625)),
        ),
        UPDATED_EVERY_2,
    ),
]


def updated(case: Case, params: Any, state: Any) -> tuple[Any, Any]:
    """Apply one update with gradients that depend on the parameters."""
    grads = jax.tree.map(lambda x: x + 0.5, params)
    extra = {"value": jnp.float32(1.0)} if case.extra else {}
    updates, state = case.tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state


def trained(case: Case, params: Any, *, read: bool = True) -> tuple[Any, dict[str, jax.Array]]:
    """Return the parameters after STEPS updates in a scan, and the rates, `[step]`, by tag.

    Not reading emits a constant instead: XLA compiles a loop that emits nothing at all differently,
    to the last bit of what it computes, whatever it is that the other loop emits.
    """

    def step(carry: Any, _: None) -> Any:
        carry = updated(case, *carry)
        return carry, learning_rates(carry[1], case.given) if read else {TAG: jnp.float32(0)}

    (params, _), rates = jax.lax.scan(step, (params, case.tx.init(params)), length=STEPS)
    return params, rates


def check(rates: dict[str, Any], expected: Expected) -> None:
    assert rates.keys() == expected.keys()
    for tag, value_after in expected.items():
        assert rates[tag].dtype == jnp.float32
        want = np.array([value_after(step) for step in range(STEPS)], np.float32)
        np.testing.assert_array_equal(
            np.asarray(rates[tag]), np.broadcast_to(want, rates[tag].shape)
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reads_the_rate_of_the_last_update(case: Case) -> None:
    _, rates = jax.jit(lambda params: trained(case, params))(PARAMS)
    check(rates, case.expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.long
def test_lanes_read_the_same_rate(case: Case) -> None:
    lanes = jax.tree.map(lambda x: jnp.stack([x, x + 1, x + 2]), PARAMS)
    _, rates = jax.jit(jax.vmap(lambda params: trained(case, params)))(lanes)
    check(rates, case.expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.long
def test_reading_the_rate_changes_no_bit_of_what_is_learned(case: Case) -> None:
    params, _ = jax.jit(lambda params: trained(case, params))(PARAMS)
    unread, _ = jax.jit(lambda params: trained(case, params, read=False))(PARAMS)
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(unread), strict=True):
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.long
def test_reads_the_same_outside_a_scan(case: Case) -> None:
    params, state = PARAMS, case.tx.init(PARAMS)
    update = jax.jit(lambda params, state: updated(case, params, state))
    eager: list[dict[str, jax.Array]] = []
    jitted: list[dict[str, jax.Array]] = []
    read = jax.jit(lambda state: learning_rates(state, case.given))
    for _ in range(STEPS):
        params, state = update(params, state)
        eager.append(learning_rates(state, case.given))
        jitted.append(read(state))
    for each in (eager, jitted):
        check(jax.tree.map(lambda *xs: jnp.stack(xs), *each), case.expected)
    unknown = any(np.isnan(value_after(0)) for value_after in case.expected.values())
    assert bool(explain_unknown(state, case.given)) == unknown


@final
class Frozen(dict[str, Any]):
    """A mapping that jax treats as a leaf."""


class ActorCritic(NamedTuple):
    actor: Any
    critic: Any


class EquinoxState(eqx.Module):
    model: eqx.nn.Linear
    opt_state: Any
    tx: optax.GradientTransformation = eqx.field(static=True)


@dataclasses.dataclass
class PlainState:
    opt_state: Any
    hyperparameters: Any = None


def at(rate: Any, tx: Callable[..., Any] = optax.adam) -> Any:
    return injected(tx)(rate).init(PARAMS)


def holding(rate: Any) -> optax.InjectHyperparamsState:
    """Make a state without optax: some releases of optax cast the rate."""
    return optax.InjectHyperparamsState(jnp.int32(0), {"learning_rate": rate}, ())


def values(opt_state: Any, given_rate: Any = None) -> dict[str, float]:
    """Return the rates, read eagerly, as Python floats."""
    rates = learning_rates(opt_state, given_rate)
    assert all(rate.shape == () for rate in rates.values())
    return {tag: float(rate) for tag, rate in rates.items()}


@pytest.mark.parametrize("held", [True, False], ids=["held", "given"])
def test_flax_linen_train_state(*, held: bool) -> None:
    model = nn.Dense(1)
    variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
    tx = injected(optax.adam)(SCHEDULE) if held else optax.adam(SCHEDULE)
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=tx)

    @jax.jit
    def step(state: Any) -> Any:
        state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))
        return state, learning_rates(state, None if held else SCHEDULE)

    rates = []
    for _ in range(STEPS):
        state, rate = step(state)
        rates.append(rate[TAG])
        assert values(state, None if held else SCHEDULE) == {TAG: rate[TAG].item()}
    check({TAG: jnp.stack(rates)}, SCHEDULED)


def test_flax_train_state_counts_where_its_optimizer_does_not() -> None:
    state = TrainState.create(apply_fn=print, params=PARAMS, tx=optax.sgd(0.1))
    assert values(state, SCHEDULE) == {TAG: 1.0}
    for step in range(STEPS):
        state = state.apply_gradients(grads=PARAMS)
        assert values(state, SCHEDULE) == {TAG: used(step)}


@pytest.mark.parametrize("held", [True, False], ids=["held", "given"])
def test_flax_nnx_optimizer(*, held: bool) -> None:
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    tx = injected(optax.adam)(SCHEDULE) if held else optax.adam(SCHEDULE)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    given_rate = None if held else SCHEDULE

    @nnx.jit
    def step(model: nnx.Linear, optimizer: nnx.Optimizer[nnx.Linear]) -> dict[str, jax.Array]:
        optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
        return learning_rates(optimizer, given_rate)

    rates = []
    for _ in range(STEPS):
        rates.append(step(model, optimizer)[TAG])
        assert values(optimizer, given_rate) == {TAG: rates[-1].item()}
        assert values(optimizer.opt_state, given_rate) == {TAG: rates[-1].item()}
        assert values(nnx.state(optimizer), given_rate) == {TAG: rates[-1].item()}
    check({TAG: jnp.stack(rates)}, SCHEDULED)


def test_equinox_train_state() -> None:
    tx = injected(optax.adam)(SCHEDULE)
    model = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    state = EquinoxState(model, tx.init(eqx.filter(model, eqx.is_array)), tx)

    @eqx.filter_jit
    def step(state: EquinoxState) -> tuple[EquinoxState, dict[str, jax.Array]]:
        grads = jax.tree.map(jnp.ones_like, eqx.filter(state.model, eqx.is_array))
        updates, opt_state = state.tx.update(grads, state.opt_state)
        state = EquinoxState(eqx.apply_updates(state.model, updates), opt_state, state.tx)
        return state, learning_rates(state)

    rates = []
    for _ in range(STEPS):
        state, rate = step(state)
        rates.append(rate[TAG])
        assert values(state) == {TAG: rate[TAG].item()}
    check({TAG: jnp.stack(rates)}, SCHEDULED)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"actor": at(0.5), "critic": at(0.25)}, {f"{TAG}/actor": 0.5, f"{TAG}/critic": 0.25}),
        (ActorCritic(at(0.5), at(0.25)), {f"{TAG}/actor": 0.5, f"{TAG}/critic": 0.25}),
        (ActorCritic(at(0.5), optax.EmptyState()), {TAG: 0.5}),
        ((at(0.5), at(0.25)), {f"{TAG}/0": 0.5, f"{TAG}/1": 0.25}),
        ([None, at(0.5), ()], {TAG: 0.5}),
        (PlainState(at(0.5)), {TAG: 0.5}),
        (Frozen(opt_state=at(0.5)), {TAG: 0.5}),
        ({"x": [{"y": {"a": at(0.5), "b": at(0.25)}}]}, {f"{TAG}/a": 0.5, f"{TAG}/b": 0.25}),
        ({"a/b": at(0.5), "a": {"b": at(0.25), "c": at(1)}},
         {f"{TAG}/a/b": 0.25, f"{TAG}/a/c": 1.0, f"{TAG}/a/b_2": 0.5}),
        ({1: at(0.5), "1": at(0.25)}, {f"{TAG}/1": 0.5, f"{TAG}/1_2": 0.25}),
        ({(1, None): at(0.5), "": at(0.25)}, {f"{TAG}/(1, None)": 0.5, f"{TAG}/''": 0.25}),
        ({"a": at(jnp.ones(3)), "b": at(0.25)}, {f"{TAG}/a": float("nan"), f"{TAG}/b": 0.25}),
    ],
)  # fmt: skip
def test_labels_are_the_keys_that_tell_rates_apart(state: Any, expected: dict[str, float]) -> None:
    got = values(state)
    assert got == pytest.approx(expected, nan_ok=True, rel=0)


def test_a_label_that_cannot_be_printed_still_names_a_rate() -> None:
    @final
    class Silent:
        __repr__ = nothing

    assert values({Silent(): at(0.5), "b": at(0.25)}) == {f"{TAG}/Silent": 0.5, f"{TAG}/b": 0.25}


@pytest.mark.long
def test_a_line_search_is_the_rate_or_multiplies_it() -> None:
    def searched(tx: Any) -> Any:
        def loss(x: jax.Array) -> jax.Array:
            return jnp.sum(x**2)

        x = jnp.ones(2)
        value, grad = jax.value_and_grad(loss)(x)
        _, state = tx.update(grad, tx.init(x), x, value=value, grad=grad, value_fn=loss)
        return state

    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)
    state = searched(optax.chain(optax.sgd(1.0), search))
    found = state[-1].learning_rate.item()
    assert 0 < found < 1
    assert values(state) == {TAG: found}
    assert explain_unknown(state) == ""
    assert values(state, 0.5) == {TAG: found / 2}
    state = searched(optax.chain(injected(optax.sgd)(0.5), search))
    assert values(state) == {TAG: state[-1].learning_rate.item() / 2}
    state = searched(optax.lbfgs())
    assert values(state) == {TAG: state[-1].learning_rate.item()}


def test_a_plateau_scales_its_own_chain_only() -> None:
    state = cast("Any", optax.contrib.reduce_on_plateau().init(PARAMS))
    plateau = state._replace(scale=jnp.float32(0.5))
    states = {"actor": (at(1.0), plateau), "critic": at(0.25)}
    assert values(states) == {f"{TAG}/actor": 0.5, f"{TAG}/critic": 0.25}
    outer = at(0.5, lambda learning_rate: optax.identity())
    assert values(outer._replace(inner_state=((), plateau))) == {TAG: 0.25}
    unlabelled = {"actor": ((), plateau), "critic": ((), plateau)}
    assert np.isnan(values(unlabelled, 1.0)[TAG])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_keeps_a_floating_dtype(dtype: Any) -> None:
    rate = learning_rates(holding(jnp.asarray(0.1, dtype)))[TAG]
    assert rate.dtype == dtype
    assert rate == jnp.asarray(0.1, dtype)


def test_keeps_float64() -> None:
    with jax.enable_x64(True):
        rate = learning_rates(holding(jnp.asarray(0.1, jnp.float64)))[TAG]
        assert rate.dtype == jnp.float64
        assert rate.item() == 0.1
        assert learning_rates((), 0.1)[TAG].dtype == jnp.float32


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.array([[0.5]]), 0.5),
        (jnp.array([0.5]), 0.5),
        ([0.5], 0.5),
        (True, None),
        (None, None),
        ("0.5", None),
        (1j, None),
        (jnp.ones(2), None),
        (jnp.zeros(0), None),
        ({"w": 0.5}, None),
        (jax.random.key(0), None),
        (np.array(["x"]), None),
    ],
)
def test_only_one_number_is_a_rate(held: Any, expected: float | None) -> None:
    state = holding(held)
    for each in (state, state._asdict()):
        want = {TAG: pytest.approx(float("nan") if expected is None else expected, nan_ok=True)}
        assert values(each) == want
        assert values(each, 0.25) == {TAG: 0.25 if expected is None else expected}
        assert bool(explain_unknown(each)) == (expected is None)


def test_a_deleted_rate_is_unknown() -> None:
    state = at(0.5)
    state.hyperparams["learning_rate"].delete()
    assert np.isnan(values(state)[TAG])


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize(
    "schedule",
    [
        optax.cosine_decay_schedule(1e-3, 5),
        optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 5, 1e-5),
        optax.exponential_decay(0.3, 3, 0.7),
        optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.1}),
        optax.constant_schedule(0.1),
        lambda step: 0.1 / (1 + step) ** 0.5,
    ],
    ids=["cosine", "warmup", "exponential", "piecewise", "constant", "lambda"],
)
@pytest.mark.long
def test_a_given_schedule_gives_what_injecting_it_gives(schedule: Any, every: int | None) -> None:
    def wrapped(tx: Any) -> Any:
        return tx if every is None else multi_steps(tx, every)

    one = Case("injected", wrapped(injected(optax.adam)(schedule)), {})
    other = Case("given", wrapped(optax.adam(schedule)), {}, schedule)
    _, want = jax.jit(lambda params: trained(one, params))(PARAMS)
    _, got = jax.jit(lambda params: trained(other, params))(PARAMS)
    np.testing.assert_array_max_ulp(np.asarray(got[TAG]), np.asarray(want[TAG]), 1)
    assert values(one.tx.init(PARAMS)) == values(other.tx.init(PARAMS), schedule)


def nothing(*_: Any) -> Any:
    raise RuntimeError("hostile")


@final
class Raising:
    hyperparams = property(nothing)
    __getattr__ = nothing
    __dict__ = property(nothing)  # ty: ignore[invalid-assignment]
    __repr__ = nothing


@final
class RaisingMapping(dict[str, Any]):
    items = nothing


@jax.tree_util.register_pytree_node_class
@final
class RaisingTree:
    tree_flatten = nothing
    tree_unflatten = classmethod(nothing)


@final
class Endless:
    """An object that makes a new child of its own kind at each access."""

    __dict__ = property(lambda self: {"left": Endless(), "right": Endless()})  # ty: ignore[invalid-assignment]


def cyclic() -> list[Any]:
    cycle: list[Any] = [at(0.5)]
    cycle.append({"self": cycle})
    return cycle


def deep(depth: int, *, twice: bool) -> Any:
    node: Any = ()
    for _ in range(depth):
        node = (node, node) if twice else (node,)
    return node


HOSTILE: list[Any] = [
    None,
    0,
    "adam",
    b"",
    object(),
    object,
    print,
    nothing,
    jax,
    jnp.ones(3),
    np.array([object()]),
    optax.adam(0.1),
    optax.EmptyState(),
    optax.MultiSteps(optax.adam(0.1), 2),
    {1: 2, "x": None},
    {"hyperparams": None},
    {"hyperparams": {"learning_rate": Raising()}},
    {"count": Raising(), "scale": Raising(), "plateau_count": 0},
    Raising(),
    RaisingMapping(a=1),
    RaisingTree(),
    (Raising(), RaisingTree(), RaisingMapping(a=1)),
    deep(100_000, twice=False),
    deep(90, twice=True),
    iter(()),
    (step for step in range(3)),
]


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_no_state_makes_it_raise(index: int) -> None:
    state = HOSTILE[index]
    assert np.isnan(values(state)[TAG])
    assert values(state, 0.5)[TAG] in (0.5, pytest.approx(float("nan"), nan_ok=True))
    assert np.isnan(values(state, SCHEDULE)[TAG])
    assert "Pass `learning_rate=`" in explain_unknown(state)


@pytest.mark.long
def test_a_cycle_and_an_endless_tree_end() -> None:
    assert values(cyclic()) == {TAG: 0.5}
    assert np.isnan(values(Endless())[TAG])


@pytest.mark.parametrize("given_rate", [nothing, lambda step: "x", "x", jnp.ones(3), object()])
def test_a_given_rate_that_is_not_one_number_is_unknown(given_rate: Any) -> None:
    state = optax.adam(0.1).init(PARAMS)
    assert np.isnan(values(state, given_rate)[TAG])
    assert "no value that is one number" in explain_unknown(state, given_rate)


def test_the_explanation_names_what_was_found_and_how_to_mend_it() -> None:
    assert explain_unknown(at(0.5)) == ""
    assert explain_unknown(optax.adam(0.1).init(PARAMS), SCHEDULE) == ""
    text = explain_unknown(optax.adam(0.1).init(PARAMS))
    assert "`ScaleByAdamState`" in text
    assert "Pass `learning_rate=`" in text
    assert "inject_hyperparams" not in text
    assert "counts no steps" in explain_unknown(optax.sgd(0.1).init(PARAMS), SCHEDULE)
    assert "`opt_state=`" in explain_unknown(None)
    partly = explain_unknown({"a": at(jnp.ones(3)), "b": at(0.25)}, 0.5)
    assert partly.startswith(f"`{TAG}/a` is unknown and logged as NaN")
    assert "`training_log=`" in partly


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.floats(0.0, 1.0, width=32).map(lambda rate: {"hyperparams": {"learning_rate": rate}})
        | st.none()
        | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("ab/", max_size=2), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_every_rate_in_a_tree_is_reported_once(tree: Any) -> None:
    def held(node: Any) -> list[float]:
        if isinstance(node, dict):
            if "hyperparams" in node:
                return [node["hyperparams"]["learning_rate"]]
            node = list(node.values())
        return [rate for child in node for rate in held(child)] if isinstance(node, list) else []

    got = values(tree)
    expected = held(tree)
    if expected:
        assert sorted(got.values()) == sorted(expected)
        assert (TAG in got) == (len(expected) == 1)
    else:
        assert np.isnan(got[TAG])
    assert all(tag == TAG or tag.startswith(f"{TAG}/") for tag in got)
