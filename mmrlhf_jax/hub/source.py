"""Where the files of a model or a data set are: in a folder, or in a repository of the Hugging Face hub."""

import re
from pathlib import Path
from typing import Any

from mmrlhf_jax.errors import UserError

# Weights without pickles, and what describes them. Nothing that is code.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
# Subfolders hold other forms of the same weights, and so do Mistral's consolidated files.
_UNWANTED = ["*/*", "consolidated*"]
# Tables of records. Archives of pictures are left to the user, who knows where there is room for them.
_TABLES = ["*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv"]


def resolve(path_or_repo: str | Path, *, revision: str | None = None) -> Path:
    """The local folder or file of a model; a repository "org/name" is downloaded into the hub's cache.

    Args:
      revision: branch, tag or commit of a repository.

    Raises:
      UserError: there is no such folder or repository, it cannot be reached, or huggingface_hub is missing.
    """
    return _find(path_or_repo, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)


def resolve_dataset(path_or_repo: str | Path, *, revision: str | None = None) -> Path:
    """The local folder or file of a data set; of a repository "org/name" all tables are downloaded into the
    hub's cache. Arguments and errors are those of `resolve`."""
    return _find(
        path_or_repo, revision=revision, repo_type="dataset", allow_patterns=_TABLES, ignore_patterns=[]
    )


def _find(path_or_repo: str | Path, **options: Any) -> Path:
    path = Path(path_or_repo)
    if path.exists():
        return path
    name = str(path_or_repo)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"{name} is not there, and no name of a repository on the hub (org/name) either")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{name} is not there; to fetch it from the hub, install mmrlhf-jax[hub] (huggingface_hub)"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(name, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name} is no folder here, and the hub does not give it: {reason} "
            "Check the name, the connection and, for a gated repository, `hf auth login`"
        ) from None
    return Path(folder)
