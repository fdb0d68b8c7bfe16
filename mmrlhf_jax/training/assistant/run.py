"""Trains assistants in the rooms, several seeds in one program, and says how often they do as told."""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.rooms import Rooms, RoomsParams
from mmrlhf_jax.evaluate.summary import write_summary
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.segments import SegmentReward, define_segment_reward
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.platform import device_name, git_revision, versions
from mmrlhf_jax.training.assistant import reading
from mmrlhf_jax.training.assistant.config import AssistantConfig
from mmrlhf_jax.training.assistant.evaluation import PLAYERS, measure, play_members, show, splits
from mmrlhf_jax.training.assistant.report import write_page_of
from mmrlhf_jax.training.environment import Hyper, Task, annealed, init_state, update_step
from mmrlhf_jax.training.loop import Evaluation, as_read, describe, fit, member_folder
from mmrlhf_jax.training.saved_agent import SavedAgent, save_agent
from mmrlhf_jax.training.trajectory_preferences import start_teaching, teach_round
from mmrlhf_jax.types import Metrics

State = Any  # EnvironmentState, or Taught with a learned reward; with several seeds, members in front


class Course(NamedTuple):
    """What is trained, and how.

    Attributes:
      world: what the rooms pose in training, and their reward.
      start: () → the first state.
      update: compiled, state → (state, metrics of `config.per_call` iterations).
    """

    environment: Rooms
    task: Task
    world: RoomsParams
    start: Callable[[], State]
    update: Callable[[State], tuple[State, Metrics]]


def make_course(config: AssistantConfig) -> Course:
    """The task, and the compiled call, of what `config` asks for; everything random hangs on its seed."""
    environment = make_rooms(config)
    task = Task.of(environment, config.training, config.architecture)
    world = environment.params("train", shaping=config.shaping)
    world = world._replace(
        wrong_cost=config.wrong_cost,
        word_dropout=config.word_dropout,
        disguise=config.disguise,
        carrying=config.carrying,
    )
    world = jax.tree.map(jnp.asarray, world)
    if config.reward == "learned":
        start_one, call = _teaching(config, task, world)
    else:
        start_one, call = _practice(config, task, world)
    keys_K = member_keys(config)
    if config.seeds == 1:
        update = jax.jit(lambda state, key: as_read(call(state, key), config.per_call))
        start_only, update_only = lambda: start_one(keys_K[0]), lambda state: update(state, keys_K[0])
        return Course(environment, task, world, start_only, update_only)
    together = jax.jit(
        lambda states, keys: as_read(_members_last(jax.vmap(call)(states, keys)), config.per_call)
    )
    start_all, update_all = lambda: jax.vmap(start_one)(keys_K), lambda states: together(states, keys_K)
    return Course(environment, task, world, start_all, update_all)


def make_rooms(config: AssistantConfig) -> Rooms:
    """The environment that `config` describes."""
    return Rooms(config.level, config.size, config.things, config.divided, config.sight)


def member_keys(config: AssistantConfig) -> jax.Array:
    """A key for each seed, (K,)."""
    return jax.vmap(jax.random.key)(jnp.arange(config.seed, config.seed + config.seeds))


def with_encoder(config: AssistantConfig, state: State, encoder_K: Params) -> State:
    """A start whose policy, and learned reward, read as `encoder_K` does; one of a leading axis of seeds."""
    encoder = encoder_K if config.seeds > 1 else jax.tree.map(lambda leaf: leaf[0], encoder_K)

    def able(params: Params) -> Params:
        return {**params, "encoder": encoder}

    state = state._replace(learner=state.learner._replace(params=able(state.learner.params)))
    if config.reward == "learned":
        state = state._replace(reward=state.reward._replace(params=able(state.reward.params)))
    return state


def run(config: AssistantConfig) -> dict[str, Any]:
    """Trains, measures, and leaves models, metrics, films, report.html and summary.json.

    Returns:
      By split and player how often instructions were followed; see `evaluation.measure`.
    """
    course = make_course(config)
    if config.dry_run:
        state = jax.eval_shape(course.start)
        describe("assistant", state.learner.params, jax.jit(course.update), {"state": state})
        return {}
    encoder_K = None
    if config.reading.steps:
        encoder_K = reading.run(config, course.environment, member_keys(config))
    with StageFolder.open(config.folder("assistant"), config, resume=config.resume) as folder:
        if not folder.is_done:
            start = course.start()
            state = fit(
                course.update,
                start if encoder_K is None else with_encoder(config, start, encoder_K),
                config,
                folder,
                steps=config.updates,
                shown=("rollout/ep_rew_mean", "train/entropy_loss"),
                evaluation=Evaluation(functools.partial(_evaluate, config, course), config.eval_every),
                steps_per_call=config.per_call,
                members=config.seeds,
            )
            _finish(config, course, state, folder)
        result = folder.result()
    for split, players in result["success"].items():
        one, (low, high) = players["greedy"]["success"], players["greedy"]["ci95"]
        best, chance = (players[name]["success"] for name in ("oracle", "chance"))
        print(
            f"{split}: {one:.1%} [{low:.3f}, {high:.3f}] done as told, oracle {best:.1%}, chance {chance:.1%}"
        )
    print(f"report: {config.run / 'report.html'}")
    return result


