"""What of the policy is trained: it starts as the reference, holds nothing twice, and is saved whole."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub import llama
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.hub.peft import load_adapters
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.sampling import begin_prompts
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training.adaptation import bind, init_trained, merged, save_trained, score, untied
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.config.adapt import LoraConfig
from mmrlhf_jax.training.networks import Frozen
from mmrlhf_jax.types import Completions
from tests.ppo_steps import CONFIG, KEY, compiled, frozen_without_judges, reward_by_hand, same
from tests.tiny_networks import LENGTH, NETWORKS, PICTURES

LORA = LoraConfig(rank=2, alpha=6.0)
HOW = ("full", "lora", "head")


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return frozen_without_judges()


@pytest.fixture(scope="module")
def captioner(frozen) -> Captioner:
    tokenizer = CaptionTokenizer.train(["a cat"], vocab_size=280)
    architecture = NETWORKS.policy.bind(frozen.reference).config
    return Captioner(architecture, NETWORKS.policy, frozen.reference, tokenizer)


@pytest.fixture(scope="module")
def completions() -> Completions:
    ids = jax.random.randint(jax.random.key(3), (PICTURES, LENGTH), 3, 20)
    lengths = np.array([LENGTH, 3] * (PICTURES // 2))
    return Completions(ids, jnp.asarray(np.arange(LENGTH) < lengths[:, None]))


def start(reference, adapt, critic="trunk"):
    return init_trained(reference, adapt, LORA, KEY, critic=critic)


def perturbed(tree):
    """Every number of a pytree moved, so that adapters of zero count too."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def shapes(tree) -> set[tuple[int, ...]]:
    return {leaf.shape for leaf in jax.tree.leaves(tree)}


def count_bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("critic", ["trunk", "separate"])
@pytest.mark.parametrize("adapt", HOW)
def test_it_starts_as_the_reference_with_values_of_zero(frozen, completions, adapt, critic):
    given = (frozen.views.policy_NxPxD, begin_prompts(PICTURES), completions)
    trained = start(frozen.reference, adapt, critic)
    said = score(NETWORKS.policy, frozen.reference, trained, *given, LORA.scale)
    wanted = NETWORKS.policy.bind(frozen.reference).score(given[0], *given[1], *given[2])
    np.testing.assert_allclose(said.logits_BxTxV, wanted.logits_BxTxV, rtol=1e-5, atol=1e-6)
    assert not np.asarray(said.values_BxT).any()


def test_what_is_trained_is_all_that_the_state_has(frozen):
    """The decoder's parameters stand in the reference alone, and neither does Adam keep moments of them."""
    reference = frozen.reference
    states = {
        adapt: ppo.init_state(reference, dataclasses.replace(CONFIG, adapt=adapt, lora=LORA), KEY)
        for adapt in HOW
    }
    assert set(states["lora"].params) == {"adapters", "value_head"}
    kernels = {name: leaf for name, leaf in parameter_names(reference["decoder"]).items() if "kernel" in name}
    assert len(states["lora"].params["adapters"]) == len(kernels) == 7
    adapters = sum(LORA.rank * sum(kernel.shape) for kernel in kernels.values())
    heads = 4 * (16 + 1)  # the value head
    extra = 3 * 4  # the step, Adam's count and the KL coefficient
    assert count_bytes(states["lora"]) == 3 * (4 * adapters + heads) + extra
    assert count_bytes(states["head"]) == 3 * (4 * 16 * 24 + heads) + extra
    assert count_bytes(states["full"]) == 3 * (count_bytes(reference["decoder"]) + heads) + extra
    assert not shapes(states["lora"]) & {leaf.shape for leaf in kernels.values()}


def test_a_separate_critic_is_the_only_second_network(frozen):
    trunk, separate = (start(frozen.reference, "lora", critic) for critic in ("trunk", "separate"))
    assert set(separate) == {"adapters", "critic"} and set(separate["critic"]) == set(trunk)
    assert not same(separate["adapters"], separate["critic"]["adapters"])
    assert set(start(frozen.reference, "head", "separate")["critic"]) == {"value_head"}
    assert set(start(frozen.reference, "full", None)) == {"decoder"}


