"""The chatbot's own part of each stage: what the shared stages are given to learn from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.data.tone import ToneSet, all_texts, good_answer, load_tone, mixed_answer, naming
from mmrlhf_jax.feedback.raters import simulated_panel
from mmrlhf_jax.feedback.reply_rubric import ReplyRubric, ReplyWeights
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.sampling import encode_prompts
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.training.chatbot.config import ChatCollectConfig, ChatSFTConfig
from mmrlhf_jax.training.collect import Raters, judge_and_write, sample_pairs
from mmrlhf_jax.training.optimize import make_optimizer
from mmrlhf_jax.training.pictures import Pictures, Subjects, check_batch, to_device
from mmrlhf_jax.training.supervised import Course, describe_course, teach
from mmrlhf_jax.types import TrainState

HELD_OUT = ("combinations", "faces")


def subjects_of(cases: ToneSet) -> Subjects:
    """What the policy answers: faces, and what is said with them."""
    return Subjects(cases.images_NxHxWxC, said=cases.said)


def feedback_cases(config: ChatCollectConfig) -> ToneSet:
    """The cases whose answers are judged, and that reinforcement answers."""
    return load_tone("feedback", cases=config.cases, seed=config.seed)


def lessons(
    cases: ToneSet, answers: list[str], tokenizer: CaptionTokenizer, policy: PolicyConfig
) -> Pictures:
    """Cases and the answers to learn, as arrays."""
    prompts = encode_prompts(cases.said, tokenizer, policy.prompt_length)
    answered = CaptionSet(cases.images_NxHxWxC, tuple(Caption(answer) for answer in answers))
    return to_device(answered, tokenizer, policy.max_length)._replace(prompts=prompts)


@on_own_mesh
def train_sft(config: ChatSFTConfig) -> dict[str, Any]:
    """Trains the policy on answers of mixed quality; leaves it under model/.

    Returns:
      The stage's result: the loss of good answers on each held-out part, and how good the lessons were.
    """
    check_batch(config.batch, config.cases, "cases")
    tokenizer = CaptionTokenizer.train(all_texts(), vocab_size=config.policy.decoder.vocab_size)
    generator = np.random.default_rng([config.seed, 100])
    train = load_tone("train", cases=config.cases, seed=config.seed)
    answers = [mixed_answer(case, generator)[0] for case in train.cases]
    faces = load_tone("train", cases=config.namings, seed=config.seed + 1)
    named = [case._replace(said="") for case in faces.cases]
    taught = ToneSet(train.faces, (*train.cases, *named))
    names = [naming(case.feeling) for case in named]
    held_out = {part: load_tone(part, cases=config.held_out, seed=config.seed) for part in HELD_OUT}
    good = {
        part: [good_answer(case.feeling, case.topic, generator) for case in cases.cases]
        for part, cases in held_out.items()
    }
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    policy = define_policy(config.policy)

    def init() -> TrainState:
        params = policy.init(key_init)
        return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config.optimizer).init(params))

    taught_pictures = lessons(taught, answers + names, tokenizer, config.policy)
    course = Course(
        config.policy,
        tokenizer,
        taught_pictures,
        lambda: taught_pictures,
        lambda: {
            part: lessons(cases, good[part], tokenizer, config.policy) for part, cases in held_out.items()
        },
        init,
        (),
        key,
    )
    if config.dry_run:
        describe_course(config, course)
        return {}
    with StageFolder.open(config.folder("sft"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        _, losses = teach(config, course, folder)
        quality = ReplyRubric.of_templates().utilities(answers, train.cases)
        folder.finish({**losses, "gold_of_lessons": float(np.mean(quality))})
        return folder.result()


@on_own_mesh
def collect(config: ChatCollectConfig) -> dict[str, Any]:
    """Writes preferences.parquet (of feedback cases), held_out.parquet and held_out_rubric.parquet (of
    held-out faces and combinations), and every judgement.

    Returns:
      The stage's result: counts, the simulated raters' agreement with one another and with the rubric.
    """
    if config.dry_run:
        print(f"collect: {config.cases * config.pairs_per_picture} pairs of answers")
        return {}
    with StageFolder.open(config.folder("collect"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        captioner = Captioner.load(config.folder("sft") / "model")
        panel = simulated_panel(config.raters, config.seed, ReplyWeights())
        raters = Raters(ReplyRubric.of_templates(), panel, config.overlap, config.keep_ties)
        held_out = [load_tone(part, cases=config.held_out, seed=config.seed) for part in HELD_OUT]
        both = ToneSet(held_out[0].faces, held_out[0].cases + held_out[1].cases)
        parts = (
            ("preferences", feedback_cases(config), config.pairs_per_picture),
            ("held_out", both, config.held_out_pairs),
        )
        result: dict[str, Any] = {"raters": [rater.name for rater in panel]}
        for number, (name, cases, count) in enumerate(parts):
            subjects, seed = subjects_of(cases), 2 * config.seed + number
            pairs = sample_pairs(
                captioner, subjects, pairs_per_picture=count, temperature=config.temperature, seed=seed
            )
            result[name] = judge_and_write(
                folder.path / name,
                subjects,
                cases.cases,
                pairs,
                raters,
                seed=seed,
                gold=name == "held_out",
            )
        folder.finish(result)
        return folder.result()
