from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from mujoco import mjx

from metriplex_mujoco import DrawingError, HeadlessMujocoRenderer
from metriplex_mujoco.context import import_mujoco

mujoco = import_mujoco()


@pytest.fixture
def renderer(model: Any) -> HeadlessMujocoRenderer:
    return HeadlessMujocoRenderer(model, 64, 48)


def holders(simulation: Any) -> dict[str, Any]:
    """The places where environments keep their simulation."""
    ns = SimpleNamespace
    return {
        "itself": simulation,
        "unwrapped.sim_state": ns(unwrapped=ns(sim_state=simulation, data=np.zeros(3))),
        "unwrapped.data": ns(unwrapped=ns(data=simulation), data=np.zeros(3)),
        "unwrapped": ns(unwrapped=simulation),
        "sim_state": ns(sim_state=simulation),
        "data": ns(data=simulation),
        "pipeline_state": ns(pipeline_state=simulation),
    }


@pytest.mark.parametrize("place", list(holders(None)))
def test_where_a_simulation_is_found(
    renderer: HeadlessMujocoRenderer, data: Any, place: str
) -> None:
    selected = renderer.select(holders(data)[place])
    assert set(selected) == {"qpos", "mocap_pos", "mocap_quat"}
    np.testing.assert_array_equal(selected["qpos"], data.qpos)
    np.testing.assert_array_equal(selected["mocap_pos"], [[0.8, 0.5, 0.2]])


def test_anything_with_qpos_will_do(renderer: HeadlessMujocoRenderer) -> None:
    state = SimpleNamespace(qpos=np.arange(9.0), qvel=np.zeros(8))
    assert list(renderer.select(state)) == ["qpos"]


def test_of_traced_mjx_data_only_a_few_arrays_are_shipped(
    renderer: HeadlessMujocoRenderer, model: Any, data: Any
) -> None:
    simulation = mjx.put_data(model, data)
    assert len(jax.tree.leaves(simulation)) > 40
    select = jax.jit(lambda d: renderer.select(SimpleNamespace(unwrapped=SimpleNamespace(data=d))))
    selected = select(simulation)
    shapes = {name: value.shape for name, value in selected.items()}
    assert shapes == {"qpos": (9,), "mocap_pos": (1, 3), "mocap_quat": (1, 4)}
    assert sum(value.nbytes for value in selected.values()) == 64
    np.testing.assert_allclose(selected["qpos"], data.qpos, rtol=1e-6)
    batch = jax.tree.map(lambda leaf: leaf[None], simulation)
    np.testing.assert_array_equal(jax.vmap(renderer.select)(batch)["qpos"], selected["qpos"][None])
    with pytest.raises(DrawingError, match=r"\[9\]; got \[1, 9\]: give one state, not a batch"):
        select(batch)


def test_forces_need_velocities_and_controls(model: Any, data: Any) -> None:
    shown: tuple[dict[str, Any], ...] = (
        {"flags": {"contactforce": True}},
        {"flags": {"Actuator": True}},
        {"label": "contactforce"},
        {"frame": "contact"},
    )
    for options in shown:
        selected = HeadlessMujocoRenderer(model, 64, 48, **options).select(data)
        assert {"qvel", "ctrl"} < set(selected)
    quiet = HeadlessMujocoRenderer(model, 64, 48, flags={"contactforce": False}, label="body")
    assert "qvel" not in quiet.select(data)


def test_muscles_and_rangefinders_bring_what_shows_them() -> None:
    model = mujoco.MjModel.from_xml_string("""
        <mujoco><worldbody><body><joint name="j"/><geom size=".1"/><site name="s"/></body>
        </worldbody><actuator><general joint="j" dyntype="integrator"/></actuator>
        <sensor><rangefinder site="s"/></sensor></mujoco>""")
    data = mujoco.MjData(model)
    selected = HeadlessMujocoRenderer(model, 64, 48).select(data)
    assert set(selected) == {"qpos", "act", "qvel", "ctrl"}
    blind = HeadlessMujocoRenderer(model, 64, 48, flags={"rangefinder": False})
    assert set(blind.select(data)) == {"qpos", "act"}


def test_a_state_without_a_simulation(renderer: HeadlessMujocoRenderer) -> None:
    message = r"no simulation was found in a state of type `ndarray`.*`\.unwrapped\.sim_state`"
    with pytest.raises(DrawingError, match=message):
        renderer.select(np.zeros(3))


def test_a_state_of_another_model(renderer: HeadlessMujocoRenderer) -> None:
    with pytest.raises(DrawingError, match=r"`qpos` .* \[9\]; got \[2\]: the state is of another"):
        renderer.select(SimpleNamespace(qpos=np.zeros(2)))


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        (np.zeros(9), "a dict of .*; got ndarray"),
        ({}, r"got \[\]"),
        ({"qpos": np.zeros(9), "qacc": np.zeros(8)}, r"got \['qacc', 'qpos'\]"),
        ({"qpos": np.zeros(8)}, r"must have the shape \[9\]; got \[8\]"),
        ({"qpos": ["up"] * 9}, "`qpos` holds no numbers"),
    ],
)
def test_what_select_does_not_give_is_not_rendered(
    renderer: HeadlessMujocoRenderer, selected: Any, message: str
) -> None:
    with pytest.raises(DrawingError, match=message):
        renderer.render(selected)
