"""The watch over reinforcement learning: held-out captions by the reward and by the gold rubric, and alarms.

The gold rubric is simulated (`feedback.rubric`): it stands for the people whom the reward model stands for.
It runs on the host and nothing of it reaches the training.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.captions import CaptionSet
from mmrlhf_jax.data.tokens import END_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.alarms import ALARMS, Limits, Look, first_rung, ringing, standardised_gain
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.reward.composite import judge_preference, repeated_ngrams
from mmrlhf_jax.rl.generate import masked_logits
from mmrlhf_jax.rl.kl import exact_kl
from mmrlhf_jax.rl.rewards import penalise_missing_end
from mmrlhf_jax.runtime.journal import Journal
from mmrlhf_jax.sharding import on_host
from mmrlhf_jax.training.adaptation import bind, score
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.guard import Guarded
from mmrlhf_jax.training.judges import embed_references
from mmrlhf_jax.training.loop import Evaluation, member_folder
from mmrlhf_jax.training.members import member_of, member_rates, over_members
from mmrlhf_jax.training.networks import Frozen, Networks, bind_judges, look
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.rollout import Hyper, judge, prompts_of, write
from mmrlhf_jax.types import Completions, Metrics, PolicyState


class Seen(NamedTuple):
    """What the device says of captions for all N held-out pictures, (N,) float32 beside the completions."""

    completions: Completions
    proxy_N: jax.Array
    kl_N: jax.Array
    length_N: jax.Array
    repetition_N: jax.Array
    disagreement_N: jax.Array | None


def examine(
    networks: Networks, greedy: bool, state: PolicyState, frozen: Frozen, hyper: Hyper, key: jax.Array
) -> Seen:
    """Writes a caption for every picture of `frozen.views` and judges it by the reward.

    The reward is that of training but for its zero, which is the mean over all pictures, and never whitened:
    neither matters to differences between looks.
    """
    views, temperature = frozen.views, 0.0 if greedy else hyper.temperature
    policy = bind(networks.policy, frozen.reference, state.params, hyper.lora_scale)
    completions = write(networks, policy, views, key, temperature)
    ledger = judge(networks, frozen, views, completions, hyper._replace(whiten_terms=jnp.zeros(())))
    ended_N = jnp.any(completions.ids_BxT == END_ID, axis=1)

    def read(trained: Any) -> jax.Array:
        given = (views.policy_NxPxD, prompts_of(views), completions)
        scored = score(networks.policy, frozen.reference, trained, *given, hyper.lora_scale)
        return masked_logits(scored.logits_BxTxV, jnp.array(networks.forbidden), hyper.temperature)

    disagreement_N = None
    if "level" in frozen.reward_model:  # an ensemble
        disagreement_N = judge_preference(bind_judges(networks, frozen), views, completions).disagreement_B
    return Seen(
        completions,
        penalise_missing_end(ledger.total_B, ended_N, hyper.missing_end_penalty),
        jnp.sum(exact_kl(read(state.params), read({}), completions.mask_BxT), axis=1),
        jnp.sum(completions.mask_BxT, axis=1, dtype=jnp.float32),
        repeated_ngrams(*completions, n=2),
        disagreement_N,
    )


class Watch:
    """Looks at the policy of a run, or at those of all its members, and remembers what it saw.

    What was seen at each step stands in watch.jsonl of the run's folder, or of each member's, with the
    captions; a resumed run goes on with it.
    """

    def __init__(
        self,
        config: PPOConfig,
        networks: Networks,
        frozen: Frozen,
        tokenizer: CaptionTokenizer,
        folder: Path,
    ) -> None:
        source = picture_source(config)
        held_out = source.load(source.held_out[0])
        if len(held_out) < 2:
            raise UserError("the watch compares pictures and found fewer than two: raise --max-pictures")
        if len(held_out) > config.watch.pictures:
            rows = np.linspace(0, len(held_out) - 1, config.watch.pictures).astype(np.int64)
            held_out = held_out.take(rows)
        self._config, self._tokenizer, self._hyper = config, tokenizer, member_rates(config)[0]
        self._held_out: CaptionSet = held_out
        self._rubric = Rubric.from_captions(source.all_captions())
        assert networks.clip is not None  # a run on captions has one
        names_NxRxD = embed_references(networks.clip, frozen.clip, tokenizer, held_out.names, networks.length)
        views = look(networks, frozen, held_out.images_NxHxWxC)
        self._frozen = frozen._replace(views=views._replace(references_NxRxD=names_NxRxD))
        self._examine = jax.jit(
            over_members(config, functools.partial(examine, networks, config.watch.greedy))
        )
        # The same noise in every look: what differs is the policy, and less of it is chance.
        key = jax.random.fold_in(jax.random.key(config.seed), 5)
        single = config.members == 1
        self._key = key if single else jnp.stack([key] * config.members)
        folders = [folder] if single else [member_folder(folder, m) for m in range(config.members)]
        self._journals = [Journal(path / "watch.jsonl") for path in folders]
        self._looks: list[list[Look]] | None = None
        settings = {name: getattr(config.watch, name) for name in Limits._fields}
        self._limits = Limits(**settings)

    def evaluation(self) -> Evaluation[Guarded]:
        """What `fit` does of it: before the first step, at intervals and at the end."""
        return Evaluation(
            lambda at: self.measure(at.state), self._config.watch_every, first=True, halted=self.halted
        )

    def measure(self, state: PolicyState) -> Metrics:
        """Means over the pictures, gains over the first look, and which alarms ring; prints new ones."""
        step = int(np.max(np.asarray(state.step)))
        pasts = [[seen for seen in looks if seen.step < step] for looks in self._recall(step)]
        seen = on_host(self._examine(state, self._frozen, self._hyper, self._key))
        self._looks = [
            [*past, self._note(member, step, member_of(seen, member, len(pasts)))]
            for member, past in enumerate(pasts)
        ]
        rows = [self._metrics(member) for member in range(len(pasts))]
        if len(rows) == 1:
            return rows[0]
        return jax.tree.map(lambda *values: np.stack(values), *rows)

    def rung(self, step: int) -> list[dict[str, int]]:
        """For each member the alarms that rang up to `step`, with the step of the first time."""
        return [
            first_rung([seen for seen in looks if seen.step <= step], self._limits)
            for looks in self._recall(step)
        ]

    def halted(self, step: int) -> bool:
        """Whether the run is to end with `step`, for an alarm."""
        return self._config.stop_on_alarm and any(self.rung(step))

    def _recall(self, last: int) -> list[list[Look]]:
        """The looks of each member; of an earlier process those up to step `last`."""
        if self._looks is None:
            self._looks = [[_look_of(record) for record in journal.read(last)] for journal in self._journals]
        return self._looks

    def _note(self, member: int, step: int, seen: Seen) -> Look:
        texts = self._tokenizer.decode_batch(np.asarray(seen.completions.ids_BxT))
        numbers = {name: value for name, value in seen._asdict().items() if name != "completions"}
        gold_N = self._rubric.utilities(texts, self._held_out.captions)
        record = {
            name: None if value is None else np.asarray(value, np.float64).tolist()
            for name, value in {"gold_N": gold_N, **numbers}.items()
        }
        self._journals[member].add(step, {**record, "captions": texts})
        return _look_of({"step": step, **record})

    def _metrics(self, member: int) -> Metrics:
        assert self._looks is not None
        looks = self._looks[member]
        first, now = looks[0], looks[-1]
        rows = np.asarray(float(len(now.gold_N)))
        metrics: dict[str, Any] = {}
        for name in Look._fields[1:]:
            values_N = getattr(now, name)
            if values_N is not None:
                metrics[f"eval/{name.removesuffix('_N')}"] = (np.sum(values_N), rows)
        for name, now_N, first_N in (
            ("gold", now.gold_N, first.gold_N),
            ("proxy", now.proxy_N, first.proxy_N),
        ):
            gain = standardised_gain(now_N, first_N)
            known = np.asarray(float(np.isfinite(gain)))
            metrics[f"eval/{name}_gain"] = (np.nan_to_num(gain), known)
        bells = ringing(looks, self._limits)
        for name in ALARMS:
            metrics[f"alarms/{name}"] = (np.asarray(float(name in bells)), np.asarray(1.0))
        for name in sorted(set(bells) - first_rung(looks[:-1], self._limits).keys()):
            whose = "" if len(self._looks) == 1 else f"member {member}: "
            print(f"{self._config.algorithm}: {whose}alarm at step {now.step}: {name}")
        return metrics


def _look_of(record: dict[str, Any]) -> Look:
    arrays = {
        name: None if record[name] is None else np.asarray(record[name], np.float64)
        for name in Look._fields[1:]
    }
    return Look(record["step"], **arrays)  # type: ignore[arg-type]
