"""An iteration of RLHF, from prompts to updated weights: PPO and GRPO beside TRL's, and sampling alone."""

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benches.peer import Peer
from benches.side_by_side import Case, flops_of, report
from mmrlhf_jax.architecture import (
    CLIPConfig,
    DecoderConfig,
    PolicyConfig,
    RewardConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.tokens import END_ID, CaptionTokenizer
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import define
from mmrlhf_jax.policy.captioner import define_policy
from mmrlhf_jax.policy.sampling import begin_prompts, sample_completions
from mmrlhf_jax.pretrained import save_pretrained
from mmrlhf_jax.reward.composite import TERMS, Normaliser, Views
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.model import Seen
from mmrlhf_jax.rl.algorithm import ALGORITHMS
from mmrlhf_jax.training.config import PPOConfig, TermsConfig
from mmrlhf_jax.training.judges import make_rules
from mmrlhf_jax.training.networks import Frozen, Networks
from mmrlhf_jax.training.policy import compile_update, start_members
from mmrlhf_jax.training.rollout import Hyper

PICTURES = 256


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: every large network has the decoder's sizes."""

    decoder: DecoderConfig
    patches: int  # a side of the picture, whose tokens stand in the prompt's place
    response: int  # tokens, all of them written
    batch: int  # completions an iteration
    epochs: int


SIZES = {
    "full": Sizes(DecoderConfig(512, 128, 4, 4, 4, 384, max_positions=64), 4, 32, 64, 4),
    "smoke": Sizes(DecoderConfig(512, 16, 1, 2, 2, 16, max_positions=16), 2, 4, 8, 1),
}


def run(arguments: argparse.Namespace) -> None:
    """Measures everything, prints the table and writes the file."""
    sizes = SIZES[arguments.preset]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        work = Work(sizes, arguments, Path(folder), stack)
        report("rlhf", work.cases(), arguments, {"memory": work.memory, "peers": work.peers})
    for name, count in work.memory.items():
        print(f"{name}: the compiled step takes {count / 2**20:.0f} MiB")


class Work:
    """The cases of this bench; peers live as long as `stack`."""

    def __init__(
        self, sizes: Sizes, arguments: argparse.Namespace, folder: Path, stack: contextlib.ExitStack
    ) -> None:
        self.sizes, self.arguments, self.folder, self.stack = sizes, arguments, folder, stack
        self.memory: dict[str, int] = {}
        self.peers: dict[str, dict[str, str]] = {}  # what each is made of
        self.tokenizer = CaptionTokenizer.train(load_emoji("train").names, vocab_size=512)
        self.networks = make_networks(sizes)
        self.frozen = make_frozen(self.networks, sizes, self.tokenizer)
        definition = define(lambda rngs: Decoder(sizes.decoder, rngs=rngs))
        save_pretrained(definition.bind(definition.init(jax.random.key(0))), folder)
        self.tokenizer.save(folder)

    def cases(self) -> Iterator[Case]:
        """All of them."""
        yield self.sampling()
        ppo = self._peer("ppo", self.arguments.ppo_python)
        yield self.iteration("PPO, value head on the trunk", "ppo", ppo, goal=3.0)
        yield self.iteration("PPO with four separate models", "ppo", ppo, goal=2.0, critic="separate")
        grpo = self._peer("grpo", self.arguments.peer_python)
        yield self.iteration("GRPO", "grpo", grpo, goal=2.0)

    def iteration(
        self, name: str, algorithm: Any, theirs: Callable[[], Any] | None, goal: float, **options: Any
    ) -> Case:
        """Rollout, rewards, advantages and all gradient steps, in one compiled program."""
        sizes = self.sizes
        config = PPOConfig(
            algorithm=algorithm, batch=sizes.batch, epochs=sizes.epochs, minibatches=1, **options
        )
        hyper, update = Hyper.of(config), compile_update(self.networks, config)
        state, key = start_members(config, self.frozen.reference, jax.random.key(1))
        compiled = update.lower(state, self.frozen, hyper, key).compile()
        analysis = compiled.memory_analysis()
        if analysis is not None:
            self.memory[name] = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes

        def ours() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(compiled(state, self.frozen, hyper, key))

        tokens = sizes.batch * sizes.response
        return Case(name, "new tokens", tokens, ours, theirs, flops=flops_of(compiled), goal=goal)

    def sampling(self) -> Case:
        """New tokens after a prompt that is already encoded."""
        sizes, networks = self.sizes, self.networks
        image_BxPxD = self.frozen.views.policy_NxPxD[: sizes.batch]
        forbidden_V = jnp.array(networks.forbidden)

        @jax.jit
        def sample(params: Any, key: jax.Array) -> Any:
            return sample_completions(
                networks.policy.bind(params),
                image_BxPxD,
                begin_prompts(sizes.batch),
                key,
                length=sizes.response,
                forbidden_V=forbidden_V,
                temperature=1.0,
            )

        def ours() -> None:
            jax.block_until_ready(sample(self.frozen.reference, jax.random.key(0)))

        theirs = self._peer("generate", self.arguments.peer_python)
        tokens = sizes.batch * sizes.response
        return Case("sampling alone", "new tokens", tokens, ours, theirs, goal=2.3)

    def _peer(self, algorithm: str, python: Path) -> Peer | None:
        if self.arguments.no_peers or not python.exists():
            return None
        sizes = self.sizes
        numbers = (
            self.arguments.threads,
            sizes.batch,
            sizes.patches**2,
            sizes.response,
            sizes.epochs,
            ALGORITHMS["grpo"].group,
        )
        given = [algorithm, str(self.folder), *map(str, numbers)]
        peer = self.stack.enter_context(Peer(python, "peer_trl.py", given))
        self.peers[algorithm] = peer.versions
        return peer


def make_networks(sizes: Sizes) -> Networks:
    """Policy and reward model of the decoder's sizes; CLIP and language model, which TRL lacks, are tiny."""
    tiny = TransformerConfig(16, 1, 2, 16)
    side = 16 * sizes.patches
    policy = PolicyConfig(VisionConfig(side, 16, tiny), sizes.decoder, sizes.response)
    clip = CLIPConfig(VisionConfig(side, side, tiny), TextConfig(512, sizes.response, tiny), 16)
    language_model = DecoderConfig(512, 16, 1, 2, 2, 16, max_positions=sizes.decoder.max_positions)
    return Networks(
        define_policy(policy),
        define(lambda rngs: Decoder(language_model, rngs=rngs)),
        define(lambda rngs: CLIP(clip, rngs=rngs)),
        define_reward_model(RewardConfig(clip=None, policy=policy)),
        sizes.response,
        tuple(token == END_ID for token in range(512)),  # so that every completion has all its tokens
    )


def make_frozen(networks: Networks, sizes: Sizes, tokenizer: CaptionTokenizer) -> Frozen:
    """Random parameters, and random tokens in the pictures' place."""
    assert networks.language_model is not None and networks.clip is not None
    reference = jax.jit(networks.policy.init)(jax.random.key(0))
    language_model = jax.jit(networks.language_model.init)(jax.random.key(1))
    clip = jax.jit(networks.clip.init)(jax.random.key(2))
    reward_model = jax.jit(networks.reward_model.init)(jax.random.key(3))
    tokens_NxPxD = jax.random.normal(jax.random.key(9), (PICTURES, sizes.patches**2, sizes.decoder.width))
    views = Views(tokens_NxPxD, Seen(tokens_NxPxD, tokens_NxPxD[:, 0, :0]), tokens_NxPxD[:, 0, :16])
    scale = {name: jnp.asarray(0.5) for name in TERMS}
    rules = make_rules(TermsConfig(), tokenizer, 512)
    return Frozen(reference, language_model, clip, reward_model, views, Normaliser(scale, scale), rules)
