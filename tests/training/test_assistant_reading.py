"""Encoders learn to read rooms by themselves; policies and learned rewards begin with what they learned."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.architecture import TransformerConfig
from mmrlhf_jax.envs.rooms import Rooms
from mmrlhf_jax.envs.rooms_language import WORDS
from mmrlhf_jax.envs.vector import reset_all
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import equal_params
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.training.assistant import run as stage
from mmrlhf_jax.training.assistant.config import PRESETS
from mmrlhf_jax.training.assistant.reading import accuracies, define_reader, gaps, read_step, start_reading
from mmrlhf_jax.training.assistant.reading import run as read
from mmrlhf_jax.training.config.reading import ReadingConfig

ROOMS = Rooms(1, 3, 2, sight=0)
SMALL = ActorCriticConfig(
    "MultiInputPolicy",
    picture="patches",
    tower=TransformerConfig(width=32, layers=1, heads=1, mlp_width=64),
    fusion="cross_attention",
    fusion_width=32,
)
SMOKE = dataclasses.replace(
    PRESETS["smoke"], reading=ReadingConfig(steps=4, batch_size=8), total_timesteps=64, eval_every=1
)


def test_the_word_that_is_left_out_is_named():
    for level in (1, 3):
        rooms = Rooms(level, 3, 2, sight=0)
        state, observation = reset_all(rooms, jax.random.key(0), gaps(rooms, "train"), 32)
        missing_B = np.asarray(jax.vmap(rooms.left_out)(state))
        text_BxT, places_B = np.asarray(observation["text"]), np.asarray(state.unsaid)
        assert (text_BxT[np.arange(32), places_B] == 0).all() and (text_BxT == 0).sum() == 32
        named = {WORDS.index(word) for word in WORDS[-12:]}
        assert set(missing_B) <= named, "a colour or a kind"
        looks_BxN = np.asarray(state.looks_N)
        for row in range(32):
            kind, colour = divmod(int(looks_BxN[row, int(places_B[row] > 4)]), 6)
            assert WORDS[missing_B[row]] in (WORDS[-12 + colour], WORDS[-6 + kind])


@pytest.mark.learning
def test_words_that_are_left_out_are_read_off_the_picture():
    config = ReadingConfig(steps=300, batch_size=64, learning_rate=3e-3)
    definition = define_reader(ROOMS, SMALL)
    state = start_reading(definition, config, jax.random.key(0))
    key = jax.random.key(1)

    @jax.jit
    def train(state):
        step = functools.partial(read_step, ROOMS, definition, config)
        return jax.lax.scan(lambda state, _: step(state, key), state, length=config.steps)

    def right(params) -> float:
        return accuracies(ROOMS, definition, jax.tree.map(lambda leaf: leaf[None], params))["train"]

    assert right(state.params) < 0.3
    trained, metrics = train(state)
    found = right(trained.params)
    assert found > 0.75, "a guess among the things in the room is right half of the time"
    assert int(trained.step) == config.steps
    np.testing.assert_allclose(metrics["learning_rate"][0][jnp.array([0, 150])], [3e-3, 1.5e-3], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "reward"), [(1, "true"), (2, "learned")])
def test_a_run_begins_with_what_was_read(tmp_path: Path, monkeypatch, seeds: int, reward: str):
    config = dataclasses.replace(SMOKE, run=tmp_path, seeds=seeds, reward=reward)
    starts = []

    def fit(update, state, *given, **named):
        starts.append(state)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        stage.run(config)
    encoder_K = read(config, stage.make_rooms(config), stage.member_keys(config))  # what is on disk
    rows = read_metrics(tmp_path / "seed_0" / "reading" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and 0 <= rows[-1]["accuracy"] <= 1
    encoder = encoder_K if seeds > 1 else jax.tree.map(lambda leaf: leaf[0], encoder_K)
    start = starts[0]
    assert equal_params(start.learner.params["encoder"], encoder)
    fresh = stage.make_course(config).start()
    assert not equal_params(fresh.learner.params["encoder"], encoder)
    assert equal_params(fresh.learner.params["actor"], start.learner.params["actor"])
    if reward == "learned":
        assert equal_params(start.reward.params["encoder"], encoder)


def test_the_config_is_checked():
    with pytest.raises(UserError, match=r"--reading\.steps 400"):
        ReadingConfig(steps=-1)