def _practice(
    config: AssistantConfig, task: Task, world: RoomsParams
) -> tuple[Callable[[jax.Array], State], Callable[[State, jax.Array], tuple[State, Metrics]]]:
    """Learning from the true reward: (key → state), and iterations (state, key) → (state, metrics)."""
    hyper = Hyper.of(task, world)

    def start(key: jax.Array) -> State:
        return init_state(task, jax.random.fold_in(key, 0), world)

    def one(state: State, key: jax.Array) -> tuple[State, Metrics]:
        remaining = 1.0 - state.learner.step.astype(jnp.float32) / config.updates
        rates = annealed(hyper, remaining) if config.training.anneal else hyper
        return update_step(task, state, rates, jax.random.fold_in(key, 1))

    def call(state: State, key: jax.Array) -> tuple[State, Metrics]:
        return jax.lax.scan(lambda state, _: one(state, key), state, None, length=config.per_call)

    return jax.jit(start), jax.jit(call)


def _teaching(
    config: AssistantConfig, task: Task, world: RoomsParams
) -> tuple[Callable[[jax.Array], State], Callable[[State, jax.Array], tuple[State, Metrics]]]:
    """Learning from comparisons; a call is a round."""
    environment = task.environment
    definition: Definition[SegmentReward] = define_segment_reward(
        environment.observation_space, environment.action_space, config.architecture
    )

    def start(key: jax.Array) -> State:
        return start_teaching(task, definition, config.teaching, jax.random.fold_in(key, 0))

    def call(state: State, key: jax.Array) -> tuple[State, Metrics]:
        return teach_round(task, definition, config.teaching, state, world, jax.random.fold_in(key, 1))

    return jax.jit(start), jax.jit(call)


def _members_last(stepped: tuple[State, Metrics]) -> tuple[State, Metrics]:
    """(members, steps) of metrics as (steps, members), in which order the loop reads them."""
    states, metrics = stepped
    return states, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), metrics)


def _members_of(config: AssistantConfig, state: State) -> Params:
    """Parameters of all policies on a leading axis."""
    params = state.learner.params
    return params if config.seeds > 1 else jax.tree.map(lambda leaf: leaf[None], params)


def _evaluate(config: AssistantConfig, course: Course, state: State) -> Metrics:
    """Greedy success on each split, in rooms that are the same every time."""
    environment, policy = course.environment, course.task.policy
    metrics: Metrics = {}
    for split in splits(config.level):
        played = play_members(
            environment,
            policy,
            _members_of(config, state),
            environment.params(split),
            jax.random.key(1),
            jnp.array(list(PLAYERS).index("greedy"), jnp.int32),
            episodes=config.eval_episodes,
        )
        success_K = jnp.mean(played.success_E.astype(jnp.float32), axis=1)
        success = success_K if config.seeds > 1 else success_K[0]
        metrics[f"success/{split}"] = (success, jnp.ones_like(success))
    return metrics


def _finish(config: AssistantConfig, course: Course, state: State, folder: StageFolder) -> None:
    """Models, result, films, report and summary."""
    task, params_K = course.task, _members_of(config, state)
    for member in range(config.seeds):
        path = folder.path if config.seeds == 1 else member_folder(folder.path, member)
        agent = SavedAgent.of(
            config.architecture,
            config.training,
            (task.environment.observation_space, task.environment.action_space),
            num_timesteps=config.updates * config.training.rollout,
            seed=config.seed + member,
        )
        own = state.learner
        if config.seeds > 1:
            own = jax.tree.map(lambda leaf, member=member: leaf[member], own)
        save_agent(path / "model", agent, own)
    key = jax.random.key(2)  # rooms that neither training nor its measurements showed
    result = {
        "success": measure(course.environment, task.policy, params_K, key, episodes=config.episodes),
        "timesteps": config.updates * config.training.rollout,
        "level": config.level,
        "algorithm": config.algorithm,
        "fusion": config.fusion,
        "reading_steps": config.reading.steps,
        "reward": config.reward,
        "seeds": config.seeds,
    }
    if config.reward == "learned":
        result["comparisons"] = config.teaching.rounds * config.teaching.pairs
    films = show(
        course.environment,
        task.policy,
        jax.tree.map(lambda leaf: leaf[0], params_K),
        jax.random.fold_in(key, 9),
        episodes=config.films,
    )
    folder.finish(result)
    done = folder.result()
    facts = {
        "device": device_name(),
        "command": " ".join(sys.argv),
        "versions": versions() | {"git_revision": git_revision()},
    }
    write_summary(config.run / "summary.json", done | facts)
    write_page_of(config, folder.path, done, films, facts)
