"""Reward-model training: a text model beside TRL's RewardTrainer, many seeds beside one after the other."""

import argparse
import dataclasses
import functools
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benches.side_by_side import Case, has_peers, report
from mmrlhf_jax.architecture import (
    CLIPConfig,
    DecoderConfig,
    PolicyConfig,
    RewardConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import define
from mmrlhf_jax.pretrained import save_pretrained
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.model import Seen
from mmrlhf_jax.reward.transfer import split_towers
from mmrlhf_jax.training.config import JudgementAugmentConfig, RewardStageConfig
from mmrlhf_jax.training.judgements import Judgements
from mmrlhf_jax.training.lessons import make_lessons, with_views
from mmrlhf_jax.training.objectives import Comparisons
from mmrlhf_jax.training.reward import init_state, update_step

OBJECTIVE = Comparisons()
PLAIN = JudgementAugmentConfig(shift=0.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, weight_decay=0.0, b2=0.999)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured."""

    decoder: DecoderConfig  # of the text model
    length: int  # tokens of an answer
    pairs: int  # of a step of the text model
    steps: int  # of one measurement
    clip: CLIPConfig  # of the model of which many seeds are trained
    fusion_width: int
    batch: int  # of its steps
    seeds: int


_TINY = TransformerConfig(16, 1, 2, 16)
SIZES = {
    "full": Sizes(
        decoder=DecoderConfig(512, 128, 4, 4, 4, 384, max_positions=64),
        length=48,
        pairs=64,
        steps=4,
        clip=CLIPConfig(text=TextConfig(transformer=TransformerConfig(layers=2))),
        fusion_width=128,
        batch=64,
        seeds=10,
    ),
    "smoke": Sizes(
        decoder=DecoderConfig(512, 16, 1, 2, 2, 16, max_positions=16),
        length=8,
        pairs=4,
        steps=2,
        clip=CLIPConfig(VisionConfig(16, 8, _TINY), TextConfig(512, 8, _TINY), 8),
        fusion_width=8,
        batch=4,
        seeds=3,
    ),
}


def run(arguments: argparse.Namespace) -> None:
    """Measures everything, prints the table and writes the file."""
    sizes = SIZES[arguments.preset]
    compilations: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        report(
            "reward",
            _cases(sizes, arguments, Path(folder), compilations),
            arguments,
            {"compilations": compilations},
        )
    for name, count in compilations.items():
        print(f"{name}: compiled {count} time(s)")


def _cases(
    sizes: Sizes, arguments: argparse.Namespace, folder: Path, compilations: dict[str, int]
) -> Iterator[Case]:
    peers = has_peers(arguments) and importlib.util.find_spec("trl") is not None
    if not arguments.no_peers and not peers:
        print("trl or torch is not installed: this package alone is measured")
    tokenizer = CaptionTokenizer.train(load_emoji("train").names, vocab_size=512)
    yield text_training(sizes, tokenizer, folder, peers)
    for transfer in ("frozen",) if arguments.preset == "smoke" else ("frozen", "full"):
        yield many_seeds(sizes, tokenizer, transfer, compilations)


def text_training(sizes: Sizes, tokenizer: CaptionTokenizer, folder: Path, peers: bool) -> Case:
    """Gradient steps of a decoder with a scalar head on answers alone, all tokens real."""
    vision = VisionConfig(16, 16, _TINY)  # never looked at: there is a picture of no tokens
    model = define_reward_model(
        RewardConfig(clip=None, policy=PolicyConfig(vision, sizes.decoder, sizes.length))
    )
    config = RewardStageConfig(
        steps=10**6, batch=sizes.pairs, clip_rate=1.0, augment=PLAIN, optimizer=OPTIMIZER
    )
    rows = sizes.pairs * sizes.steps
    ids_RxSxT = np.random.default_rng(0).integers(3, 512, (rows, 2, sizes.length)).astype(np.int32)
    judgements = Judgements(
        jnp.zeros((1, 16, 16, 3), jnp.uint8), jnp.zeros((rows, 1), jnp.int32), jnp.asarray(ids_RxSxT), {}
    )
    key = jax.random.key(0)
    unseen = Seen(jnp.zeros((1, 1, 0, sizes.decoder.width)), jnp.zeros((1, 1, 0)))
    lessons = make_lessons(judgements, tokenizer, PLAIN, key)._replace(seen=unseen)
    towers = model.init(key)
    state = init_state(model, OBJECTIVE, {"policy": towers["policy"]}, config, key)
    step = jax.jit(functools.partial(update_step, model, OBJECTIVE, config), donate_argnums=0)
    held = [state]

    def ours() -> None:
        for _ in range(sizes.steps):
            held[0], metrics = step(held[0], {}, lessons, key)
        jax.block_until_ready((held[0], metrics))

    theirs = _trl(sizes, tokenizer, ids_RxSxT, folder) if peers else None
    name = f"text reward model, {sizes.pairs} pairs x {sizes.length} tokens"
    return Case(name, "pairs", rows, ours, theirs, goal=2.0)


def many_seeds(
    sizes: Sizes, tokenizer: CaptionTokenizer, transfer: Any, compilations: dict[str, int]
) -> Case:
    """One step of all seeds in one program; in the peer's place the program of one seed, run for each."""
    model = define_reward_model(RewardConfig(sizes.clip, "attention", sizes.fusion_width))
    config = RewardStageConfig(
        steps=10**6, batch=sizes.batch, transfer=transfer, augment=PLAIN, optimizer=OPTIMIZER
    )
    random, pictures, rows = np.random.default_rng(1), 4 * sizes.batch, 8 * sizes.batch
    size, length = sizes.clip.vision.image_size, sizes.clip.text.max_length
    judgements = Judgements(
        jnp.asarray(random.integers(0, 256, (pictures, size, size, 3)), jnp.uint8),
        jnp.asarray(random.integers(0, pictures, (rows, 1)), jnp.int32),
        jnp.asarray(random.integers(3, 512, (rows, 2, length)), jnp.int32),
        {},
    )
    keys_K = jax.random.split(jax.random.key(2), sizes.seeds)
    clip = model.init(keys_K[0])["clip"]
    trained, kept = split_towers("clip", clip, transfer, keys_K[0], rank=4)
    lessons = make_lessons(judgements, tokenizer, PLAIN, keys_K[0])
    if transfer == "frozen":
        lessons = with_views(
            lessons, model, model.init(keys_K[0], without=("clip",)) | {"clip": clip}, PLAIN, keys_K[0]
        )
    names = {"one": f"{transfer}, one seed", "all": f"{transfer}, {sizes.seeds} seeds"}
    compilations.update(dict.fromkeys(names.values(), 0))

    def counted(which: str) -> Callable[..., Any]:
        def update(state: Any, kept: Any, lessons: Any, key: jax.Array) -> Any:
            compilations[names[which]] += 1  # runs only when it is traced
            return update_step(model, OBJECTIVE, config, state, kept, lessons, key)

        return update

    start = jax.jit(lambda key: init_state(model, OBJECTIVE, trained, config, key))
    one = jax.jit(counted("one"), donate_argnums=0)
    together = jax.jit(jax.vmap(counted("all"), in_axes=(0, None, None, 0)), donate_argnums=0)
    alone = [start(key) for key in keys_K]
    states = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)]

    def ours() -> None:
        states[0], metrics = together(states[0], kept, lessons, keys_K)
        jax.block_until_ready((states[0], metrics))

    def theirs() -> None:
        for k, key in enumerate(keys_K):
            alone[k], metrics = one(alone[k], kept, lessons, key)
        jax.block_until_ready((alone, metrics))

    name = f"{sizes.seeds} seeds at once, {transfer}; peer: one after the other"
    return Case(name, "steps", sizes.seeds, ours, theirs, goal=1 / 1.1)


def _trl(
    sizes: Sizes, tokenizer: CaptionTokenizer, ids_RxSxT: np.ndarray, folder: Path
) -> Callable[[], None]:
    """The same number of steps by TRL's RewardTrainer, of the decoder with the same sizes."""
    import datasets
    import transformers
    import trl

    definition = define(lambda rngs: Decoder(sizes.decoder, rngs=rngs))
    save_pretrained(definition.bind(definition.init(jax.random.key(0))), folder / "decoder")
    tokenizer.save(folder / "decoder")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "decoder", num_labels=1)
    config = trl.RewardConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=sizes.pairs,
        max_steps=sizes.steps,
        max_length=sizes.length,
        learning_rate=OPTIMIZER.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=OPTIMIZER.max_grad_norm,
        gradient_checkpointing=False,
        bf16=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = {"chosen_ids": ids_RxSxT[:, 0].tolist(), "rejected_ids": ids_RxSxT[:, 1].tolist()}
    trainer = trl.RewardTrainer(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder / "decoder"),
    )
    return functools.partial(_quietly, trainer.train)


def _quietly(work: Callable[[], Any]) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        work()
