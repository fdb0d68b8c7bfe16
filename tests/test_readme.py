"""What README.md, CONTRIBUTING.md and the pages under docs/ tell people to type works.

Every ```python block runs, in a namespace and a temporary folder of its own. Every command of a ```bash
block is checked: files that it names exist, options that it gives are accepted. A comment on the line
above a block says what the test needs; CONTRIBUTING.md explains it:

    <!-- test: needs=smoke-run mark=slow swap="steps=1000 => steps=2" -->
    <!-- test: skip="needs a cluster" -->
"""

import dataclasses
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.checkpoints import put_checkpoints
from tests.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/rewards.md",
    "docs/rl.md",
    "docs/chatbot.md",
    "docs/assistant.md",
    "docs/data.md",
    "docs/scale.md",
)

NEEDS = ("smoke-run", "checkpoints", "pictures")

# Commands that are not tried: they change the machine, need a person, or end only when told to.
UNTRIED = {
    "cd",
    "cp",
    "export",
    "git",
    "ls",
    "mkdir",
    "open",
    "pre-commit",
    "source",
    "tensorboard",
    "xdg-open",
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what the comment above it says."""

    page: str
    line: int  # of its first line of code
    language: str
    code: str
    needs: str = ""
    mark: str = ""
    skip: str = ""
    swap: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        return f"{self.page}:{self.line}"

    def swapped(self) -> str:
        """The code at the size that the test runs it."""
        code = self.code
        for old, new in self.swap:
            assert old in code, f"{self.title}: the test comment swaps {old!r}, which is not in the block"
            code = code.replace(old, new)
        return code


SMOKE = Block("", 0, "bash", "", needs="smoke-run")  # what an experiment's command finds by default


def parse_options(text: str) -> dict:
    """`needs=smoke-run swap="a => b"` as keyword arguments of Block."""
    options: dict = {}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if name == "swap":
            old, arrow, new = value.partition(" => ")
            assert arrow, f"{word!r}: write it as swap='OLD => NEW'"
            options["swap"] = (*options.get("swap", ()), (old, new))
        else:
            assert name in ("needs", "mark", "skip") and value, f"{word!r} is no option of a test comment"
            options[name] = value
    assert options.get("needs", "smoke-run") in NEEDS, f"{text!r}: needs what?"
    assert options.get("mark", "medium") in ("medium", "slow"), f"{text!r}: mark is medium or slow"
    return options


def parse_blocks(text: str, page: str) -> list[Block]:
    """The ```python and ```bash blocks of a Markdown page."""
    pattern = (
        r"(?:^<!-- test: (?P<options>.+?) -->\n)?"
        r"^```(?P<language>python|bash)\n(?P<code>.*?)^```$"
    )
    return [
        Block(
            page,
            text.count("\n", 0, match.start("code")) + 1,
            match["language"],
            match["code"],
            **parse_options(match["options"] or ""),
        )
        for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    ]


def commands(code: str) -> list[list[str]]:
    """The commands of a bash block as words: without comments, joined over backslashes, split at &&."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        while "&&" in words:
            cut = words.index("&&")
            found.append(words[:cut])
            words = words[cut + 1 :]
        if words:
            found.append(words)
    return found


BLOCKS = [
    block
    for page in PAGES
    if (ROOT / page).is_file()
    for block in parse_blocks((ROOT / page).read_text(encoding="utf-8"), page)
]


def marks(block: Block) -> list:
    found = [pytest.mark.skip(reason=block.skip)] if block.skip else []
    if block.mark or block.needs == "smoke-run":
        found.append(getattr(pytest.mark, block.mark or "medium"))
    return found


def is_experiment(words: list[str]) -> bool:
    return words[0] in ("python", "python3") and len(words) > 1 and words[1].startswith("experiments/")


PYTHON = [pytest.param(b, id=b.title, marks=marks(b)) for b in BLOCKS if b.language == "python"]
COMMANDS = [
    (block, words, f"{block.title}-{words[0]}-{i}")
    for block in BLOCKS
    if block.language == "bash"
    for i, words in enumerate(commands(block.swapped()))
]
EXPERIMENTS = [
    pytest.param(block, words, id=name, marks=[*marks(block), pytest.mark.medium])
    for block, words, name in COMMANDS
    if is_experiment(words)
]
OTHERS = [
    pytest.param(words, id=name, marks=marks(block))
    for block, words, name in COMMANDS
    if not is_experiment(words)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copy_smoke_run(request: pytest.FixtureRequest, folder: Path) -> None:
    """Puts the smoke run where people have theirs: as runs/smoke and runs/quickstart in `folder`."""
    for name in ("smoke", "quickstart"):
        shutil.copytree(request.getfixturevalue("smoke_run"), folder / "runs" / name)


def put_needed(block: Block, request: pytest.FixtureRequest, folder: Path) -> None:
    """Puts into `folder` what the block needs."""
    if block.needs == "smoke-run":
        copy_smoke_run(request, folder)
    elif block.needs == "checkpoints":
        put_checkpoints(folder)
    elif block.needs == "pictures":
        write_shapes(folder / "my-pictures", 130)


def test_pages_are_there():
    for page in PAGES:
        assert (ROOT / page).is_file(), f"{page} is missing"
    assert {block.language for block in BLOCKS if block.page == "README.md"} == {"bash", "python"}


@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(block: Block, folder: Path, request, user_environment: dict[str, str]):
    put_needed(block, request, folder)
    # A process of its own, because a reader's has neither strict promotion nor eight devices.
    done = subprocess.run(
        [sys.executable, "-"],
        input=block.swapped(),
        env=user_environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{block.title} failed:\n{done.stderr[-3000:]}"


def help_of(script: Path, environment: dict[str, str]) -> str:
    """What `script --help` prints."""
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{script.name} --help failed:\n{done.stderr[-2000:]}"
    return done.stdout


def options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def at_smoke_size(arguments: list[str], offered: str) -> list[str]:
    """The arguments with the smallest preset, and as a dry run where the script offers one."""
    arguments = list(arguments)
    if "--preset" in arguments:
        arguments[arguments.index("--preset") + 1] = "smoke"
    elif "--preset" in offered:
        arguments += ["--preset", "smoke"]
    if "--dry-run" in offered and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    return arguments


@pytest.mark.parametrize(("block", "words"), EXPERIMENTS)
def test_experiment_accepts_its_command(
    block: Block, words: list[str], folder: Path, request, user_environment: dict[str, str]
):
    script = ROOT / words[1]
    assert script.is_file(), f"{words[1]} is not there"
    arguments = at_smoke_size(words[2:], help_of(script, user_environment))
    put_needed(block if block.needs else SMOKE, request, folder)
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=user_environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{words[1]} {shlex.join(arguments)} failed:\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("words", OTHERS)
def test_command_names_what_exists(words: list[str], user_environment: dict[str, str]):
    program, *arguments = words
    script = next((word for word in arguments[:1] if (ROOT / word).is_file()), None)
    if program in UNTRIED:
        return
    if program in ("bash", "sh", "sbatch"):
        assert script, f"{shlex.join(words)}: {arguments[:1]} is not there"
        if script == "scripts/quickstart.sh":
            offered = help_of(ROOT / "experiments/pipeline.py", user_environment)
            assert set(options(arguments)) <= set(re.findall(r"--[\w.-]+", offered)), shlex.join(words)
    elif program in ("python", "python3") and arguments[:1] == ["-m"]:
        assert importlib.util.find_spec(arguments[1]), f"no module {arguments[1]}"
    elif program in ("python", "python3"):
        assert script, f"{shlex.join(words)}: {arguments[:1]} is not there"
        offered = help_of(ROOT / script, user_environment)
        assert set(options(arguments)) <= set(re.findall(r"--[\w.-]+", offered)), shlex.join(words)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extras in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
            unknown = set(extras.split(",")) - set(project["optional-dependencies"])
            assert not unknown, f"{shlex.join(words)}: pyproject.toml has no extra {unknown}"
    else:
        assert importlib.util.find_spec(program) or (ROOT / program).is_file(), (
            f"{program} is no command that this test knows: add it to UNTRIED, or skip the block"
        )


SAMPLE = """
text
```python
1 + 1
```
<!-- test: needs=smoke-run mark=slow swap="steps=500 => steps=2" -->
```python
train(steps=500)
```
```text
not code
```
<!-- test: skip="needs a cluster" -->
```bash
# a comment
$ XLA_FLAGS=--x python experiments/ppo.py \\
    --name 'two words'  # why
cd runs && ls
```
"""


def test_blocks_and_their_comments_are_found():
    plain, long, shell = parse_blocks(SAMPLE, "page")
    assert (plain.code, plain.line, plain.needs, plain.mark) == ("1 + 1\n", 4, "", "")
    assert (long.needs, long.mark, long.swapped()) == ("smoke-run", "slow", "train(steps=2)\n")
    assert (shell.language, shell.skip) == ("bash", "needs a cluster")
    assert commands(shell.code) == [
        ["python", "experiments/ppo.py", "--name", "two words"],
        ["cd", "runs"],
        ["ls"],
    ]


def test_stale_and_unknown_comments_are_refused():
    with pytest.raises(AssertionError, match="not in the block"):
        Block("page", 1, "python", "steps = 3\n", swap=(("steps = 4", "steps = 1"),)).swapped()
    for text in ("needs=gpu", "mark=fast", "skip", "swap=a", "size=2"):
        with pytest.raises(AssertionError):
            parse_options(text)


def test_commands_are_made_small():
    assert at_smoke_size(["--preset", "full"], "--preset --dry-run") == ["--preset", "smoke", "--dry-run"]
    assert at_smoke_size(["--dry-run"], "--preset --dry-run") == ["--dry-run", "--preset", "smoke"]
    assert at_smoke_size(["--rate", "1"], "--rate") == ["--rate", "1"]
