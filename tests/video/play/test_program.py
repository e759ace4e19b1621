"""Rollouts inside compiled programs: when they are played, what is sent, what is compiled."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from memory import Memory, host_calls
from metriplex.bridge.packing import HEADER, Header
from metriplex.video.play.environments import PatternEnvironment
from metriplex.video.play.rollout import rollout
from video.cases import Dot, Line, Walker, taping

if TYPE_CHECKING:
    from pathlib import Path

    from metriplex import MetricsCallback

NUM_ENVS = 3
LINE = Line(limit=4)


def iterate(
    metrics: MetricsCallback, state: Any, i: jax.Array, speed: jax.Array, key: Any, **more: Any
) -> Any:
    """One iteration of a training whose policy walks at the speed `speed + i`."""
    state = metrics.on_step(state, jnp.ones(NUM_ENVS), jnp.zeros(NUM_ENVS, bool))
    given: dict[str, Any] = {"policy": Walker(speed + i), "key": key, **more}
    return metrics.on_iteration(state, training_log={"speed": speed}, **given)


def train(
    metrics: MetricsCallback,
    speed: jax.Array,
    key: Any = None,
    num_iterations: int = 5,
    **more: Any,
) -> jax.Array:
    def turn(state: Any, i: jax.Array) -> tuple[Any, jax.Array]:
        folded = None if key is None else jax.random.fold_in(key, i)
        return iterate(metrics, state, i, speed, folded, **more), speed * i

    state, speeds = jax.lax.scan(turn, metrics.init(NUM_ENVS), jnp.arange(num_iterations))
    metrics.on_training_end(state)
    return speeds


program = jax.jit(train, static_argnames="num_iterations")


def expected(speed: float, key: jax.Array, num_steps: int = 6) -> list[float]:
    """Return the selected states of the same rollout, played separately."""
    selected = jax.jit(
        lambda policy, key: rollout(
            PatternEnvironment(LINE), policy, key, num_steps=num_steps, select=Dot().select
        )
    )(Walker(jnp.float32(speed)), key)
    return selected["x"].tolist()


def run(metrics: MetricsCallback, *arguments: Any, **more: Any) -> None:
    program(metrics, *arguments, **more)
    metrics.flush()


# ---- when, and what -----------------------------------------------------------------------------


def test_the_first_iteration_and_every_kth_one_are_shown_with_the_policy_of_that_time(
    tmp_path: Path,
) -> None:
    key = jax.random.key(4)
    with taping(tmp_path, LINE) as (metrics, tape):
        run(metrics, jnp.float32(0.2), key)
        assert tape.shown == [(0, 3), (2, 9), (4, 15)]
        for index, iteration in enumerate((0, 2, 4)):
            theirs = expected(0.2 + iteration, jax.random.fold_in(key, iteration))
            np.testing.assert_allclose(tape.xs(index), theirs, rtol=1e-5)
        assert [int(state["age"]) for state in tape.states()] == [0, 1, 2, 3, 0, 1]


def test_the_user_s_number_of_an_iteration_is_told(tmp_path: Path) -> None:
    with taping(tmp_path, LINE) as (metrics, tape):
        run(metrics, jnp.float32(0.2), iteration=jnp.int32(100))
        assert tape.shown == [(100, 3), (100, 9), (100, 15)]


def test_where_decides(tmp_path: Path) -> None:
    with taping(tmp_path, LINE) as (metrics, tape):
        run(metrics, jnp.float32(0.2), where=jnp.array(False))
        assert tape.rows == []


@pytest.mark.parametrize("options", [{"buffer": 4}, {"log_every": 3}])
@pytest.mark.long
def test_neither_a_buffer_nor_rarer_records_change_it(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with taping(tmp_path, LINE, **options) as (metrics, tape):
        run(metrics, jnp.float32(0.2))
        assert tape.shown == [(0, 3), (2, 9), (4, 15)]


def test_without_a_key_each_iteration_has_one_of_its_own(tmp_path: Path) -> None:
    with taping(tmp_path, LINE) as (metrics, tape):
        run(metrics, jnp.float32(0.2))
        run(metrics, jnp.float32(0.2))
        first, second = tape.xs(0), tape.xs(1)
        assert first != second
        assert tape.xs(3) == first


@pytest.mark.long
def test_a_raw_key_is_as_good_as_a_typed_one(tmp_path: Path) -> None:
    with taping(tmp_path, LINE) as (metrics, tape):
        state = metrics.init(NUM_ENVS)
        for key in (jax.random.key(9), jax.random.PRNGKey(9)):
            iterate(metrics, state, jnp.int32(0), jnp.float32(0.2), key)
        metrics.flush()
        assert tape.xs(0) == tape.xs(1)
        assert len(tape.rows) == 2


# ---- what it costs ------------------------------------------------------------------------------


class Counted(Line):
    """Counts how often Python runs its methods, which is when a program is traced."""

    def __init__(self) -> None:
        super().__init__(4)
        self.calls: Counter[str] = Counter()

    def initial(self, *, key: jax.Array) -> Any:
        self.calls["initial"] += 1
        return super().initial(key=key)

    def transition(self, *arguments: Any, **keys: Any) -> Any:
        self.calls["transition"] += 1
        return super().transition(*arguments, **keys)


@pytest.fixture
def compilations() -> Any:
    """A list that grows by one with every program that is compiled."""
    found: list[str] = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        if event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_two_runs_of_one_environment_are_one_program(
    tmp_path: Path, compilations: list[str]
) -> None:
    env, renderer, shown, calls = Counted(), Dot(), [], {}
    own = jax.jit(train)
    for _ in range(2):
        with taping(tmp_path, env, renderer=renderer) as (metrics, tape):
            before = len(compilations)
            own(metrics, jnp.float32(0.2))
            metrics.flush()
            shown.append((tape.shown, tape.xs(), len(compilations) > before))
        calls = calls or dict(env.calls)
    assert shown[0][2]
    assert shown[1] == (*shown[0][:2], False)
    assert dict(env.calls) == calls


def test_a_loop_in_python_compiles_the_rollout_once(
    tmp_path: Path, compilations: list[str]
) -> None:
    env = Counted()
    with taping(tmp_path, env) as (metrics, tape):
        state, seen = metrics.init(NUM_ENVS), []
        for i in range(7):
            state = iterate(metrics, state, jnp.int32(i), jnp.float32(0.2), jax.random.key(i))
            seen.append((env.calls["transition"], len(compilations)))
        metrics.flush()
        assert tape.shown == [(0, 3), (2, 9), (4, 15), (6, 21)]
        np.testing.assert_allclose(tape.xs(1), expected(2.2, jax.random.key(2)), rtol=1e-5)
    assert seen[0][0] == seen[-1][0] > 0
    assert seen[2][1] == seen[-1][1]  # iteration 1 compiles what differs without a video


def test_of_a_rollout_only_the_selected_leaves_cross(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = host_calls(monkeypatch)
    big = jnp.zeros(5000)

    def policy(weights: jax.Array, observation: jax.Array) -> jax.Array:
        return weights.sum() + 0.3

    with taping(tmp_path, LINE, video_interval=3) as (metrics, tape):
        run(metrics, jnp.float32(0.2), policy=jax.tree_util.Partial(policy, big))
        assert tape.shown == [(0, 3), (3, 12)]
    sizes = sorted(block.shape[-1] for block in blocks)
    assert sizes[-2:] == [HEADER + 6 * 2] * 2  # six steps of `x` and `age`
    assert max(sizes[:-2]) < HEADER + 6 * 2
    assert len(blocks) == 5 + 2 + 1  # records, videos, the end


def branches(jaxpr: Any) -> list[Any]:
    """Every conditional of a program that plays a rollout, and the shape of its predicate."""
    found = []
    for equation in jaxpr.eqns:
        inner = [
            getattr(one, "jaxpr", one)
            for value in equation.params.values()
            for one in (value if isinstance(value, tuple | list) else [value])
            if hasattr(getattr(one, "jaxpr", one), "eqns")
        ]
        if equation.primitive.name == "cond" and any("scan" in str(one) for one in inner):
            found.append(equation.invars[0].aval.shape)
        else:
            found += [branch for one in inner for branch in branches(one)]
    return found


@pytest.mark.parametrize("lanes", [(), (4,), (2, 3)])
def test_whatever_is_vmapped_the_rollout_is_one_branch(
    tmp_path: Path, lanes: tuple[int, ...]
) -> None:
    mapped: Any = lambda metrics, speed, key: train(metrics, speed, key)  # noqa: E731
    for _ in lanes:
        mapped = jax.vmap(mapped, in_axes=(None, 0, 0))
    keys = jax.random.split(jax.random.key(0), lanes) if lanes else jax.random.key(0)
    with taping(tmp_path, LINE) as (metrics, _tape):
        traced = jax.make_jaxpr(mapped)(metrics, jnp.ones(lanes), keys)
    assert branches(traced.jaxpr) == [()]
    inside = str(traced)
    plain = inside.count("random_split")
    assert plain > 0
    if lanes:
        assert f"u32[{lanes[-1]},6,2]" not in inside  # no lane axis in front of the steps' keys


# ---- mapped -------------------------------------------------------------------------------------


def test_of_vmapped_lanes_the_first_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = host_calls(monkeypatch)
    keys = jax.random.split(jax.random.key(1), 4)
    speeds = jnp.arange(4) + 0.2
    with taping(tmp_path, LINE) as (metrics, tape):
        jax.jit(jax.vmap(train, in_axes=(None, 0, 0)))(metrics, speeds, keys)
        metrics.flush()
        assert [row.lane for row in tape.rows] == [0, 0, 0]
        assert tape.shown == [(0, 3), (2, 9), (4, 15)]
        theirs = expected(2.2, jax.random.fold_in(keys[0], 2))
        np.testing.assert_allclose(tape.xs(1), theirs, rtol=1e-5)
    widths = Counter(block.shape for block in blocks)
    assert widths[1, HEADER + 12] == 3  # of one lane


def test_the_first_lane_s_where_decides(tmp_path: Path) -> None:
    def one(metrics: MetricsCallback, speed: jax.Array, where: jax.Array) -> Any:
        return train(metrics, speed, where=where)

    with taping(tmp_path, LINE) as (metrics, tape):
        lanes = jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
        lanes(metrics, jnp.ones(2), jnp.array([False, True]))
        metrics.flush()
        assert tape.rows == []
        lanes(metrics, jnp.ones(2), jnp.array([True, False]))
        metrics.flush()
        assert tape.shown == [(0, 3), (2, 9), (4, 15)]


@pytest.mark.long
def test_a_closure_over_traced_parameters_is_shown_under_vmap(tmp_path: Path) -> None:
    def one(metrics: MetricsCallback, scale: jax.Array) -> jax.Array:
        weight = scale * 2

        def policy(observation: jax.Array, key: jax.Array) -> jax.Array:
            return weight + 0.0 * observation[0]

        return train(metrics, scale, policy=policy, num_iterations=1)

    with taping(tmp_path, LINE) as (metrics, tape):
        jax.jit(jax.vmap(one, in_axes=(None, 0)))(metrics, jnp.array([0.25, 3.0]))
        jax.jit(one)(metrics, jnp.float32(0.25))
        metrics.flush()
        assert [row.lane for row in tape.rows] == [0, None]
        np.testing.assert_allclose(tape.xs(0), tape.xs(1), rtol=1e-5)
        assert 0.4 < tape.xs(0)[1] - tape.xs(0)[0] < 1.1


@pytest.mark.parametrize("lane_per_device", [False, True])
@pytest.mark.long
def test_devices_show_one_video(tmp_path: Path, lane_per_device: bool) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))

    def one(metrics: MetricsCallback, speeds: jax.Array) -> jax.Array:
        lane = jax.lax.axis_index("d") if lane_per_device else None
        state = metrics.init(NUM_ENVS, lane=lane)
        for i in range(3):
            speed = speeds[0] if lane_per_device else jax.lax.pmean(speeds[0], "d")
            state = iterate(metrics, state, jnp.int32(i), speed, None)
        return state.iteration[None]

    spread = PartitionSpec("d")
    mapped = jax.shard_map(one, mesh=mesh, in_specs=(PartitionSpec(), spread), out_specs=spread)
    with taping(tmp_path, LINE) as (metrics, tape):
        jax.jit(mapped)(metrics, jnp.full(4, 0.25))
        metrics.flush()
        total = NUM_ENVS * (1 if lane_per_device else 4)
        assert tape.shown == [(0, total), (2, 3 * total)]
        assert {row.lane for row in tape.rows} == {0 if lane_per_device else None}


# ---- environments that can't be traced ----------------------------------------------------------


class Simulator:
    """Steps in Python, and keeps its state to itself."""

    name = "Simulator"

    def __init__(self, traceable: bool) -> None:
        self.traceable = traceable
        self.x = np.zeros(())

    def initial(self, *, key: jax.Array) -> dict[str, Any]:
        self.x = np.zeros(())
        return {"x": self.x, "age": np.int64(0)}

    def transition(self, state: dict[str, Any], action: Any, *, key: jax.Array) -> dict[str, Any]:
        self.x += float(action)  # in place
        return {"x": self.x, "age": state["age"] + 1}

    def observation(self, state: dict[str, Any], *, key: jax.Array) -> np.ndarray:
        return np.array([state["x"]], np.float32)

    def terminal(self, state: dict[str, Any], *, key: jax.Array) -> bool:
        return float(state["x"]) > 4


class ByField(Dot):
    def select(self, state: Any) -> Any:
        return dict(state)


@pytest.mark.parametrize("traceable", [True, False])
def test_what_cannot_be_traced_is_played_on_the_host_with_that_iteration_s_policy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    traceable: bool,
) -> None:
    blocks = host_calls(monkeypatch)
    env = Simulator(traceable)
    with taping(tmp_path, env, renderer=ByField()) as (metrics, tape):
        run(metrics, jnp.float32(0.5), jax.random.key(2), policy=Partial(jnp.float32(1.5)))
        assert tape.shown == [(0, 3), (2, 9), (4, 15)]
        for index in range(3):
            assert tape.xs(index) == [0.0, 1.5, 3.0, 0.0, 1.5, 3.0]
            assert [state["age"] for state in tape.states(index)] == [0, 1, 2, 0, 1, 2]
    sizes = Counter(block.shape[-1] for block in blocks)
    assert sizes[HEADER + 1 + 2] == 3  # the parameter and the words of the key, when they are due
    said = [record.getMessage() for record in caplog.records if record.name == "metriplex"]
    assert len(said) == traceable
    assert all("the rollout can't be traced (TracerArrayConversionError" in one for one in said)


def Partial(weight: jax.Array) -> Any:  # noqa: N802 - as that of jax
    return jax.tree_util.Partial(lambda weight, observation: weight + 0 * observation[0], weight)


def test_it_has_the_policy_s_own_dtypes_and_keys(tmp_path: Path) -> None:
    class Policy(Walker):
        def __call__(self, state: Any, observation: Any, **_: Any) -> Any:
            half, key, name = self.speed
            assert half.dtype == jnp.float16
            assert name == "static"
            return state, 10 * half + jax.random.uniform(key)

    key = jax.random.key(6)
    policy = Policy((jnp.float16(0.25), key, "static"))
    with taping(tmp_path, Simulator(traceable=False), renderer=ByField()) as (metrics, tape):
        state = metrics.on_iteration(metrics.init(1), policy=policy)
        metrics.on_iteration(state, policy=policy)
        metrics.flush()
        assert tape.shown == [(0, 0)]
        assert tape.xs()[1] == pytest.approx(2.5 + float(jax.random.uniform(key)))


# ---- failure ------------------------------------------------------------------------------------


def test_without_a_policy_there_is_one_warning_and_everything_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory()
    with taping(tmp_path, LINE, backends=memory) as (metrics, tape):
        for _ in range(2):
            run(metrics, jnp.float32(0.2), policy=None)
        assert tape.rows == []
    assert len(memory.values("train/speed")) == 10
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "no evaluation videos: `on_iteration` was given no `policy=`" in warning.getMessage()


def test_a_policy_that_cannot_be_called_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with taping(tmp_path, LINE) as (metrics, _tape):
        run(metrics, jnp.float32(0.2), policy={"w": jnp.ones(3)})
    messages = [record.getMessage() for record in caplog.records if record.name == "metriplex"]
    assert len(messages) == 1
    assert "a policy must be callable to be shown; got `dict`" in messages[0]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (lambda _: (jnp.float32(1), jnp.float32(-0.5)), "`(float32[], float32[])`: return the act"),
        (lambda _: [jnp.zeros(2)], "`(float32[2])`: return the action alone"),
        (lambda _: jnp.zeros(4), "`float32[4]`: if the environment takes other actions"),
        (lambda _: object(), "`object`: return an action, such as a sample"),
        (lambda _: None, "`NoneType`: return an action"),
    ],
)
def test_what_a_policy_returned_that_is_no_action_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: Any, said: str
) -> None:
    with taping(tmp_path, LINE) as (metrics, _tape):
        run(metrics, jnp.float32(0.2), policy=jax.tree_util.Partial(policy))
    messages = [record.getMessage() for record in caplog.records if record.name == "metriplex"]
    assert "the environment can't take a step with what the policy returned, " in messages[0]
    assert said in messages[0]


@pytest.mark.long
def test_the_header_of_a_video_names_the_first_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = host_calls(monkeypatch)
    with taping(tmp_path, LINE) as (metrics, _tape):
        jax.vmap(lambda speed: train(metrics, speed, num_iterations=1))(jnp.ones(2))
        metrics.flush()
    (video,) = [block for block in blocks if block.shape[-1] == HEADER + 12]
    assert video.shape == (1, HEADER + 12)
    assert video[0, Header.LANE] == 0
