"""The assistant's stage at its smallest: what it leaves, that it resumes bit for bit, what is measured."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.envs.rooms import Rooms
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.sb3 import PPO
from mmrlhf_jax.training.assistant import run as stage
from mmrlhf_jax.training.assistant.config import PRESETS, AssistantConfig
from mmrlhf_jax.training.assistant.episodes import blind, film, misled, oracle
from mmrlhf_jax.training.assistant.evaluation import PLAYERS, splits
from mmrlhf_jax.training.config.environment import ActorCriticTraining, a2c_training
from mmrlhf_jax.training.config.reading import ReadingConfig
from mmrlhf_jax.training.saved_agent import load_agent

SMOKE = dataclasses.replace(  # four calls of two iterations; reading has tests of its own
    PRESETS["smoke"], total_timesteps=256, reading=ReadingConfig(steps=0)
)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def course():
    """Compiled once for all runs of this file."""
    return stage.make_course(SMOKE)


def interrupted(course: stage.Course, calls: int) -> stage.Course:
    done = iter(range(calls))

    def update(state):
        if next(done, None) is None:
            raise Interrupted
        return course.update(state)

    return course._replace(update=update)


@pytest.fixture(scope="module")
def whole(course, tmp_path_factory) -> Path:
    """A run left alone."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "make_course", lambda config: course)
        stage.run(dataclasses.replace(SMOKE, run=folder))
    return folder


@pytest.mark.slow
def test_a_run_leaves_model_metrics_report_and_summary(whole: Path, monkeypatch):
    summary = json.loads((whole / "summary.json").read_text())
    for split in ("train", "combinations"):
        found = summary["success"][split]
        assert set(found) == set(PLAYERS)
        assert found["oracle"]["success"] == 1.0 and found["oracle"]["detour"] == 1.0
        assert found["greedy"]["of_each"] == [found["greedy"]["success"]]
    assert summary["timesteps"] == 256 and summary["reward"] == "true"
    rows = read_metrics(whole / "seed_0" / "assistant" / "metrics.jsonl")
    assert {"success/train", "success/combinations"} <= {name for row in rows for name in row}
    assert rows[-1]["step"] == 8
    page = (whole / "report.html").read_text()
    assert "go to the" in page and 'class="card film"' in page and "held-out combinations" in page
    agent, learner = load_agent(whole / "seed_0" / "assistant" / "model")
    assert agent.num_timesteps == 256 and int(learner.step) == 8
    action, _ = PPO.load(whole / "seed_0" / "assistant" / "model").predict(
        {"image": np.zeros((18, 18, 3), np.uint8), "text": np.zeros(5, np.int32)}
    )
    assert 0 <= int(action) < 4
    monkeypatch.setattr(stage, "fit", None)  # a second start only tells the result
    assert stage.run(dataclasses.replace(SMOKE, run=whole))["timesteps"] == 256


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(whole: Path, course, tmp_path: Path, monkeypatch):
    config = dataclasses.replace(SMOKE, run=tmp_path)
    monkeypatch.setattr(stage, "make_course", lambda config: interrupted(course, 3))
    with pytest.raises(Interrupted):
        stage.run(config)
    with pytest.raises(UserError, match="--resume"):
        stage.run(config)
    monkeypatch.setattr(stage, "make_course", lambda config: course)
    stage.run(dataclasses.replace(config, resume=True))

    def numbers(run: Path) -> list[dict]:
        rows = read_metrics(run / "seed_0" / "assistant" / "metrics.jsonl")
        return [{name: value for name, value in row.items() if name != "time"} for row in rows]

    assert numbers(tmp_path) == numbers(whole)
    _, ours = load_agent(tmp_path / "seed_0" / "assistant" / "model")
    _, theirs = load_agent(whole / "seed_0" / "assistant" / "model")
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_two_seeds_learn_from_comparisons(tmp_path: Path, capsys: pytest.CaptureFixture):
    config = dataclasses.replace(SMOKE, run=tmp_path, reward="learned", seeds=2)
    result = stage.run(config)
    assert result["comparisons"] == 16 and len(result["success"]["train"]["greedy"]["of_each"]) == 2
    rows = read_metrics(tmp_path / "seed_0" / "assistant" / "metrics.jsonl")
    assert {row["step"] for row in rows} == {1, 2, 3, 4}
    measured = [row["held_out/accuracies"] for row in rows if row.get("held_out/accuracies") is not None]
    assert measured and all(0 <= share <= 1 for share in measured)
    members = [tmp_path / "seed_0" / "assistant" / "members" / str(k) for k in range(2)]
    (one, _), (two, _) = (load_agent(member / "model") for member in members)
    assert (one.seed, two.seed) == (0, 1)
    assert "oracle 100.0%" in capsys.readouterr().out
    assert "simulated rater" in (tmp_path / "report.html").read_text()


@pytest.mark.medium
def test_films_stand_still_after_the_end_and_count_up_to_it():
    environment = Rooms(1, 3, 2, sight=0)
    world = environment.default_params
    shown = jax.jit(lambda key: film(environment, oracle(environment), world, key, episodes=32, steps=6))(
        jax.random.key(0)
    )
    assert shown.image_ExTxHxWxC.shape == (32, 7, 18, 18, 3)
    for number in range(32):
        frames, steps = shown.image_ExTxHxWxC[number], int(shown.played.steps_E[number])
        assert steps == int(shown.played.shortest_E[number]) >= 1
        moved = [bool((frames[t] != frames[t + 1]).any()) for t in range(6)]
        assert moved == [t < steps for t in range(6)], "the oracle moves in every step, and nothing after it"


def test_blind_and_misled_change_what_is_seen_and_nothing_else():
    seen = {"image": jnp.ones((3, 2, 2, 3), jnp.uint8), "text": jnp.array([[1], [2], [3]])}
    look = lambda state, observation, key: observation  # noqa: E731
    key = jax.random.key(0)
    black = blind(look)(None, seen, key)  # type: ignore[arg-type]
    assert not black["image"].any() and black["text"].tolist() == [[1], [2], [3]]
    other = misled(look)(None, seen, key)  # type: ignore[arg-type]
    assert other["image"].all() and other["text"].tolist() == [[3], [1], [2]]


def test_configs_are_checked_and_say_what_is_trained():
    assert splits(1) == ("train", "combinations") and splits(3) == ("train", "combinations", "pairs")
    with pytest.raises(UserError, match="at least one call, 64"):
        dataclasses.replace(SMOKE, total_timesteps=63)
    with pytest.raises(UserError, match=r"ppo\.algorithm"):
        AssistantConfig(ppo=a2c_training())
    with pytest.raises(UserError, match="nothing is carried at level 2"):
        AssistantConfig(level=2, carrying=0.5)
    with pytest.raises(UserError, match="reward is 'both'"):
        AssistantConfig(reward="both")  # type: ignore[arg-type]
    assert PRESETS["a2c"].training.algorithm == "a2c"
    assert isinstance(PRESETS["quick"].training, ActorCriticTraining) and SMOKE.updates == 8
    learned = dataclasses.replace(SMOKE, reward="learned")
    assert (learned.calls, learned.updates) == (2, 4)