def test_a_separate_critic_alone_decides_the_values(frozen, completions):
    given = (frozen.views.policy_NxPxD, begin_prompts(PICTURES), completions)
    trained = start(frozen.reference, "full", "separate")
    moved = {**trained, "critic": perturbed(trained["critic"])}
    before, after = (
        score(NETWORKS.policy, frozen.reference, params, *given, LORA.scale) for params in (trained, moved)
    )
    np.testing.assert_array_equal(before.logits_BxTxV, after.logits_BxTxV)
    own = {**frozen.reference, **moved["critic"]}
    wanted = NETWORKS.policy.bind(own).score(given[0], *given[1], *given[2]).values_BxT
    np.testing.assert_allclose(after.values_BxT, wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(wanted).max() > 0.01


@pytest.mark.parametrize("adapt", HOW)
def test_what_is_saved_says_what_was_trained(frozen, captioner, completions, tmp_path, adapt):
    trained = perturbed(start(frozen.reference, adapt, "separate"))
    save_trained(captioner, trained, tmp_path, scale=LORA.scale)
    loaded = Captioner.load(tmp_path)
    given = (frozen.views.policy_NxPxD, begin_prompts(PICTURES), completions)
    wanted = score(NETWORKS.policy, frozen.reference, trained, *given, LORA.scale)
    got = loaded.policy.bind(loaded.params).score(given[0], *given[1], *given[2])
    np.testing.assert_allclose(got.logits_BxTxV, wanted.logits_BxTxV, rtol=1e-4, atol=1e-4)
    reference = NETWORKS.policy.bind(frozen.reference).score(given[0], *given[1], *given[2])
    assert np.abs(np.asarray(got.logits_BxTxV - reference.logits_BxTxV)).max() > 0.01
    assert loaded.architecture == (
        untied(captioner.architecture) if adapt == "head" else captioner.architecture
    )
    critic = Captioner.load(tmp_path / "critic")
    values = critic.policy.bind(critic.params).score(given[0], *given[1], *given[2]).values_BxT
    np.testing.assert_allclose(values, wanted.values_BxT, rtol=1e-4, atol=1e-4)


def test_adapters_are_saved_under_the_names_of_llava(frozen, captioner, tmp_path):
    trained = perturbed(start(frozen.reference, "lora"))
    save_trained(captioner, trained, tmp_path, scale=LORA.scale)
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 6.0)
    assert "model.language_model.layers.0.self_attn.q_proj" in config["target_modules"]
    table = {
        f"decoder.{name}": dataclasses.replace(
            rule, sources=tuple(s.replace("model.", "model.language_model.", 1) for s in rule.sources)
        )
        for name, rule in llama.table(captioner.architecture.decoder).items()
    }
    adapters, scale = load_adapters(tmp_path / "adapters", table)
    assert scale == LORA.scale and same(adapters, trained["adapters"])


def test_the_reference_is_shared_and_not_copied(frozen, captioner):
    whole = merged(captioner, start(frozen.reference, "lora"), LORA.scale).params
    for part in ("vision", "project_in", "project_out"):
        for one, other in zip(
            jax.tree.leaves(whole[part]), jax.tree.leaves(frozen.reference[part]), strict=True
        ):
            assert one is other


def test_a_rule_that_fits_nothing_is_refused(frozen):
    with pytest.raises(UserError, match="fits none of the linear layers"):
        init_trained(frozen.reference, "lora", LoraConfig(layers="attention"), KEY, critic=None)
    with pytest.raises(UserError, match=r"--lora\.layers '\(' is no regular expression"):
        LoraConfig(layers="(")


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "reinforce"])
def test_algorithms_without_values_refuse_a_separate_critic(algorithm):
    with pytest.raises(UserError, match=f"no place in {algorithm}, which learns no values") as error:
        PPOConfig(algorithm=algorithm, critic="separate")
    assert "ppo or a2c" in str(error.value)
    with pytest.raises(UserError, match="add --critic separate"):
        PPOConfig(critic_learning_rate=1e-4)


@pytest.mark.medium
def test_a_step_of_adapters_and_a_separate_critic(frozen, monkeypatch):
    """The ratio is 1, all that is trained moves, and the critic's rate is its own."""
    reward_by_hand(monkeypatch)
    config = dataclasses.replace(CONFIG, adapt="lora", lora=LORA, critic="separate")
    step, state = compiled(config), ppo.init_state(frozen.reference, config, KEY)
    hyper = ppo.Hyper.of(config)
    for _ in range(3):  # the critic's value head is 0 at first, then B of its adapters, and then A moves
        before, (state, metrics) = state, step(state, frozen, hyper)
        row = finalize(metrics)
        assert row["val/ratio"] == pytest.approx(1.0, abs=1e-5)
        assert row["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-9)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, state.params)
    assert all(jax.tree.leaves(moved)), moved
    still, _ = step(before, frozen, hyper._replace(critic_factor=jnp.asarray(0.0)))
    assert same(still.params["critic"], before.params["critic"])
    assert same(still.params["adapters"], state.params["adapters"])
    doubled, _ = step(before, frozen, hyper._replace(critic_factor=jnp.asarray(2.0)))
    for old, once, twice in zip(
        *(jax.tree.leaves(s.params["critic"]) for s in (before, state, doubled)), strict=True
    ):
        np.testing.assert_allclose(twice - old, 2 * (once - old), rtol=1e-3, atol=1e-6)
    assert len(step.traces) == 1


@pytest.mark.medium
def test_a_step_of_the_output_weights(frozen, monkeypatch):
    reward_by_hand(monkeypatch)
    config = dataclasses.replace(CONFIG, adapt="head")
    state = ppo.init_state(frozen.reference, config, KEY)
    after, metrics = compiled(config)(state, frozen)
    assert finalize(metrics)["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, after.params)
    assert moved == {"decoder": {"head": {"kernel": True}}, "value_head": {"bias": True, "kernel": True}}


def test_binding_an_untied_reference_keeps_its_head(frozen):
    """Where the output weights stand apart from the start, "head" trains those."""
    config = untied(NETWORKS.policy.bind(frozen.reference).config)
    policy = define_policy(config)
    reference = policy.init(jax.random.key(1))
    trained = start(reference, "head")
    assert same(trained["decoder"]["head"]["kernel"], reference["decoder"]["head"]["kernel"])
    moved = perturbed(trained)
    logits = bind(policy, reference, moved, 1.0).decoder.logits(jnp.ones((1, 1, 16)))
    np.testing.assert_allclose(
        logits[0, 0], jnp.sum(moved["decoder"]["head"]["kernel"], axis=0), rtol=1e-4, atol=1e-4
    )
