"""config.json: what a folder says of the network in it."""

import json
from pathlib import Path
from typing import Any

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text

CONFIG = "config.json"


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
