from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriplex.demo.policy import ActorCritic, apply_mlp, init_mlp, mask_logits

pytestmark = pytest.mark.long

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def policy():
    return ActorCritic.init(KEY, observation_size=4, num_actions=3, hidden=(16, 8))


def test_weights_are_orthogonal_with_their_gain_and_biases_zero():
    layers = init_mlp(KEY, (4, 16, 8, 3), output_scale=0.01)
    for (weight, bias), shape, gain in zip(
        layers, [(4, 16), (16, 8), (8, 3)], [2**0.5, 2**0.5, 0.01], strict=True
    ):
        assert weight.shape == shape
        assert bias.shape == shape[1:]
        assert not bias.any()
        short = weight if shape[0] < shape[1] else weight.T
        np.testing.assert_allclose(short @ short.T, gain**2 * np.eye(len(short)), atol=1e-5)


def test_the_network_is_that_of_numpy(policy):
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    layers = [(np.float64(w), np.float64(b + 0.1)) for w, b in policy.actor]
    shifted = tuple((w, b + 0.1) for w, b in policy.actor)
    expected = np.tanh(np.tanh(x @ layers[0][0] + 0.1) @ layers[1][0] + 0.1) @ layers[2][0] + 0.1
    np.testing.assert_allclose(apply_mlp(shifted, jnp.asarray(x)), expected, atol=1e-6)


def test_it_speaks_the_protocol_of_policies(policy):
    state = policy.reset(key=KEY)
    assert state is None
    assert policy.name == "PPO"
    observation = jnp.arange(4.0)
    after, drawn = policy(state, observation, key=KEY, action_mask=None)
    assert after is None
    assert drawn.dtype == jnp.int32
    assert drawn.shape == ()
    _, likeliest = policy(state, observation)
    assert int(likeliest) == int(np.argmax(policy.logits(observation)))


def test_actions_are_drawn_with_their_probabilities(policy):
    observation = jnp.array([5.0, -5.0, 2.0, 0.0])
    sharp = ActorCritic(actor=jax.tree.map(lambda x: 3 * x, policy.actor), critic=policy.critic)
    _, actions = sharp(None, jnp.tile(observation, (20_000, 1)), key=KEY)
    shares = np.bincount(actions, minlength=3) / len(actions)
    np.testing.assert_allclose(shares, jax.nn.softmax(sharp.logits(observation)), atol=0.015)


def test_forbidden_actions_are_never_taken_and_gradients_stay_finite(policy):
    mask = jnp.array([True, False, True])
    observations = jax.random.normal(KEY, (5_000, 4))
    _, actions = policy(None, observations, key=KEY, action_mask=mask)
    assert set(np.unique(actions)) == {0, 2}
    _, likeliest = policy(None, observations, action_mask=jnp.array([False, True, False]))
    assert set(np.unique(likeliest)) == {1}

    def entropy(logits):
        log_probs = jax.nn.log_softmax(mask_logits(logits, mask))
        return -jnp.sum(jnp.exp(log_probs) * log_probs)

    value, gradient = jax.value_and_grad(entropy)(jnp.zeros(3))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_it_passes_through_jit_as_a_pytree(policy):
    leaves, structure = jax.tree.flatten(policy)
    assert len(leaves) == 12
    assert isinstance(jax.tree.unflatten(structure, leaves), ActorCritic)
    value = jax.jit(lambda p, x: p.value(x))(policy, jnp.ones((7, 4)))
    assert value.shape == (7,)
