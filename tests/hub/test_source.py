"""Folders and repositories, with a hub that is not the real one."""

import fnmatch
import sys
import types
from pathlib import Path

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.source import resolve, resolve_dataset

REPOSITORY = [
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "merges.txt",
    "chat_template.jinja",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "modeling_custom.py",
    "onnx/config.json",
    "original/consolidated.00.pth",
]
DATA = ["data/train-00000-of-00001.parquet", "train.json", "README.md", "images.zip", "script.py"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A hub of one repository that notes what it is asked for, and filters names as the real one does."""
    module = types.ModuleType("huggingface_hub")
    module.calls = []

    def snapshot_download(name, *, revision, allow_patterns, ignore_patterns, repo_type="model"):
        module.calls.append((name, revision) if repo_type == "model" else (name, revision, repo_type))
        if name != "org/model":
            raise OSError(f"404 Client Error: no {name}\nRequest ID: 7\nMany more lines")

        def chosen(file: str) -> bool:
            allowed, ignored = (
                any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
                for patterns in (allow_patterns, ignore_patterns)
            )
            return allowed and not ignored

        for file in filter(chosen, REPOSITORY if repo_type == "model" else DATA):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("x")
        return str(tmp_path)

    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_folder_or_file_that_is_there_is_taken(hub, tmp_path: Path):
    assert resolve(tmp_path) == tmp_path
    (tmp_path / "model.gguf").touch()
    assert resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    assert hub.calls == []


def test_a_repository_gives_weights_and_texts_but_no_code(hub, tmp_path: Path):
    assert resolve("org/model", revision="v2") == tmp_path
    assert hub.calls == [("org/model", "v2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(REPOSITORY[:8])


def test_a_data_set_gives_its_tables_but_no_code(hub, tmp_path: Path):
    assert resolve_dataset("org/model") == tmp_path
    assert hub.calls == [("org/model", None, "dataset")]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files) == DATA[:2]


def test_what_the_hub_does_not_give_is_told_in_one_line(hub):
    with pytest.raises(UserError, match=r"org/other.*404 Client Error") as error:
        resolve("org/other")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["runs/model/final", "model", "../org/model", "org/", "/none/such"])
def test_what_is_neither_asks_no_hub(hub, name):
    with pytest.raises(UserError, match="not there"):
        resolve(name)
    assert hub.calls == []


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"mmrlhf-jax\[hub\]"):
        resolve("org/model")
