"""The stage that reinforces the policy: from a config to a trained policy in a folder."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmrlhf_jax.data.features import FeatureFolder, checksum_of
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.processes import of_first
from mmrlhf_jax.reward.composite import Views, fit_normaliser, require_terms
from mmrlhf_jax.reward.ledger import ledger_numbers
from mmrlhf_jax.rl.generate import Limits
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.sharding import made
from mmrlhf_jax.training.adaptation import save_trained
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.config.stage import arm
from mmrlhf_jax.training.guard import Guarded, guarded
from mmrlhf_jax.training.judges import embed_references
from mmrlhf_jax.training.loop import Rescue, describe, fit, member_folder, prepare
from mmrlhf_jax.training.members import member_of, member_rates, over_members
from mmrlhf_jax.training.networks import Frozen, Networks, encode_views, load_networks, look, no_views
from mmrlhf_jax.training.picture_source import PictureSource, picture_source
from mmrlhf_jax.training.pictures import Subjects, check_batch, order_key
from mmrlhf_jax.training.policy import (
    Collected,
    collect,
    compile_update,
    draw_views,
    learn,
    start_members,
    watched,
)
from mmrlhf_jax.training.rollout import Hyper, reference_statistics
from mmrlhf_jax.training.streamed_views import look_on_disk, view_stream
from mmrlhf_jax.training.streaming import fit_streamed
from mmrlhf_jax.training.watch import Watch
from mmrlhf_jax.types import PolicyState


@on_own_mesh
def run(config: PPOConfig, subjects: Subjects | None = None) -> dict[str, Any]:
    """Trains the policy; leaves it under ALGORITHM/model/, in the form of the SFT policy.

    Of several members trained together the first one's policy is there, and those of all are under members/.

    Args:
      subjects: what the policy writes about; by default the feedback pictures of `config.pictures`.

    Returns:
      The stage's result: the normaliser, the last KL coefficient, the greatest KL of any logged step, and of
      a watch the step of each alarm; with several members their swept rates and seeds. `stopped` says why a
      run ended before its time.
    """
    if subjects is not None and (config.stream or config.watch_every):
        raise UserError(
            "--stream and --watch-every look at captioned pictures, which this run has not: leave them out"
        )
    about, stage = About(picture_source(config), subjects), arm(config.algorithm, config.without_picture)
    check_batch(config.batch // config.choices.group, about.count, "feedback pictures")
    captioner, networks, frozen = load_networks(
        config,
        config.terms,
        limits=Limits(config.min_length, config.top_k, config.top_p),
        ensemble=config.ensemble,
        without_picture=config.without_picture,
    )
    require_terms(dataclasses.asdict(config.weights), networks.terms())
    key_reference, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 3))
    if config.dry_run:
        frozen = frozen._replace(views=about.shapes(networks, frozen, captioner))
        describe_run(config, stage, networks, frozen, key)
        return {}
    with StageFolder.open(config.folder(stage), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        frozen = frozen._replace(views=about.look(config, networks, frozen, captioner, folder))
        kept = None
        if not config.stream and config.terms.text_scorer is None:  # a function may change under its name
            kept = kept_reference(config, networks, frozen, key_reference, config.folder("reference") / stage)
        normaliser, baseline = reference_statistics(networks, config, frozen, key_reference, kept)
        frozen = frozen._replace(normaliser=normaliser, views=frozen.views._replace(baseline=baseline))
        frozen = frozen.placed(config.mesh_frozen)
        watch = None
        if config.watch_every:
            watch = Watch(config, networks, frozen, captioner.tokenizer, folder.path)
        if config.stream:
            state = reinforce_streamed(config, networks, frozen, about.source, key, folder, watch)
        else:
            state = reinforce(config, networks, frozen, key, folder, watch)
        save_members(config, captioner, state, folder)
        folder.finish({"normaliser": frozen.normaliser._asdict(), **outcome(config, state, watch, folder)})
        return folder.result()


def kept_reference(
    config: PPOConfig, networks: Networks, frozen: Frozen, key: jax.Array, path: Path
) -> FeatureFolder:
    """Where a later start of this stage finds what the reference policy earned, if that is still the same."""
    judges = (frozen.reference, frozen.language_model, frozen.clip, frozen.reward_model, frozen.rules)
    settings = (config.temperature, config.terms, networks.limits, networks.length, networks.forbidden)
    made_of = {
        "model": checksum_of(judges),
        "data": checksum_of(frozen.views),
        "key": checksum_of(key),
        "settings": repr(settings),
    }
    return FeatureFolder(path, made_of)


@dataclasses.dataclass(frozen=True)
class About:
    """What the policy writes about: the feedback pictures of a source, or subjects of a run of its own."""

    source: PictureSource
    subjects: Subjects | None

    @property
    def names(self) -> list[str] | None:
        """What people call the pictures, where that is known."""
        if self.subjects is not None:
            return None if self.subjects.names is None else list(self.subjects.names)
        return [caption.name for caption in self.source.captions("feedback")]

    @property
    def count(self) -> int:
        """How many there are."""
        if self.subjects is not None:
            return len(self.subjects.images_NxHxWxC)
        return len(self.source.captions("feedback"))

    def shapes(self, networks: Networks, frozen: Frozen, captioner: Captioner) -> Views:
        """The shapes of what the networks see, without looking."""
        size = self.source.image_size if self.subjects is None else self.subjects.images_NxHxWxC.shape[1]
        images = jax.ShapeDtypeStruct((self.count, size, size, 3), jnp.uint8)
        views = jax.eval_shape(functools.partial(encode_views, networks), frozen, images)
        return self._with_prompts(views, captioner)

    def look(
        self, config: PPOConfig, networks: Networks, frozen: Frozen, captioner: Captioner, folder: StageFolder
    ) -> Views:
        """What the networks see, once for the whole run; with `config.stream` on disk, in `folder`."""
        if config.stream:
            views = look_on_disk(networks, frozen, self.source, folder.path / "features")
        else:
            shown = self.source.load("feedback") if self.subjects is None else self.subjects
            views = look(networks, frozen, shown.images_NxHxWxC)
        if networks.clip is not None and self.names is not None:
            references_NxRxD = embed_references(
                networks.clip, frozen.clip, captioner.tokenizer, self.names, networks.length
            )
            views = views._replace(references_NxRxD=references_NxRxD)
        return self._with_prompts(views, captioner)

    def _with_prompts(self, views: Views, captioner: Captioner) -> Views:
        if self.subjects is None or self.subjects.said is None:
            return views
        return views._replace(prompts=captioner.prompts(self.subjects.said, self.count))


def describe_run(config: PPOConfig, stage: str, networks: Networks, frozen: Frozen, key: jax.Array) -> None:
    """What a dry run prints."""
    zeros = dict.fromkeys(networks.terms(), jnp.zeros(1))
    frozen = frozen._replace(normaliser=fit_normaliser(zeros))
    state, keys = jax.eval_shape(functools.partial(start_members, config), frozen.reference, key)
    arguments = {"state": state, "frozen": frozen, "hyper": member_rates(config)[0], "key": keys}
    describe(stage, state.state.params, compile_update(networks, config), arguments)


def reinforce(
    config: PPOConfig,
    networks: Networks,
    frozen: Frozen,
    key: jax.Array,
    folder: StageFolder,
    watch: Watch | None,
) -> PolicyState:
    """The last state of a run whose pictures were all looked at and are on the device."""
    hyper = member_rates(config)[0]
    first, keys = made(functools.partial(start_members, config), frozen.reference, key)
    label = f"{folder.path.name}: memory of the compiled step"
    update = prepare(label, compile_update(networks, config), first, frozen, hyper, keys)

    def batch(at: Guarded, step: int) -> dict[str, Any]:
        return failed_rollout(networks, config, at, step, (frozen, hyper, keys))

    state, _ = fit(
        lambda state: update(state, frozen, hyper, keys),
        first,
        config,
        folder,
        steps_per_call=config.updates_per_call,
        members=config.members,
        rescue=Rescue(batch, networks.reasons),
        **_looks(config, watch),
    )
    return state


def reinforce_streamed(
    config: PPOConfig,
    networks: Networks,
    frozen: Frozen,
    source: PictureSource,
    key: jax.Array,
    folder: StageFolder,
    watch: Watch | None,
) -> PolicyState:
    """The same with what was seen of the pictures on disk."""
    hyper, judges = member_rates(config)[0], frozen._replace(views=no_views())
    first, _ = made(functools.partial(start_members, config), frozen.reference, key)
    step = jax.jit(guarded(functools.partial(learn, networks, config), watched(config)))
    state, _ = fit_streamed(
        lambda state, views: step(state, judges, views, hyper, key),
        first,
        view_stream(frozen.views, source, config, order_key(key)),
        config,
        folder,
        reasons=networks.reasons,
        **_looks(config, watch),
    )
    return state


def _looks(config: PPOConfig, watch: Watch | None) -> dict[str, Any]:
    """What both ways tell `fit` alike."""
    return {
        "steps": config.steps,
        "shown": ("objective/scores", "objective/kl", "rewards/preference/mean"),
        "finish": ledger_numbers,
        "evaluation": None if watch is None else watch.evaluation(),
    }


def failed_rollout(
    networks: Networks,
    config: PPOConfig,
    at: Guarded,
    step: int,
    inputs: tuple[Frozen, Hyper, jax.Array],
) -> dict[str, Any]:
    """What the update after `step` others learned from: completions, their rewards, advantages."""
    state = at.state._replace(step=jnp.full_like(at.state.step, step))

    def gather(state: PolicyState, frozen: Frozen, hyper: Hyper, key: jax.Array) -> Collected:
        views = draw_views(config, state, frozen, key)
        return collect(networks, config, state, frozen, views, hyper, key)

    collected = jax.jit(over_members(config, gather))(state, *inputs)
    kept = (
        "completions",
        "logprobs_BxT",
        "reference_logprobs_BxT",
        "values_BxT",
        "advantages_BxT",
        "returns_BxT",
    )
    arrays = {name: getattr(collected.rollout, name) for name in kept}
    return {**arrays, "rewards": collected.ledger}


def save_members(config: PPOConfig, captioner: Captioner, state: PolicyState, folder: StageFolder) -> None:
    """Writes the trained policies."""
    for member in range(config.members):
        trained = member_of(state.params, member, config.members)
        if config.members > 1:
            path = member_folder(folder.path, member) / "model"
            save_trained(captioner, trained, path, scale=config.lora.scale)
        if member == 0:
            save_trained(captioner, trained, folder.model, scale=config.lora.scale)


def outcome(
    config: PPOConfig, state: PolicyState, watch: Watch | None, folder: StageFolder
) -> dict[str, Any]:
    """How the run went."""
    paths = [folder.path]
    result: dict[str, Any] = {"kl_coef": state.kl_coef}
    if config.members > 1:
        paths = [member_folder(folder.path, member) for member in range(config.members)]
        seeds = [seed for _ in config.sweep.settings for seed in range(config.seeds)]
        result["members"] = [
            {**setting, "seed": seed} for setting, seed in zip(config.settings, seeds, strict=True)
        ]

    def highest() -> float:
        rows = [row for path in paths for row in read_metrics(path / "metrics.jsonl")]
        return max(row["objective/kl"] for row in rows if row.get("objective/kl") is not None)

    result["kl_max"] = of_first(highest)
    if watch is None:
        return result
    step = int(jnp.max(state.step))
    rung = watch.rung(step)
    stopped = f"alarm at step {step}: {', '.join(rung[0])}" if watch.halted(step) else None
    return {**result, "alarms": rung, "stopped": stopped}
