"""The whole run of the chatbot: every stage, both arms, one after the other."""

import functools

from mmrlhf_jax.training import policy, reward
from mmrlhf_jax.training.chatbot import evaluate, stages
from mmrlhf_jax.training.chatbot.config import ChatbotConfig
from mmrlhf_jax.training.config.stage import arm
from mmrlhf_jax.training.pipeline import start


def run(config: ChatbotConfig) -> None:
    """Runs what is not done yet and prints the main numbers.

    Stages that are done are skipped, an interrupted one goes on. In a dry run the stages describe themselves;
    one whose inputs are not there yet says so.
    """
    start("sft", config.stage("sft"), stages.train_sft)
    collect = config.stage("collect")
    start("collect", collect, stages.collect)
    blind = [name == "without_picture" for name in config.arms]
    for without in blind:
        learn = config.stage("reward", without_picture=without)
        start(arm("reward", without), learn, reward.run)
    subjects = stages.subjects_of(stages.feedback_cases(collect))
    for without in blind:
        reinforce = config.stage("ppo", without_picture=without)
        name = arm(config.ppo.algorithm, without)
        start(name, reinforce, functools.partial(policy.run, subjects=subjects))
    compare = functools.partial(evaluate.run, chatbot=config)
    summary = start("evaluate", config.stage("evaluate"), compare)
    if summary:
        evaluate.print_summary(summary, config.run)
