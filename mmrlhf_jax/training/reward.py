"""Training a reward model on judgements."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.hub.folder import save_model
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.ensemble import levels
from mmrlhf_jax.reward.model import FROZEN_PARTS, RewardModel, Seen
from mmrlhf_jax.reward.transfer import RULES, bind, merge, split_towers
from mmrlhf_jax.runtime.folder import StageFolder, read_result
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.sharding import by_rows, held, made, settled
from mmrlhf_jax.training.attribution import attribute_choices
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.config.stage import arm
from mmrlhf_jax.training.frozen_views import LessonRows, as_lessons, is_mapped, lesson_stream, look_once
from mmrlhf_jax.training.guard import begin, guarded
from mmrlhf_jax.training.judged import SURVEY_SIZE, print_surveys, read_own
from mmrlhf_jax.training.judgements import Judgements, by_row, encode, judge, member_rewards, rewards
from mmrlhf_jax.training.lessons import Lessons, draw, make_lessons
from mmrlhf_jax.training.loop import Rescue, describe, fit
from mmrlhf_jax.training.objectives import Comparisons, Objective
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.pictures import check_batch, order_key
from mmrlhf_jax.training.setting import load_preferences, load_setting
from mmrlhf_jax.training.streaming import fit_streamed
from mmrlhf_jax.types import Metrics, TrainState

LEARNED = "objective"  # the part of the parameters that is not the reward model's
LEARNED_RATE = 30.0  # its learning rate, as a multiple of the others': few numbers, with a way to go
LOSSES = ("loss",)
ANCHORING = 512  # judgements whose mean reward tells where thresholds start


def init_state(
    model: Definition[RewardModel],
    objective: Objective[Any],
    towers: Params,
    config: RewardStageConfig,
    key: jax.Array,
) -> TrainState:
    """What is trained: of the pretrained towers, fresh fusion and head, what the objective learns.

    Args:
      towers: the trained part of `split_towers`.
    """
    params = model.init(key, without=(*FROZEN_PARTS, *RULES)) | towers
    learned = objective.init()
    if learned:
        params[LEARNED] = learned
    return TrainState(jnp.zeros((), jnp.int32), params, reward_optimizer(config, params).init(params))


def anchor(
    model: Definition[RewardModel],
    objective: Objective[Any],
    config: RewardStageConfig,
    state: TrainState,
    frozen: Params,
    judgements: Judgements,
) -> TrainState:
    """A fresh state whose thresholds, where the objective learns any, lie where the model's rewards are."""
    learned, networks = split_learned(state.params)
    if not learned:
        return state
    few = judgements._replace(
        image_index_RxI=judgements.image_index_RxI[:ANCHORING], ids_RxSxT=judgements.ids_RxSxT[:ANCHORING]
    )
    mean = float(np.mean(rewards(model, merge({**frozen, **networks}, scale=config.lora_scale), few)))
    return state._replace(params={**networks, LEARNED: objective.init(mean)})


def split_learned(params: Params) -> tuple[Params, Params]:
    """(what the objective learns, the reward model's parameters)."""
    return params.get(LEARNED, {}), {name: part for name, part in params.items() if name != LEARNED}


def reward_optimizer(config: RewardStageConfig, params: Params) -> optax.GradientTransformation:
    """The optimizer of all parts; the backbone's, which are trained already, move more slowly."""
    rates = {**dict.fromkeys(RULES, config.clip_rate), LEARNED: LEARNED_RATE}
    return make_optimizer(config.optimizer, slower={part: rates[part] for part in rates if part in params})


class Drawn(NamedTuple):
    """The judgements of a step.

    Attributes:
      rows_B: which they are.
      shown: their pictures, or what the model has seen in them.
      ids_BxSxT: the answers.
      said: what was said of them.
    """

    rows_B: jax.Array
    shown: Any
    ids_BxSxT: jax.Array
    said: dict[str, Any]


def draw_lesson(lessons: Lessons, key: jax.Array, step: jax.Array, config: RewardStageConfig) -> Drawn:
    """The judgements of a step, in the order of their epoch, with this step's augmentation."""
    size = lessons.judgements.ids_RxSxT.shape[0]
    rows_B = batch_indices(order_key(key), step, batch=config.batch, size=size)
    return vary_lesson(lessons, rows_B, key, step, config)


def vary_lesson(
    lessons: Lessons, rows_B: jax.Array, key: jax.Array, step: jax.Array, config: RewardStageConfig
) -> Drawn:
    """The judgements `rows_B` with a step's augmentation."""
    _, key_view = jax.random.split(key)
    shown, ids_BxSxT = draw(lessons, rows_B, jax.random.fold_in(key_view, step), config.augment)
    said = jax.tree.map(lambda leaf: leaf[rows_B], lessons.judgements.said)
    return by_rows(Drawn(rows_B, shown, ids_BxSxT, said))


