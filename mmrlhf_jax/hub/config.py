"""config.json and the files beside it that say how text becomes tokens."""

import json
import shutil
from pathlib import Path
from typing import Any

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text

CONFIG = "config.json"

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_TOKEN_FILES = (
    "generation_config.json",
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


def special_tokens(folder: str | Path) -> dict[str, Any]:
    """The ids of begin, end and padding in `folder`'s config.json. Raises UserError as `read_config`."""
    return {name: value for name, value in read_config(folder).items() if name in _TOKEN_IDS}


def copy_tokenizer(source: str | Path, target: str | Path) -> None:
    """Copies the tokenizer, its chat template and the settings for generation from one folder to another."""
    if Path(source).resolve() != Path(target).resolve():
        for file in filter(Path.exists, (Path(source) / name for name in _TOKEN_FILES)):
            shutil.copyfile(file, Path(target) / file.name)
