"""What keeps the repository clean: machines' paths, unfinished code, outsized files, licences, version."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import mmrlhf_jax

ROOT = Path(__file__).resolve().parents[1]
CODE = {".py", ".sh", ".toml", ".yaml", ".yml", ".in", ".html", ".js", ".css"}
MAX_LINES = 400

# With [brackets], so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|NotImplemented[E]rror)\b")
MACHINE_PATH = re.compile(r"(?<![\w.}])/(?:ro[o]t|ho[m]e/\w+|Us[e]rs/\w+|tm[p]|wo[r]k)(?:/|\b)")


def repository_files() -> list[Path]:
    """The files that git tracks, or would if they were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout, so which files belong to the repository is not known")
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in listing.split("\0") if name)
    return [path for path in paths if path.is_file()]


def text_of(path: Path) -> str | None:
    """The text of a file, None for a binary one."""
    data = path.read_bytes()
    return None if b"\0" in data[:8192] else data.decode("utf-8")


def is_code(path: Path) -> bool:
    return path.suffix in CODE or path.relative_to(ROOT).as_posix() == ".ci/run"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The code of the repository by path."""
    found = {path.relative_to(ROOT).as_posix(): text_of(path) for path in repository_files() if is_code(path)}
    return {name: text for name, text in found.items() if text is not None}


def hits(texts: dict[str, str], pattern: re.Pattern) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_patterns_find_what_they_are_for():
    for line in ("x = 1  # TO-DO later", "raise NotImplemented-Error"):
        assert UNFINISHED.search(line.replace("-", ""))
    assert not UNFINISHED.search("todo list, NotImplemented")
    for line in ("open('/-tmp/x')", "cd /-root", "/-home/ann/data"):
        assert MACHINE_PATH.search(line.replace("-", ""))
    for line in ("runs/tmp/x", "a / root", "$HOME/.cache", "https://x.org/home/page", "{folder}/work/x"):
        assert not MACHINE_PATH.search(line), line


def test_nothing_is_unfinished(texts: dict[str, str]):
    assert not hits(texts, UNFINISHED)


def test_no_paths_of_a_machine(texts: dict[str, str]):
    assert not hits(texts, MACHINE_PATH)


def test_files_of_the_package_are_short(texts: dict[str, str]):
    long = {
        name: text.count("\n")
        for name, text in texts.items()
        if name.startswith("mmrlhf_jax/") and name.endswith(".py") and text.count("\n") > MAX_LINES
    }
    assert not long, f"split these: {long}"


def test_shell_files_have_unix_line_ends(texts: dict[str, str]):
    assert not [name for name, text in texts.items() if "\r" in text]


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_licences_are_shipped():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    emoji = [path.read_text(encoding="utf-8") for path in (ROOT / "mmrlhf_jax/data/emoji").glob("LICENSE*")]
    assert any("SIL OPEN FONT LICENSE" in text.upper() for text in emoji), (
        "the emoji pictures' licence is missing"
    )


def test_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == mmrlhf_jax.__version__
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