def update_step(
    model: Definition[RewardModel],
    objective: Objective[Any],
    config: RewardStageConfig,
    state: TrainState,
    frozen: Params,
    lessons: Lessons,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step on judgements that are whole on the device; see `learn`."""
    drawn = draw_lesson(lessons, key, state.step, config)
    return learn(model, objective, config, state, frozen, drawn, lessons.weights_KxR)


def learn_rows(
    model: Definition[RewardModel],
    objective: Objective[Any],
    config: RewardStageConfig,
    state: TrainState,
    frozen: Params,
    rows: LessonRows,
    starts_V: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step on judgements whose features were read from disk; see `learn`."""
    lessons = as_lessons(rows, starts_V)
    drawn = vary_lesson(lessons, jnp.arange(config.batch), key, state.step, config)
    return learn(model, objective, config, state, frozen, drawn, lessons.weights_KxR)


def learn(
    model: Definition[RewardModel],
    objective: Objective[Any],
    config: RewardStageConfig,
    state: TrainState,
    frozen: Params,
    drawn: Drawn,
    weights_KxR: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the objective's loss of a batch of judgements.

    Each member of an ensemble has a loss of its own, in which a row counts as often as its resample holds it;
    they share only what the model shares.

    Args:
      frozen: parameters of the model's FROZEN_PARTS, and of the towers as far as they are not trained.
      weights_KxR: how much each judgement counts for each member, see `Lessons`.
    """
    rows_B, shown, ids_BxSxT, said = drawn

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        learned, networks = split_learned(params)
        bound = bind(model, {**frozen, **networks}, scale=config.lora_scale)
        seen = shown if isinstance(shown, Seen) else encode(bound, shown)
        judged = judge(bound, seen, ids_BxSxT)
        member_KxBxS = by_row(judged.members_KxB, ids_BxSxT.shape[1])
        each_KxB = jax.vmap(lambda reward_BxS: objective.losses(learned, reward_BxS, said))(member_KxBxS)
        reward_BxS = by_row(judged.reward_B, ids_BxSxT.shape[1])
        logged = {"loss": jnp.mean(each_KxB, axis=0), **objective.metrics(learned, reward_BxS, said)}
        rows = jnp.asarray(float(config.batch))
        metrics = {name: (jnp.sum(value_B), rows) for name, value_B in logged.items()}
        return jnp.mean(weights_KxR[:, rows_B] * each_KxB), metrics

    (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    params, opt_state, moved = apply_gradients(
        reward_optimizer(config, state.params),
        gradients,
        state.params,
        state.opt_state,
        warmup_cosine(config.optimizer, state.step, config.steps),
    )
    return TrainState(state.step + 1, params, opt_state), metrics | moved


def measure(
    model: Definition[RewardModel], objective: Objective[Any], params: Params, judgements: Judgements
) -> dict[str, Any]:
    """The objective's held-out measures, and its headline without the true picture.

    Args:
      params: of the model, its FROZEN_PARTS included, and what the objective learned.
    """
    learned, networks = split_learned(params)
    picture_R = np.asarray(judgements.image_index_RxI[:, 0])
    reward_RxS = rewards(model, networks, judgements)
    shuffled_RxS = rewards(model, networks, judgements, shuffle_pictures=True)
    result = {
        **objective.measure(learned, reward_RxS, judgements.said, picture_R),
        f"{objective.headline}_picture_shuffled": objective.score(shuffled_RxS, judgements.said),
    }
    ids_RxSxT, image_RxI = judgements.ids_RxSxT, judgements.image_index_RxI
    if isinstance(objective, Comparisons) and image_RxI.shape[1] == 1:
        result["attribution"] = attribute_choices(
            model, networks, judgements.image_NxHxWxC, image_RxI[:, 0], ids_RxSxT[:, 0], ids_RxSxT[:, 1]
        )
    member_RxKxS = member_rewards(model, networks, judgements)
    if member_RxKxS.shape[1] > 1:
        result["disagreement"] = disagreement(objective, reward_RxS, member_RxKxS, judgements.said)
    return result


def disagreement(
    objective: Objective[Any], reward_RxS: np.ndarray, member_RxKxS: np.ndarray, said: dict[str, Any]
) -> dict[str, float]:
    """How far the members of an ensemble lie apart, and whether the ensemble errs where they do.

    A row's disagreement is the members' standard deviation of the first answer's reward, less the last one's
    where there are several.

    Returns:
      Its mean, and the objective's headline on the half of the rows with the least of it and on the others.
    """
    several = member_RxKxS.shape[2] > 1
    apart_RxK = member_RxKxS[..., 0] - (member_RxKxS[..., -1] if several else 0.0)
    spread_R = apart_RxK.std(axis=1)
    order_R = np.argsort(spread_R, kind="stable")
    halves = zip(("agreeing", "disagreeing"), np.array_split(order_R, 2), strict=True)
    return {
        "mean": float(spread_R.mean()),
        **{
            f"{objective.headline}_{name}": objective.score(
                reward_RxS[rows], jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[rows], said)
            )
            for name, rows in halves
            if len(rows)
        },
    }


@on_own_mesh
def run(config: RewardStageConfig) -> dict[str, Any]:
    """Trains the reward model; leaves it under model/ with the tokenizer.

    Returns:
      The stage's result: held-out accuracy against the raters and, where known, against the noiseless rubric,
      and the survey of the preferences.
    """
    if config.survey:
        own = config.preferences
        whole = {} if own is None else {str(own): read_own(own, config, SURVEY_SIZE)}
        print_surveys(whole or load_preferences(config, SURVEY_SIZE))
        return {}
    setting = load_setting(config)
    model, objective, judgements = setting.model, setting.objectives["train"], setting.judgements
    check_batch(config.batch, len(judgements["train"].ids_RxSxT), "training judgements")
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2))
    key_lora, key_bootstrap, key_views = (jax.random.fold_in(key_init, i) for i in range(3))
    trained, kept = split_towers(
        setting.backbone.name, setting.backbone.params, config.transfer, key_lora, rank=config.lora_rank
    )
    frozen = setting.frozen | kept
    lessons = make_lessons(
        judgements["train"],
        setting.backbone.tokenizer,
        config.augment,
        key_bootstrap,
        members=config.ensemble.members,
        bootstrap=config.bootstrap,
    )
    init = functools.partial(init_state, model, objective, config=config, key=key_init)
    update = jax.jit(guarded(functools.partial(update_step, model, objective, config), LOSSES))
    if config.dry_run:
        state = jax.eval_shape(lambda trained: begin(init(trained), LOSSES), trained)
        arguments = {"state": state, "frozen": frozen, "lessons": lessons, "key": key}
        describe(arm("reward", config.without_picture), state.state.params, update, arguments)
        return {}
    stage = arm("reward", config.without_picture)
    with StageFolder.open(config.folder(stage), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        state = made(lambda trained: settled(init(trained)), trained)
        frozen = held(frozen, config.mesh_frozen)
        if config.transfer == "frozen":
            networks = split_learned({**frozen, **state.params})[1]
            lessons = look_once(config, folder.path, lessons, model, networks, frozen, key_views)
        start = begin(anchor(model, objective, config, state, frozen, judgements["train"]), LOSSES)
        if is_mapped(lessons):
            stream = lesson_stream(lessons, config, order_key(key))
            step = jax.jit(guarded(functools.partial(learn_rows, model, objective, config), LOSSES))
            state, _ = fit_streamed(
                lambda state, rows: step(state, frozen, rows, lessons.starts_V, key),
                start,
                stream,
                config,
                folder,
                steps=config.steps,
                shown=objective.shown,
            )
        else:
            state, _ = fit(
                lambda state: update(state, frozen, lessons, key),
                start,
                config,
                folder,
                steps=config.steps,
                shown=objective.shown,
                rescue=Rescue(lambda _, step: draw_lesson(lessons, key, jnp.asarray(step), config)),
            )
        learned, networks = split_learned({**frozen, **state.params})
        networks = levelled(model, merge(networks, scale=config.lora_scale), judgements["train"])
        save_model(folder.model, setting.architecture, networks)
        setting.backbone.tokenizer.save(folder.model)
        result: dict[str, Any] = {
            part: measure(model, setting.objectives[part], {**networks, LEARNED: learned}, rows)
            for part, rows in judgements.items()
            if part != "train"
        }
        if config.preferences is None:
            result["raters_agreement"] = read_result(config.folder("collect"))["preferences"]["agreement"]
        print_measures(result)
        if warning := result["held_out"].get("attribution", {}).get("warning"):
            print(f"reward: warning: {warning}")
        result["survey"] = setting.surveys
        folder.finish(result)
        return folder.result()


def print_measures(result: dict[str, Any]) -> None:
    """One line of numbers for each set of judgements that the model was measured on."""
    for part, measures in result.items():
        if isinstance(measures, dict):
            apart = measures.get("disagreement", {})
            named = measures | {f"disagreement/{name}": value for name, value in apart.items()}
            numbers = {name: getattr(value, "mean", value) for name, value in named.items()}
            shown = [f"{name} {value:.3f}" for name, value in numbers.items() if isinstance(value, float)]
            print(f"reward model, {part}: {', '.join(shown)}")


def levelled(model: Definition[RewardModel], params: Params, judgements: Judgements) -> Params:
    """The parameters with the members of an ensemble on one level of reward over these answers."""
    if "level" not in params:
        return params
    unlevelled = {**params, "level": jnp.zeros_like(params["level"])}
    member_RxKxS = member_rewards(model, unlevelled, judgements)
    return {**params, "level": levels(jnp.moveaxis(member_RxKxS, 1, 0).reshape(len(params["level"]), -1))}
