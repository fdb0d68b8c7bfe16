"""The benchmark's loop: every method on every task, one file for each, and the report over all of them."""

import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.summary import write_summary
from mmrlhf_jax.modules import count_params
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.platform import device_name, git_revision, peak_rss_mb, versions
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.training.contrastive import load_clip
from mmrlhf_jax.training.fusion_benchmark.conclusions import Answers, Trials, compare_to_best, conclude
from mmrlhf_jax.training.fusion_benchmark.config import FusionBenchmarkConfig
from mmrlhf_jax.training.fusion_benchmark.data import TaskData, known_answer, load_task
from mmrlhf_jax.training.fusion_benchmark.measure import accuracies, measure
from mmrlhf_jax.training.fusion_benchmark.report import write_reports
from mmrlhf_jax.training.fusion_benchmark.trial import define_judge, flops_per_example, train

# Compiles in half of the time; programs as small as these run no slower.
_QUICKLY: dict[str, Any] = {"xla_backend_optimization_level": 1}


def run(config: FusionBenchmarkConfig) -> dict[str, Any]:
    """Writes RUN/trials/TASK/METHOD.json as they come, then RUN/results.json, results.md and report.html.

    Returns:
      What results.json holds.

    Raises:
      UserError: RUN was made with other sizes, or another process works on it.
    """
    left = [
        (method, task)
        for method in config.methods
        for task in config.tasks
        if not _file(config, task, method).exists()
    ]
    if config.dry_run:
        count = len(config.methods) * len(config.tasks)
        print(f"fusion_benchmark: {len(left)} of {count} trials to do, each of {config.trial.seeds} seeds:")
        for method in config.methods:
            print(f"  {method}: {', '.join(task for name, task in left if name == method) or 'done'}")
        return {}
    if config.pictures_run is not None:  # told at once, not after the synthetic tasks
        load_clip(StageConfig(run=config.pictures_run))
    claim = {"trial": config.trial, "pictures_run": config.pictures_run}
    with StageFolder.open(config.run, claim, resume=True):
        load = functools.cache(functools.partial(load_task, config=config))
        compiled: dict[tuple[Any, ...], Any] = {}  # of one method; tasks of the same shapes share a program
        for number, (method, task) in enumerate(left, 1):
            if number > 1 and left[number - 2][0] != method:
                compiled.clear()
            result = try_method(method, load(task), config, compiled)
            write_summary(_file(config, task, method), result)
            accuracy = sum(result["accuracy"]) / len(result["accuracy"])
            print(f"[{number}/{len(left)}] {method} on {task}: accuracy {accuracy:.3f}", flush=True)
        trials: Trials = {
            task: {method: json.loads(_file(config, task, method).read_text()) for method in config.methods}
            for task in config.tasks
        }
        results = _summarise(config, trials)
        write_reports(config.run, results)
    print(f"report: {config.run / 'report.html'}")
    return results


def try_method(
    method: FusionName, data: TaskData, config: FusionBenchmarkConfig, compiled: dict[tuple[Any, ...], Any]
) -> dict[str, Any]:
    """Trains one method on one task, all seeds at once, and measures it.

    Where modalities are missing it is trained once more without being told which ("unmasked").

    Args:
      compiled: training programs by the shapes of their examples; what is missing is added.
    """
    trial, start = config.trial, time.monotonic()
    features = (data.train.image_NxD.shape[-1], data.train.text_NxD.shape[-1])
    model = define_judge(method, features, trial.width)
    key_K = jax.random.split(jax.random.key(1), trial.seeds)
    shapes = (jax.tree.structure(data.train), *(leaf.shape for leaf in jax.tree.leaves(data.train)))
    if shapes not in compiled:
        compiled[shapes] = train.lower(model, trial, key_K, data.train).compile(_QUICKLY)
    before = time.monotonic()
    params, losses_KxT = jax.block_until_ready(compiled[shapes](key_K, data.train))
    seconds = time.monotonic() - before
    result = measure(model, params, data, trial.noise)
    if data.complete is not None:
        untold = data.train._replace(present_Nx2=jnp.ones_like(data.train.present_Nx2))
        unmasked, _ = compiled[shapes](key_K, untold)
        result["unmasked"] = {
            "accuracy": accuracies(model, unmasked, data.test, masked=False),
            "accuracy_complete": accuracies(model, unmasked, data.complete, masked=False),
        }
    one = jax.tree.map(lambda leaf: leaf[0], data.train)
    return result | {
        "loss": jnp.mean(losses_KxT[:, -max(1, trial.steps // 20) :], axis=1),
        "parameters": count_params(model.abstract()),
        "flops": flops_per_example(model, one),
        "step_ms": 1000 * seconds / trial.steps,
        "seconds": time.monotonic() - start,
    }


def _summarise(config: FusionBenchmarkConfig, trials: Trials) -> dict[str, Any]:
    """What results.json holds."""
    known = {task: known_answer(task) for task in trials}
    answers: Answers = {
        task: None
        if answer is None
        else {"bayes": answer.bayes, "trained": answer.both, "picture_share": answer.picture_share}
        for task, answer in known.items()
    }
    return {
        "config": config.trial,
        "features": str(config.pictures_run or "plain components"),
        "device": device_name(),
        "versions": versions() | {"git_revision": git_revision()},
        "seconds": sum(trial["seconds"] for row in trials.values() for trial in row.values()),
        "peak_rss_mb": peak_rss_mb(),
        "answers": answers,
        "compared": {task: compare_to_best(row) for task, row in trials.items()},
        "intervals": {
            task: {method: bootstrap_mean(np.asarray(trial["accuracy"])) for method, trial in row.items()}
            for task, row in trials.items()
        },
        "conclusions": conclude(trials, answers),
        "trials": trials,
    }


def _file(config: FusionBenchmarkConfig, task: str, method: str) -> Path:
    return config.run / "trials" / task / f"{method}.json"
