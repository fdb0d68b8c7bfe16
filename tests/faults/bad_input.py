"""The kinds of bad input that users give, each with the command that meets it and the error it must tell.

docs/errors.md shows them; from the repository's folder, with the folder of a finished smoke run,

    python -m tests.faults.bad_input runs/smoke

writes it anew. `test_bad_input.py` runs each of them and compares the page.
"""

import contextlib
import io
import json
import pickle
import re
import runpy
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import safetensors.numpy

from mmrlhf_jax.files import write_text
from mmrlhf_jax.runtime import lock
from tests.picture_files import in_json, write_lines

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
COLOURS = ("red", "green", "blue", "grey")


class Case(NamedTuple):
    """One kind of bad input.

    Attributes:
      what: was wrong, for the page.
      flags: of the command, after its name; RUN stands for the run's folder, OWN for one of the user's files.
      told: what the error must say.
      prepare: puts the bad input into the two folders.
      whole: whether the run must be one that is finished; else it is an empty folder.
    """

    what: str
    command: str
    flags: str
    told: str
    prepare: Callable[[Path, Path], Any] | None = None
    whole: bool = False


class Outcome(NamedTuple):
    """What a command did."""

    status: Any
    printed: str
    error: str


def start(command: str, *flags: str) -> Outcome:
    """Runs an experiment's command line in this process, whose settings of JAX stay as they are."""
    script = str(ROOT / "experiments" / f"{command}.py")
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with (
        mock.patch.object(sys, "argv", [script, *flags]),
        mock.patch("mmrlhf_jax.runtime.cli.prepare_jax"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            status = stop.code
    return Outcome(status, out.getvalue(), err.getvalue())


def give(case: Case, folder: Path, finished: Path | None) -> tuple[Outcome, list[str]]:
    """Prepares the bad input in `folder` and starts the command.

    Returns:
      What it did, and the files that were changed, made or lost meanwhile.
    """
    run, own = folder / "run", folder / "own"
    own.mkdir(parents=True)
    if finished is None:
        run.mkdir()
    else:
        shutil.copytree(finished, run)
    if case.prepare is not None:
        case.prepare(run, own)
    flags = [flag.replace("RUN", str(run)).replace("OWN", str(own)) for flag in case.flags.split()]
    before = tree(folder)
    outcome = start(case.command, *flags)
    after = tree(folder)
    nothing = object()
    changed = sorted(path for path in before | after if before.get(path, nothing) != after.get(path, nothing))
    return outcome, changed


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: files with what they hold, folders with None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def as_told(error: str, folder: Path) -> str:
    """An error as the page shows it: RUN and OWN for the folders, and dots for what libraries say."""
    text = error.removeprefix("error: ").strip().replace(str(folder / "run"), "RUN")
    text = text.replace(str(folder / "own"), "OWN")
    text = re.sub(r"(process )\d+( on )\S+(?=:)", r"\1ID\2HOST", text)
    return " ".join(re.sub(r"\((?:[^()]|\([^()]*\))*\)", _shorten, text).split())


def _shorten(match: re.Match[str]) -> str:
    """Library's words differ from version to version; columns, steps and picture sizes are the project's."""
    own = re.match(r"\((steps |pairs_per_picture|s\)|'a dog'|\)|\d+ bytes)", match.group())
    return match.group() if own else "(...)"


def pairs(*changes: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Two good comparisons about different pictures, then one for each of `changes`; `fields` change all."""
    good = {"prompt": "", "chosen": "a red square", "rejected": "a dog", "images": [in_json("red")]}
    other = {**good, "images": [in_json("blue")]}
    return [{**record, **fields} for record in (good, other, *({**good, **change} for change in changes))]


def lines(*records: Any, name: str = "p.jsonl") -> Callable[[Path, Path], Any]:
    """Writes a file of records."""
    return lambda run, own: write_lines(own / name, *records)


def text(content: str | bytes, name: str = "p.jsonl") -> Callable[[Path, Path], Any]:
    """Writes a file of the user's."""
    data = content.encode() if isinstance(content, str) else content
    return lambda run, own: (own / name).write_bytes(data)


def stage_file(path: str, content: str | bytes | None) -> Callable[[Path, Path], Any]:
    """Replaces a file of the finished run, or deletes it."""

    def prepare(run: Path, own: Path) -> None:
        file = run / "seed_0" / path
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def picture_given(value: Any) -> Callable[[Path, Path], Any]:
    """Comparisons whose last one has this as its picture."""
    return lines(*pairs({"images": [value]}))


def picture_bytes(data: bytes) -> Callable[[Path, Path], Any]:
    """Comparisons whose last one has the picture x.png with these bytes."""

    def prepare(run: Path, own: Path) -> None:
        (own / "x.png").write_bytes(data)
        write_lines(own / "p.jsonl", *pairs({"images": ["x.png"]}))

    return prepare


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a picture that says it has this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def thumbs(*labels: Any) -> Callable[[Path, Path], Any]:
    """A file of thumbs on different pictures."""
    rows = [
        {"prompt": "", "completion": "a square", "label": label, "images": [in_json(COLOURS[i % 4])]}
        for i, label in enumerate(labels)
    ]
    return lines(*rows)


def ratings(*values: Any) -> Callable[[Path, Path], Any]:
    """A file of ratings on different pictures."""
    rows = [
        {
            "prompt": "",
            "completion": "a square",
            "ratings": {"accuracy": value},
            "levels": {"accuracy": [1, 5]},
            "images": [in_json(COLOURS[i % 4])],
        }
        for i, value in enumerate(values)
    ]
    return lines(*rows)


def clicks(*clicked: list[Any]) -> Callable[[Path, Path], Any]:
    """A click log on different pictures."""
    rows = [
        {"prompt": "", "answers": ["a", "b"], "clicked": marks, "images": [in_json(COLOURS[i % 4])]}
        for i, marks in enumerate(clicked)
    ]
    return lines(*rows)


def change_tensor(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path, Path], Any]:
    """Changes the tensors of the pretrained CLIP."""

    def prepare(run: Path, own: Path) -> None:
        file = run / "seed_0/pretrain/model/clip/model.safetensors"
        tensors = safetensors.numpy.load_file(file)
        change(tensors)
        safetensors.numpy.save_file(tensors, file)

    return prepare


def first(tensors: dict[str, np.ndarray]) -> str:
    """The name of the first matrix."""
    return min(name for name, tensor in tensors.items() if tensor.ndim == 2)


def with_nan(tensors: dict[str, np.ndarray]) -> None:
    """Puts NaN into a tensor."""
    name = first(tensors)
    tensors[name] = np.full_like(tensors[name], np.nan)


def other_shape(tensors: dict[str, np.ndarray]) -> None:
    """Cuts a tensor."""
    name = first(tensors)
    tensors[name] = np.ascontiguousarray(tensors[name][..., :-1])


def other_dtype(tensors: dict[str, np.ndarray]) -> None:
    """Halves a tensor's precision."""
    name = first(tensors)
    tensors[name] = tensors[name].astype(np.float16)


def renamed(tensors: dict[str, np.ndarray]) -> None:
    """Gives a tensor another name."""
    tensors["logits_of_somebody_else"] = tensors.pop(first(tensors))


def truncate_weights(run: Path, own: Path) -> None:
    """Cuts a file of weights off in the middle."""
    file = run / "seed_0/pretrain/model/clip/model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def only_a_pickle(run: Path, own: Path) -> None:
    """Leaves weights as torch pickles them."""
    folder = run / "seed_0/pretrain/model/clip"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def swapped_models(run: Path, own: Path) -> None:
    """Puts the language model's config where CLIP's belongs."""
    model = run / "seed_0/pretrain/model"
    shutil.copy(model / "language_model/config.json", model / "clip/config.json")


def unfinished(stage: str, *more: Callable[[Path, Path], Any]) -> Callable[[Path, Path], Any]:
    """Takes a stage's result away, so that it has to go on; then does `more`."""

    def prepare(run: Path, own: Path) -> None:
        (run / "seed_0" / stage / "result.json").unlink()
        for do in more:
            do(run, own)

    return prepare


def damage_checkpoints(run: Path, own: Path) -> None:
    """Takes the checksums away."""
    for file in (run / "seed_0/sft/checkpoints").glob("*.manifest"):
        file.unlink()


def held_by_another(run: Path, own: Path) -> None:
    """A lock of this very process, which is alive."""
    lock.FolderLock(run / "seed_0/collect").acquire()


def preferences(cut: int) -> Callable[[Path, Path], Any]:
    """A good file without its last `cut` bytes."""

    def prepare(run: Path, own: Path) -> None:
        path = write_lines(own / "p.jsonl", *pairs({}))
        path.write_bytes(path.read_bytes()[:-cut])

    return prepare


REWARD = "--preset smoke --run RUN --preferences OWN/p.jsonl"
SMOKE = "--preset smoke --run RUN"

# Numbers and names that no config takes; nothing needs to be there.
CONFIG = [
    Case("learning rate NaN", "pretrain", f"{SMOKE} --optimizer.learning-rate nan", "learning_rate is nan"),
    Case(
        "learning rate below 0", "sft", f"{SMOKE} --optimizer.learning-rate=-1e-3", "learning_rate is -0.001"
    ),
    Case(
        "infinite learning rate", "reward", f"{SMOKE} --optimizer.learning-rate inf", "learning_rate is inf"
    ),
    Case("temperature 0 in training", "ppo", f"{SMOKE} --temperature 0", "temperature is 0"),
    Case("weight of a term NaN", "ppo", f"{SMOKE} --weights.preference nan", "preference is nan"),
    Case("a share above 1", "ppo", f"{SMOKE} --gamma 1.5", "gamma is 1.5"),
    Case("beta below 0", "dpo", f"{SMOKE} --beta=-0.1", "beta is -0.1"),
    Case("unknown preset", "pretrain", "--preset huge", "no preset 'huge'"),
    Case("unknown algorithm", "ppo", f"{SMOKE} --algorithm trpo", "invalid choice 'trpo'"),
    Case("unknown fusion", "reward", f"{SMOKE} --fusion sum", "invalid choice 'sum'"),
    Case("unknown loss", "dpo", f"{SMOKE} --loss nca", "invalid choice 'nca'"),
    Case("unknown environment", "control", "--environment Pong-v5", "invalid choice 'Pong-v5'"),
    Case("unknown task", "fusion_benchmark", "--run RUN --tasks chess", "tasks has 'chess'"),
    Case("unknown policy", "evaluate", f"{SMOKE} --policy ../ppo", "invalid choice '../ppo'"),
    Case("unknown flag", "ppo", f"{SMOKE} --learning-rate 1", "Unrecognized options: --learning-rate"),
    Case("size that is no whole number", "sft", f"{SMOKE} --steps 2.5", "Error parsing --steps"),
    Case("size in words", "pipeline", f"{SMOKE} --stages.ppo.batch ten", "Error parsing --stages.ppo.batch"),
    Case("flag without its value", "pretrain", "--steps", "Missing value for argument '--steps'"),
    Case("best of nothing", "sft", f"{SMOKE} --keep-best loss", "keep_best is 'loss'"),
    Case("stage by a path", "export", f"{SMOKE} --stage ../sft", "stage is '../sft'"),
    Case("no stage before: export", "export", f"{SMOKE} --out OWN/out", "holds no result.json"),
    Case("batch 0", "sft", f"{SMOKE} --batch 0", "batch is 0"),
    Case("negative seed", "collect", f"{SMOKE} --seed=-1", "seed is -1"),
    Case("batch that groups do not divide", "ppo", f"{SMOKE} --algorithm grpo --batch 12 --group 8", "12"),
    Case("batch that minibatches do not divide", "ppo", f"{SMOKE} --minibatches 7", "7"),
    Case("steps that calls do not divide", "ppo", f"{SMOKE} --updates-per-call 2", "no multiple"),
    Case(
        "rollout that minibatches do not divide",
        "control",
        "--run RUN --training.batch-size 7",
        "batch_size is 7",
    ),
    Case("share of the data above 1", "learning_curve", f"{SMOKE} --shares 2.0", "shares is 2.0"),
    Case("no seeds", "evaluate", f"{SMOKE} --seeds", "seeds"),
    Case(
        "what is asked is unknown",
        "annotate",
        "--policy RUN --kind vote --file OWN/p.jsonl",
        "vote",
        lines(*pairs()),
    ),
    Case(
        "run is a file",
        "pretrain",
        "--preset smoke --run OWN/p.jsonl",
        "a file stands where a folder belongs",
        text("x"),
    ),
    Case(
        "run has too long a name",
        "pretrain",
        f"--preset smoke --run RUN/{'n' * 300}",
        "choose a shorter name",
    ),
    Case(
        "batch above the number of pictures",
        "pretrain",
        f"{SMOKE} --batch 1000",
        "--batch 1000 is more than the 64",
    ),
    Case("mesh without sizes", "sft", f"{SMOKE} --mesh data", "is no AXIS=DEVICES"),
    Case("mesh axis twice", "ppo", f"{SMOKE} --mesh data=2,data=2", "names data twice"),
    Case("mesh that cuts minibatches unevenly", "ppo", f"{SMOKE} --mesh data=64", "parts of --mesh"),
    Case("carrying where nothing is carried", "assistant", f"{SMOKE} --carrying 0.5", "give --level 3"),
    Case("mesh for an assistant", "assistant", f"{SMOKE} --mesh data=2", "leave --mesh out"),
    Case("no stage before: sft", "sft", SMOKE, "run the stage that trains this model first"),
    Case("no stage before: collect", "collect", SMOKE, "first"),
    Case("no stage before: reward", "reward", SMOKE, "first"),
    Case("no stage before: ppo", "ppo", SMOKE, "first"),
    Case("no stage before: dpo", "dpo", SMOKE, "first"),
    Case("no stage before: evaluate", "evaluate", SMOKE, "first"),
    Case("no stage before: learning curve", "learning_curve", SMOKE, "first"),
    Case("no stage before: annotate", "annotate", "--policy RUN", "no policy in seed_0"),
    Case(
        "no judgements to export", "annotate", "--policy RUN --export OWN/out", "there are no judgements yet"
    ),
    Case("file to judge is missing", "annotate", "--file OWN/none.jsonl", "there is no such file"),
    Case("file to judge is empty", "annotate", "--file OWN/p.csv", "p.csv", text("", "p.csv")),
    Case(
        "import is no JSON",
        "annotate",
        "--policy RUN --import-judgements OWN/p.json",
        "not JSON",
        text("{", "p.json"),
    ),
    Case("pictures' run is none", "fusion_benchmark", "--preset smoke --run RUN --pictures-run OWN", "OWN"),
]

# Files of judgements.
FILES = [
    Case("no such file", "reward", REWARD, "there is no such file"),
    Case(
        "file of another kind", "reward", f"{SMOKE} --preferences OWN/p.xlsx", "p.xlsx", text("x", "p.xlsx")
    ),
    Case("empty file", "reward", REWARD, "no line is a JSON object", text("")),
    Case("unknown columns", "reward", REWARD, "say no judgement", lines({"question": "a", "better": "b"})),
    Case(
        "a column is missing",
        "dpo",
        REWARD,
        "say no judgement",
        lines({"prompt": "", "chosen": "b", "images": [in_json("red")]}),
    ),
    Case("file cut in its last line", "reward", REWARD, "cut off in its last line", preferences(cut=20)),
    Case(
        "line that is no JSON",
        "reward",
        REWARD,
        "line 3: not JSON",
        lambda run, own: (own / "p.jsonl").write_text(
            "".join(json.dumps(pair) + "\n" for pair in pairs()) + "{\n"
        ),
    ),
    Case(
        "chosen equals rejected",
        "reward",
        REWARD,
        "columns chosen and rejected are equal",
        lines(*pairs({"chosen": "a dog"})),
    ),
    Case("all pairs are ties", "reward", REWARD, "ties", lines(*pairs(tie=True))),
    Case("thumbs all up", "reward", REWARD, "all labels are the same", thumbs(True, True, True, True)),
    Case("a thumb that is neither", "reward", REWARD, "neither true nor false", thumbs(True, False, 0.5)),
    Case("a rating NaN", "reward", REWARD, "nan is no number from 1 to 5", ratings(1, 5, float("nan"))),
    Case("a rating off its scale", "reward", REWARD, "9 is no number from 1 to 5", ratings(1, 5, 9)),
    Case("ratings all equal", "reward", REWARD, "ratings of accuracy", ratings(3, 3, 3, 3)),
    Case(
        "nothing was clicked",
        "reward",
        f"{REWARD} --loss.clicks.examination none",
        "has a click that counts",
        clicks([False, False], [False, False]),
    ),
    Case("clicks of another length", "reward", REWARD, "one for each answer", clicks([True, False], [True])),
    Case(
        "only one picture", "reward", REWARD, "it needs at least two", lines(*pairs(images=[in_json("red")]))
    ),
    Case(
        "fewer judgements than a batch",
        "reward",
        REWARD,
        "--batch 16 is more than the",
        lines(*pairs({}, {})),
    ),
    Case("text that is none", "reward", REWARD, "column chosen", lines(*pairs({"chosen": 7}))),
    Case(
        "JSON nested without end",
        "reward",
        REWARD,
        "not JSON",
        text("".join(json.dumps(pair) + "\n" for pair in pairs()) + "[" * 100_000 + "\n"),
    ),
    Case(
        "a pickle with the ending parquet",
        "reward",
        f"{SMOKE} --preferences OWN/p.parquet",
        "not a parquet file",
        text(pickle.dumps([1]), "p.parquet"),
    ),
    Case("unknown set", "reward", f"{REWARD} --set coco", "invalid choice 'coco'", lines(*pairs())),
    Case(
        "no folder of pictures",
        "reward",
        f"{REWARD} --set trl --image-root OWN/none",
        "there is no such folder",
        lines(*pairs()),
    ),
    Case("a set without a file", "reward", f"{SMOKE} --set trl", "set is given without preferences"),
    Case(
        "picture outside of the folder",
        "reward",
        REWARD,
        "lies outside of",
        picture_given("../../secret.png"),
    ),
    Case(
        "picture by a path of the machine", "reward", REWARD, "lies outside of", picture_given("/etc/passwd")
    ),
    Case("picture by address", "reward", REWARD, "is a URL", picture_given("https://example.org/x.png")),
    Case("picture is missing", "reward", REWARD, "there is no picture 'x.png'", picture_given("x.png")),
    Case(
        "picture of 10^10 pixels", "reward", REWARD, "too large", picture_bytes(png_header(100_000, 100_000))
    ),
    Case(
        "picture of 8000x8000 pixels",
        "reward",
        REWARD,
        "8000x8000 pixels",
        picture_bytes(png_header(8000, 8000)),
    ),
    Case("picture cut off", "reward", REWARD, "damaged or cut off", picture_bytes(png_header(64, 64))),
    Case(
        "picture is a pickle",
        "reward",
        REWARD,
        "not a readable picture",
        picture_bytes(pickle.dumps({"a": 1})),
    ),
    Case(
        "picture is a page",
        "reward",
        REWARD,
        "this is a web page",
        picture_bytes(b"<!DOCTYPE html><html>404</html>"),
    ),
    Case("picture is empty", "reward", REWARD, "0 bytes", picture_bytes(b"")),
    Case("bytes that are no base64", "reward", REWARD, "not base64", picture_given({"bytes": "!!!"})),
]

# A finished run in which something is wrong. Stages that are done are done again with --steps.
DAMAGE = [
    Case("weights cut off", "sft", f"{SMOKE} --seed 0", "model.safetensors", truncate_weights),
    Case("weights hold NaN", "sft", SMOKE, "holds NaN or infinity", change_tensor(with_nan)),
    Case("a tensor of another shape", "sft", SMOKE, "but the architecture wants", change_tensor(other_shape)),
    Case("a tensor of another precision", "sft", SMOKE, "is float16", change_tensor(other_dtype)),
    Case("weights of another model", "sft", SMOKE, "lacks tensor", change_tensor(renamed)),
    Case("only pickled weights", "sft", SMOKE, "a pickle", only_a_pickle),
    Case("another model's config", "sft", SMOKE, "CLIPConfig: unknown or missing keys", swapped_models),
    Case(
        "config of a model is no JSON",
        "sft",
        SMOKE,
        "config.json",
        stage_file("pretrain/model/clip/config.json", "{"),
    ),
    Case(
        "weights are gone", "reward", SMOKE, "is not there", stage_file("sft/model/model.safetensors", None)
    ),
    Case(
        "tokenizer is gone",
        "sft",
        SMOKE,
        "tokenizer.json",
        stage_file("pretrain/model/clip/tokenizer.json", None),
    ),
    Case(
        "tokenizer is damaged",
        "sft",
        SMOKE,
        "tokenizer.json",
        stage_file("pretrain/model/clip/tokenizer.json", '{"model": {"type": "BPE"}}'),
    ),
    Case(
        "preferences of collect are damaged",
        "dpo",
        SMOKE,
        "not a parquet file",
        stage_file("collect/preferences.parquet", b"PAR1"),
    ),
    Case("run of another config", "collect", f"{SMOKE} --pairs-per-picture 3", "pairs_per_picture: 2 -> 3"),
    Case("unfinished, without --resume", "collect", SMOKE, "add --resume to go on", unfinished("collect")),
    Case("another process is at work there", "collect", SMOKE, "is in use by process", held_by_another),
    Case("lock that names nobody", "collect", SMOKE, "names no owner", stage_file("collect/lock.json", "")),
    Case(
        "stage's config is no YAML",
        "collect",
        SMOKE,
        "delete the folder to start anew",
        stage_file("collect/config.yaml", "{"),
    ),
    Case(
        "stage's config is a list",
        "collect",
        SMOKE,
        "is not a config",
        stage_file("collect/config.yaml", "[]"),
    ),
    Case(
        "stage's result is cut off",
        "collect",
        SMOKE,
        "result.json",
        stage_file("collect/result.json", '{"loss": '),
    ),
    Case(
        "stage's usage is damaged",
        "collect",
        f"{SMOKE} --resume",
        "usage.json",
        unfinished("collect", stage_file("collect/usage.json", "{")),
    ),
    Case(
        "stage's versions are damaged",
        "collect",
        f"{SMOKE} --resume",
        "versions.json",
        unfinished("collect", stage_file("collect/versions.json", "{")),
    ),
    Case(
        "metrics are damaged",
        "sft",
        f"{SMOKE} --resume",
        "line 1 is not JSON",
        unfinished("sft", stage_file("sft/metrics.jsonl", "{\n{}\n")),
    ),
    Case(
        "every checkpoint is damaged",
        "sft",
        f"{SMOKE} --resume",
        "every checkpoint in",
        unfinished("sft", damage_checkpoints),
    ),
    Case("no policy of that kind", "evaluate", f"{SMOKE} --policy grpo", "first"),
    Case(
        "export over a folder",
        "export",
        f"{SMOKE} --part clip --out RUN/seed_0/pretrain/model",
        "is there already",
    ),
    Case("no such seed", "evaluate", f"{SMOKE} --seeds 0 1", "first"),
    Case(
        "scorer that is not there",
        "ppo",
        f"{SMOKE} --weights.text 1 --terms.text-scorer nowhere:f",
        "'nowhere:f' is no scorer",
    ),
    Case("backbone that is not there", "reward", f"{SMOKE} --backbone OWN/none", "OWN/none"),
    Case(
        "rounds with a batch above the pairs",
        "dpo",
        f"{SMOKE} --batch 100000",
        "--batch 100000 is more than the",
    ),
]

CASES = [
    *CONFIG,
    *(case._replace(whole=True) for case in FILES),
    *(case._replace(whole=True) for case in DAMAGE),
]


def row(case: Case, error: str) -> str:
    """A row of the page's table."""
    flags = case.flags.replace("n" * 300, "nnn...").replace(" --run RUN", "")
    return f"| {case.what} | `{case.command} {flags}` | {error.replace('|', chr(92) + '|')} |"


def page(rows: list[str]) -> str:
    """docs/errors.md."""
    return (
        "# Errors\n\n"
        "What a user can cause is told in one or two lines, without a traceback: what is wrong, where, and\n"
        "how to mend it. The exit status is 2, and nothing is written, changed or lost. RUN is the run's\n"
        "folder, OWN one with files of the user's; `(...)` stands for what a library says.\n"
        "`python -m tests.faults.bad_input runs/smoke` writes this page, and a test compares it\n"
        "with what the commands say.\n\n"
        "| What is wrong | Command | Error |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def main(finished: Path) -> None:
    """Writes the page."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as temporary:
            outcome, _ = give(case, Path(temporary), finished if case.whole else None)
            rows.append(row(case, as_told(outcome.error, Path(temporary))))
            print(f"{outcome.status}: {rows[-1]}")
    write_text(PAGE, page(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
