"""Does the input pipeline keep the step busy? Steps on pictures from disk, beside steps on a batch in memory.

The share of its time that a step on streamed pictures waits is 1 - ratio. On a CPU decoding takes cores from
the step too, which counts in the same way.
"""

import argparse
import dataclasses
import functools
import importlib.resources
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benches.side_by_side import Case, report
from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.stream import BatchStream
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.policy.captioner import define_policy
from mmrlhf_jax.training import contrastive, supervised
from mmrlhf_jax.training.config import PretrainConfig, SFTConfig
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.pictures import text_arrays
from mmrlhf_jax.training.presets import PRESETS
from mmrlhf_jax.training.streaming import picture_stream

GOAL = 0.95  # of the rate without waiting: the step is idle for less than 5 %
STEPS = {"full": 24, "smoke": 2}  # of one measurement: many more than what is read ahead while the peer runs
WORKERS = 2
PRESET = {"full": "quickstart", "smoke": "smoke"}
FOREVER = 10**6  # steps


def run(arguments: argparse.Namespace) -> None:
    """Measures both stages, prints the table, writes the file, and prints the idle shares."""
    with tempfile.TemporaryDirectory() as folder:
        rows = report("input", _cases(arguments, Path(folder)), arguments, {"workers": WORKERS})
    for row in rows:
        assert row.ratio is not None
        print(f"{row.name}: idle {max(0.0, 1 - row.ratio):.1%} of the time, goal under {1 - GOAL:.0%}")


def _cases(arguments: argparse.Namespace, folder: Path) -> Iterator[Case]:
    stages = PRESETS[PRESET[arguments.preset]]
    # The bundled file, read as one of the user's own: encoded pictures are decoded in every step.
    path = Path(str(importlib.resources.files("mmrlhf_jax.data").joinpath("emoji", "emoji.parquet")))
    shared: dict[str, Any] = {"pictures": path, "run": folder, "stream": True, "workers": WORKERS}
    pretrain = dataclasses.replace(stages.pretrain, **shared)
    sft = dataclasses.replace(stages.sft, **shared)
    source = picture_source(pretrain)
    captions = source.captions("train")
    tokenizer = CaptionTokenizer.train([caption.name for caption in captions], pretrain.clip.text.vocab_size)
    texts = text_arrays(captions, tokenizer, pretrain.clip.text.max_length)
    key = jax.random.key(0)

    def stream(config: PretrainConfig | SFTConfig, beside: Callable[[int], Any]) -> BatchStream[Any]:
        endless = dataclasses.replace(config, steps=FOREVER)
        return picture_stream(source, texts, endless, key, beside).batches

    networks = contrastive.define_networks(pretrain.sized(), pretrain.language_model)
    near_NxK = contrastive.nearest_names([caption.name for caption in captions], pretrain.neighbours)
    learn = jax.jit(functools.partial(contrastive.learn, networks, pretrain))
    yield _case(
        f"pretrain, {pretrain.batch} pictures of {source.image_size}",
        lambda state, batch: learn(state, *batch, key),
        contrastive.init_state(networks, pretrain, key),
        stream(pretrain, contrastive.near_reader(texts, near_NxK)),
        STEPS[arguments.preset],
    )
    clip = pretrain.sized()
    policy = define_policy(PolicyConfig(clip.vision, pretrain.language_model, clip.text.max_length))
    params = policy.init(key)
    tune = jax.jit(functools.partial(supervised.learn, policy, sft))
    yield _case(
        f"sft, {sft.batch} pictures of {source.image_size}",
        lambda state, batch: tune(state, batch[0], key),
        supervised.init_state(policy, params["vision"], params["decoder"], sft, key),
        stream(sft, lambda row: ()),
        STEPS[arguments.preset],
    )


def _case(
    name: str, step: Callable[[Any, Any], Any], state: Any, stream: BatchStream[Any], steps: int
) -> Case:
    """So many steps on the next batches of the stream; in the peer's place on one that is on the device."""
    position = iter(range(FOREVER))
    held = [state]
    there = stream.at(next(position))

    def streamed() -> None:
        for _ in range(steps):
            held[0], metrics = step(held[0], stream.at(next(position)))
            stream.prefetch()
        jax.block_until_ready((held[0], metrics))

    def resident() -> None:
        for _ in range(steps):
            held[0], metrics = step(held[0], there)
        jax.block_until_ready((held[0], metrics))

    return Case(name, "steps", steps, streamed, resident, goal=GOAL)
