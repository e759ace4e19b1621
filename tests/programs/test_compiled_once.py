"""Programs that are compiled once and used again: jax's persistent cache, and `jax.export`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest
from jax import export

from interpreter import Program
from memory import Memory
from metriplex import MetricsCallback
from metriplex.bridge.ffi_handlers import TARGETS, explain_unusable

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(explain_unusable() is not None, reason="no FFI in this jaxlib")

TRAIN = """
import collections, json, sys
import jax, jax.numpy as jnp
from metriplex import MetricsCallback, hookimpl

jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "/cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.split("/")[-1]]))

class Keep:
    values = []

    @hookimpl
    def log_scalars(self, records):
        for record in records:
            values = [item for item in sorted(record.values.items()) if "time/" not in item[0]]
            self.values.append([record.step, values])

@jax.jit
def train(state, start):
    def body(state, index):
        metrics.log(index, {"sample": start * index})
        state = metrics.on_step(state, jnp.ones(1), jnp.ones(1, bool))
        return metrics.on_iteration(state, training_log={"loss": start + index}), None
    state = metrics.on_training_start(state)
    return metrics.on_training_end(jax.lax.scan(body, state, jnp.arange(5))[0])

options = json.loads(sys.argv[2])
with MetricsCallback("r", log_dir=sys.argv[1], backends=Keep(), **options) as metrics:
    state = metrics.init(1)
    events.clear()
    train(state, jnp.float32(sys.argv[3]))
    found = dict(events)
print(json.dumps([found, sorted(Keep.values)]))
"""

OPTIONS = [{}, {"buffer": 2}, {"nonfinite": "abort"}, {"episode_stats": True}]


@pytest.mark.long
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_program_of_the_persistent_cache_logs_in_a_new_process(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    def train(start: float) -> tuple[dict[str, int], list[Any]]:
        program = Program(TRAIN, tmp_path, json.dumps(options), start)
        output, errors = program.communicate(timeout=120)
        assert program.returncode == 0, errors
        events, values = json.loads(output)
        return events, values

    events, first = train(1.0)
    assert events["cache_misses"] >= 1
    assert len(first) == 10
    events, again = train(1.0)
    assert again == first
    assert "cache_misses" not in events
    assert events["cache_hits"] >= 1
    events, other = train(2.0)
    assert "cache_misses" not in events
    assert [dict(values)["train/loss"] for _, values in other if len(values) > 1] == [2, 3, 4, 5, 6]


def test_an_exported_program_logs_in_the_process_that_exported_it(tmp_path: Path) -> None:
    memory = Memory()
    allowed = [export.DisabledSafetyCheck.custom_call(target) for target in TARGETS]
    with MetricsCallback("r", log_dir=tmp_path, backends=memory, provenance=False) as metrics:

        def program(start: jax.Array) -> jax.Array:
            def body(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
                metrics.log(jnp.int32(index), {"sum": total})
                return total + index, None

            return jax.lax.scan(body, start, jnp.arange(4.0))[0]

        exported = export.export(jax.jit(program), disabled_checks=allowed)(jnp.float32(0))
        assert float(jax.jit(exported.call)(jnp.float32(1))) == 7
        assert float(exported.call(jnp.float32(10))) == 16
    assert memory.values("sum") == [1, 1, 2, 4, 10, 10, 11, 13]
