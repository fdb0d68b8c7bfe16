"""TRL's PPO or GRPO, or transformers' generate, on a decoder of ours; runs in the peer's own environment.

python peer_trl.py {ppo,grpo,generate} MODEL_FOLDER THREADS BATCH PROMPT RESPONSE EPOCHS GROUP
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benches.peer import taking_turns

PACKAGES = ("torch", "transformers")


def main() -> None:
    algorithm, folder, *numbers = sys.argv[1:]
    threads, batch, prompt, response, epochs, group = map(int, numbers)
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        common = {
            "output_dir": scratch,
            "report_to": "none",
            "logging_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": batch,
            "learning_rate": 1e-4,
            "use_cpu": True,
        }
        if algorithm == "generate":
            generate(folder, batch, prompt, response)
        elif algorithm == "ppo":
            ppo(folder, common, batch, prompt, response, epochs)
        else:
            grpo(folder, common, prompt, response, epochs, group)


class Iterations(transformers.TrainerCallback):
    """Waits to be asked for before every iteration of a trainer whose step is one."""

    def __init__(self) -> None:
        self.turn = taking_turns(*PACKAGES, "trl")

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.turn()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.turn()


class Steps(transformers.TrainerCallback):
    """Waits to be asked for before every `steps` gradient steps, which make an iteration."""

    def __init__(self, steps: int) -> None:
        self.turn, self.steps = taking_turns(*PACKAGES, "trl"), steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step % self.steps == 0:
            self.turn()


def generate(folder: str, batch: int, prompt: int, response: int) -> None:
    """Sampling alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids_BxL = torch.randint(3, 512, (batch, prompt))
    options = {"max_new_tokens": response, "min_new_tokens": response, "do_sample": True, "top_k": 0}
    turn = taking_turns(*PACKAGES)
    while True:
        turn()
        with torch.inference_mode():
            model.generate(ids_BxL, attention_mask=torch.ones_like(ids_BxL), **options)


def scorer(folder: str) -> Any:
    """A model with a scalar head, of the decoder's sizes."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)


def ppo(folder: str, common: dict[str, Any], batch: int, prompt: int, response: int, epochs: int) -> None:
    """Policy, reference, value and reward model, all of them separate, as TRL has it."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    rows = np.random.default_rng(0).integers(3, 512, (4 * batch, prompt)).tolist()
    data = datasets.Dataset.from_dict({"input_ids": rows})
    config = PPOConfig(
        **common,
        num_ppo_epochs=epochs,
        num_mini_batches=1,
        total_episodes=10**6,
        response_length=response,
        stop_token=None,
        missing_eos_penalty=None,
        num_sample_generations=0,
        local_rollout_forward_batch_size=batch,
    )
    policy, reference = (transformers.AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=scorer(folder),
        value_model=scorer(folder),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[Iterations()],
    )
    trainer.train()


def grpo(folder: str, common: dict[str, Any], prompt: int, response: int, epochs: int, group: int) -> None:
    """Policy, reference and reward model; `epochs` gradient steps on each batch of completions."""
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    config = GRPOConfig(
        **common,
        num_generations=group,
        num_iterations=epochs,
        steps_per_generation=1,
        max_completion_length=response,
        max_steps=10**6,
        beta=0.05,
        generation_kwargs={"min_new_tokens": response},
    )
    trainer = GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=scorer(folder),
        args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts(tokenizer, prompt)}),
        processing_class=tokenizer,
        reward_processing_classes=tokenizer,
        callbacks=[Steps(epochs)],
    )
    trainer.train()


def prompts(tokenizer: Any, length: int) -> list[str]:
    """Texts that are read as `length` tokens."""
    random = np.random.default_rng(0)
    found: list[str] = []
    while len(found) < 256:
        text = tokenizer.decode(random.integers(260, 512, length).tolist())
        if len(tokenizer(text)["input_ids"]) == length:
            found.append(text)
    return found


if __name__ == "__main__":
    main()
