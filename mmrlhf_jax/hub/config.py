"""config.json, and the files beside it that say how text and pictures are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text

ConfigT = TypeVar("ConfigT")

CONFIG = "config.json"

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_COMPANIONS = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The object in `folder`'s config.json.

    Raises:
      UserError: the file is missing, is not JSON, or holds something else than an object.
    """
    file = Path(folder) / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file} is not there: give the folder of a saved or downloaded model") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): restore it or download the model again") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} holds {str(values)[:40]!r} where an object belongs: restore it")
    return values


def write_config(folder: str | Path, values: dict[str, Any]) -> None:
    """Replaces `folder`'s config.json; the folder is made when it is not there."""
    write_text(Path(folder) / CONFIG, json.dumps(values, indent=2) + "\n")


def read_architecture(folder: str | Path, config_from_hf: Callable[[dict[str, Any]], ConfigT]) -> ConfigT:
    """What `config_from_hf` makes of `folder`'s config.json; its complaints then name the file."""
    values = read_config(folder)
    try:
        return config_from_hf(values)
    except UserError as error:
        raise UserError(f"{Path(folder) / CONFIG}: {error}") from None


def with_special_tokens(values: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """`values`, a config.json, with the ids of begin, end and padding that `folder`'s has besides.

    Raises:
      UserError: as `read_config`.
    """
    theirs = read_config(folder)
    kept = {name: value for name, value in theirs.items() if name in _TOKEN_IDS}
    text = theirs.get("text_config")
    if "text_config" in values and isinstance(text, dict):
        inner = {name: value for name, value in text.items() if name in _TOKEN_IDS}
        values = {**values, "text_config": inner | values["text_config"]}
    return kept | values


def copy_companions(source: str | Path, target: str | Path) -> None:
    """Copies the files beside the weights: tokenizer, processor, chat template, settings for generation."""
    if Path(source).resolve() != Path(target).resolve():
        for file in filter(Path.exists, (Path(source) / name for name in _COMPANIONS)):
            shutil.copyfile(file, Path(target) / file.name)
