"""Actor and critic: distributions against numpy, SB3's first weights, every fusion, what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.architecture import TransformerConfig
from mmrlhf_jax.envs.corners import Corners
from mmrlhf_jax.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Tokens, zeros
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion import METHODS
from mmrlhf_jax.modules import count_params
from mmrlhf_jax.policy.actions import (
    Categorical,
    DiagonalGaussian,
    as_action,
    distribution,
    draw_noise,
)
from mmrlhf_jax.policy.actor_critic import define_actor_critic
from mmrlhf_jax.policy.observation import flatten, windows

TOWER = TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)
SMALL = ActorCriticConfig(
    kind="MultiInputPolicy",
    actor=(8,),
    critic=(8,),
    picture_width=16,
    tower=TOWER,
    patch_size=4,
    fusion_width=8,
)


def test_categorical_against_numpy():
    logits_BxA = np.array([[0.0, 1.0, -2.0], [3.0, 3.0, 0.5]], np.float32)
    p_BxA = np.exp(logits_BxA) / np.exp(logits_BxA).sum(axis=1, keepdims=True)
    found = Categorical(jnp.asarray(logits_BxA))
    np.testing.assert_allclose(found.logprobs(jnp.array([2, 0])), np.log(p_BxA[[0, 1], [2, 0]]), rtol=1e-5)
    np.testing.assert_allclose(found.entropy(), -(p_BxA * np.log(p_BxA)).sum(axis=1), rtol=1e-5)
    assert found.mode().tolist() == [1, 0]


def test_samples_follow_the_distribution():
    count = 20_000
    logits_BxA = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.3, 0.2])), (count, 3))
    actions_B = Categorical(logits_BxA).sample(draw_noise(Discrete(3), jax.random.key(0), (count,)))
    expected = count * np.array([0.5, 0.3, 0.2])
    chi_squared = ((np.bincount(actions_B, minlength=3) - expected) ** 2 / expected).sum()
    assert chi_squared < 13.8, "p < 0.001 with two degrees of freedom"


def test_gaussian_against_its_density():
    mean_BxD, log_std_D = np.array([[0.0, 1.0]], np.float32), np.array([0.5, -1.0], np.float32)
    found = DiagonalGaussian(jnp.asarray(mean_BxD), jnp.asarray(log_std_D))
    action_BxD = np.array([[0.7, 0.4]], np.float32)
    std_D = np.exp(np.asarray(log_std_D))
    density = np.exp(-0.5 * ((action_BxD - mean_BxD) / std_D) ** 2) / (std_D * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(found.logprobs(jnp.asarray(action_BxD)), np.log(density).sum(), rtol=1e-5)
    np.testing.assert_allclose(found.entropy(), np.sum(0.5 * np.log(2 * np.pi * np.e * std_D**2)), rtol=1e-5)
    noise_BxD = jnp.array([[1.0, -2.0]])
    np.testing.assert_allclose(found.sample(noise_BxD), mean_BxD + np.array([[1.0, -2.0]]) * std_D, rtol=1e-6)
    np.testing.assert_array_equal(found.mode(), mean_BxD)


def test_several_choices_are_independent():
    space = MultiDiscrete((2, 3))
    logits_BxN = jnp.array([[0.0, 2.0, 1.0, 0.0, 5.0]])
    found = distribution(space, logits_BxN, None)
    assert found.mode().tolist() == [[1, 2]]
    parts = Categorical(logits_BxN[:, :2]), Categorical(logits_BxN[:, 2:])
    action_BxK = jnp.array([[0, 2]])
    wanted = parts[0].logprobs(action_BxK[:, 0]) + parts[1].logprobs(action_BxK[:, 1])
    np.testing.assert_allclose(found.logprobs(action_BxK), wanted, rtol=1e-6)
    np.testing.assert_allclose(found.entropy(), parts[0].entropy() + parts[1].entropy(), rtol=1e-6)
    noise_BxN = draw_noise(space, jax.random.key(0), (1,))
    wanted = [[int(parts[0].sample(noise_BxN[:, :2])[0]), int(parts[1].sample(noise_BxN[:, 2:])[0])]]
    assert found.sample(noise_BxN).tolist() == wanted


def test_actions_of_a_box_are_cut_to_its_bounds_and_shape():
    space = Box((1, 2), (-1.0, 0.0), 2.0)
    assert as_action(space, jnp.array([[-5.0, 5.0]])).tolist() == [[[-1.0, 2.0]]]
    assert as_action(space, jnp.array([[0.5, -1.0]])).tolist() == [[[0.5, 0.0]]]
    with pytest.raises(UserError, match="only Discrete, MultiDiscrete and Box"):
        draw_noise(Tokens(2, 3), jax.random.key(0), (1,))


def test_first_weights_are_those_of_sb3():
    definition = define_actor_critic(Box((4,)), Discrete(2), ActorCriticConfig())
    params = definition.init(jax.random.key(0))
    # SB3's MlpPolicy on CartPole: 2 x (4 x 64 + 64 + 64 x 64 + 64) + (64 x 2 + 2) + (64 + 1)
    assert count_params(params) == 9155
    for part, gain in (("actor", math.sqrt(2)), ("critic", math.sqrt(2))):
        for layer in params[part]["layers"].values():
            kernel = np.asarray(layer["kernel"])
            small = min(kernel.shape)
            square = kernel @ kernel.T if kernel.shape[0] == small else kernel.T @ kernel
            np.testing.assert_allclose(square, gain**2 * np.eye(small), atol=1e-4)
            assert not np.any(layer["bias"])
    np.testing.assert_allclose(np.linalg.norm(params["act"]["kernel"], axis=0), 0.01, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(params["value"]["kernel"], axis=0), 1.0, rtol=1e-4)
    out = definition.bind(params)(jnp.ones((3, 4)))
    np.testing.assert_allclose(jax.nn.softmax(out.distribution.logits_BxA), 0.5, atol=0.02)
    np.testing.assert_array_equal(out.values_B, definition.bind(params).values(jnp.ones((3, 4))))


def test_whole_numbers_enter_one_hot_and_pictures_from_0_to_1():
    assert flatten(Discrete(3), jnp.array([2])).tolist() == [[0, 0, 1]]
    assert flatten(MultiDiscrete((2, 3)), jnp.array([[1, 0]])).tolist() == [[0, 1, 1, 0, 0]]
    assert flatten(Tokens(2, 2), jnp.array([[1, 0]])).tolist() == [[0, 1, 1, 0]]
    picture = Box((1, 1, 2), 0.0, 255.0, "uint8")
    assert flatten(picture, jnp.array([[[[255, 0]]]], jnp.uint8)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("size", "kernel", "stride"), [(12, 8, 4), (11, 4, 2), (5, 3, 1)])
def test_windows_make_a_convolution_of_a_matrix_product(size: int, kernel: int, stride: int):
    random = np.random.default_rng(0)
    image = random.normal(size=(2, size, size, 3)).astype(np.float32)
    weights_OxKxKxC = random.normal(size=(5, kernel, kernel, 3)).astype(np.float32)
    # the weights in the order of the windows: the same cut, of each filter as a picture of one window
    weights_NxO = windows(jnp.asarray(weights_OxKxKxC), kernel, stride).reshape(5, -1).T
    found = windows(jnp.asarray(image), kernel, stride) @ weights_NxO
    side = (size - kernel) // stride + 1
    wanted = np.zeros((2, side, side, 5))
    for i in range(side):
        for j in range(side):
            window = image[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            wanted[:, i, j] = np.einsum("bxyc,oxyc->bo", window, weights_OxKxKxC)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fusion", METHODS)
def test_every_fusion_joins_picture_words_and_numbers(fusion: str):
    environment = Corners(size=8)
    config = ActorCriticConfig(**{**vars(SMALL), "fusion": fusion})
    definition = define_actor_critic(environment.observation_space, environment.action_space, config)
    observation = zeros(environment.observation_space, 3)
    out = jax.eval_shape(
        lambda params: definition.bind(params)(jax.tree.map(jnp.asarray, observation)), definition.abstract()
    )
    assert out.distribution.logits_BxA.shape == (3, 4) and out.values_B.shape == (3,)


def test_patches_are_read_one_by_one_and_know_their_place():
    space = Dict.of(image=Box((4, 6, 3), 0.0, 255.0, "uint8"))
    config = ActorCriticConfig(
        **{**vars(SMALL), "picture": "patches", "patch_size": 2, "fusion": "image_only"}
    )
    definition = define_actor_critic(space, Discrete(2), config)
    encoder = definition.bind(definition.init(jax.random.key(0))).encoder.encoders["image"]
    image = jnp.full((1, 4, 6, 3), 100, jnp.uint8)
    before_PxD = np.asarray(encoder(image))[0]
    after_PxD = np.asarray(encoder(image.at[0, 2, 5].set(255)))[0]
    assert before_PxD.shape == (6, 16)
    changed_P = (before_PxD != after_PxD).any(axis=1)
    assert changed_P.tolist() == [False] * 5 + [True], "row 1, column 2 of the patches alone"
    # the same patch elsewhere differs by what row and column add, each independent of the other
    grid = before_PxD.reshape(2, 3, 16)
    np.testing.assert_allclose(grid[0, 2] - grid[0, 0], grid[1, 2] - grid[1, 0], atol=1e-5)
    assert (grid[0, 0] != grid[1, 0]).all() and (grid[0, 0] != grid[0, 1]).all()


@pytest.mark.parametrize("picture", ["cnn", "vit", "patches"])
def test_every_modality_is_seen_and_padding_is_not(picture: str):
    environment = Corners(size=8)
    config = ActorCriticConfig(**{**vars(SMALL), "picture": picture})
    definition = define_actor_critic(environment.observation_space, environment.action_space, config)
    params = definition.init(jax.random.key(0))
    values = jax.jit(lambda params, observation: definition.bind(params).values(observation))
    base = {
        "image": jnp.full((1, 8, 8, 3), 90, jnp.uint8),
        "text": jnp.array([[1, 0]], jnp.int32),
        "switch": jnp.ones((1, 1)),
    }
    changed = {
        "image": base["image"].at[0, :4].set(255),
        "text": jnp.array([[2, 0]], jnp.int32),
        "switch": -base["switch"],
    }
    before = float(values(params, base)[0])
    for name in base:
        assert float(values(params, {**base, name: changed[name]})[0]) != pytest.approx(before, abs=1e-6)
    # the padding token's own vector is looked at by nothing
    spoilt = jax.tree.map(lambda leaf: leaf, params)
    table = spoilt["encoder"]["encoders"]["text"]["embed"]["embedding"]
    spoilt["encoder"]["encoders"]["text"]["embed"]["embedding"] = table.at[0].add(100.0)
    assert float(values(spoilt, base)[0]) == pytest.approx(before, rel=1e-5)


def test_what_does_not_fit_is_refused():
    picture, grey = Box((6, 6, 3), 0.0, 255.0, "uint8"), Box((8, 8, 1), 0.0, 255.0, "uint8")
    for observation, config, message in (
        (Box((4,)), SMALL, 'use "MlpPolicy"'),
        (Dict.of(a=Box((4,))), ActorCriticConfig(), 'use "MultiInputPolicy"'),
        (Dict.of(image=picture), SMALL, "6x6 pixels: the CNN reads 8 and more"),
        (Dict.of(image=grey), ActorCriticConfig(**{**vars(SMALL), "picture": "vit"}), "RGB"),
        (Dict.of(image=picture), ActorCriticConfig(**{**vars(SMALL), "picture": "patches"}), "patch_size 4"),
        (Dict.of(a=Box((4,))), ActorCriticConfig(**{**vars(SMALL), "fusion": "text_only"}), "text"),
    ):
        with pytest.raises(UserError, match=message):
            define_actor_critic(observation, Discrete(2), config)
    with pytest.raises(UserError, match="fusion is 'sum'"):
        ActorCriticConfig(fusion="sum")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="actor is 0"):
        ActorCriticConfig(actor=(64, 0))
