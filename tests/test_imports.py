"""The order of the package: who may import whom, who may write files, and what stays free of jax."""

import ast
import graphlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mmrlhf_jax"
EXPERIMENTS = sorted((ROOT / "experiments").glob("[!_]*.py"))

# A package imports only from lower ranks; packages of one rank do not import each other. A module that lies
# directly in mmrlhf_jax/ may stand here like a package; the others are rank 0 and may import each other.
RANKS = {
    "sb3": 6,
    "training": 5,
    "reward": 4,
    "pretrained": 4,
    "policy": 3,
    "encoders": 2,
    "language": 2,
    "feedback": 2,
    "fusion": 1,
    "rl": 1,
    "envs": 1,
    "data": 1,
    "hub": 1,
    "evaluate": 1,
    "runtime": 1,
}
WRITERS = ("data", "evaluate", "hub", "runtime")
STORE = f"{PACKAGE}.feedback.store"  # of feedback, the store alone writes its database
FILES = f"{PACKAGE}.files"  # the one writer that they share


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def imports(nodes: Iterator[ast.AST], module: str, path: Path) -> Iterator[str]:
    """The dotted names that `nodes` import, relative ones resolved: of modules, or of names in them."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported(module: str) -> set[str]:
    """The names that a module of the package imports anywhere, inside functions too."""
    path = MODULES[module]
    return set(imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), module, path))


def resolve(name: str) -> str | None:
    """The longest prefix of `name` that is a module of the package."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def home(module: str) -> str:
    """The package that `module` lies in, itself if it has a rank, "" for the others in mmrlhf_jax/."""
    parts = module.split(".")[1:]
    inside_folder = len(parts) > 1 or (parts and MODULES[module].name == "__init__.py")
    return parts[0] if inside_folder or (parts and parts[0] in RANKS) else ""


def test_relative_imports_are_resolved():
    tree = ast.parse("from . import a\nfrom .b import c\nfrom ..d.e import f\nimport g.h")
    names = set(imports(ast.walk(tree), "p.q.r", Path("p/q/r.py")))
    assert names == {"p.q.a", "p.q.b.c", "p.d.e.f", "g.h"}
    assert set(imports(ast.walk(tree), "p.q", Path("p/q/__init__.py"))) >= {"p.q.a", "p.q.b.c", "p.d.e.f"}


def test_every_package_has_a_rank():
    unknown = {home(module) for module in MODULES} - {""} - set(RANKS)
    assert not unknown, f"give {sorted(unknown)} a rank in RANKS above"


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_lower_ranks(module: str):
    def rank(package: str) -> int:
        return RANKS.get(package, 0)

    here = home(module)
    for name in imported(module):
        target = resolve(name)
        if target is None or target == PACKAGE:
            continue
        there = home(target)
        assert there == here or rank(there) < rank(here), (
            f"{module} (rank {rank(here)}) imports {target} (rank {rank(there)}), no lower rank"
        )


def test_no_import_cycles():
    graph = {}
    for module, path in MODULES.items():
        body = ast.parse(path.read_text(encoding="utf-8")).body  # imports inside functions make no cycle
        graph[module] = {resolve(name) for name in imports(iter(body), module, path)} - {None, module}
    graphlib.TopologicalSorter(graph).prepare()


def test_experiments_are_there():
    assert {"pipeline", "pretrain", "sft", "collect", "reward", "ppo", "evaluate"} <= {
        p.stem for p in EXPERIMENTS
    }


def test_experiments_do_not_import_each_other():
    stems = {path.stem for path in EXPERIMENTS}
    for path in EXPERIMENTS:
        if path.stem == "pipeline":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imports(ast.walk(tree), f"experiments.{path.stem}", path):
            parts = name.removeprefix("experiments.").split(".")
            assert parts[0] not in stems, f"{path.name} imports the experiment {parts[0]}"


def writes(node: ast.AST) -> bool:
    """Whether `node` is a call that opens a file, or a database, for writing."""
    if not isinstance(node, ast.Call):
        return False
    if ast.unparse(node.func) == "sqlite3.connect":
        return True
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name != "open":
        return isinstance(node.func, ast.Attribute) and name in ("write_text", "write_bytes")
    position = 0 if isinstance(node.func, ast.Attribute) else 1  # path.open(mode), open(path, mode)
    modes = [*node.args[position : position + 1], *(k.value for k in node.keywords if k.arg == "mode")]
    letters = [set(m.value) for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)]
    return any(
        mode <= set("rwaxbt+") and len(mode & set("rwax")) == 1 and mode & set("wax+") for mode in letters
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(p)", False),
        ("open(p, 'rb')", False),
        ("open(p, 'a', encoding='utf-8')", True),
        ("p.open('wb')", True),
        ("p.open('rb')", False),
        ("open(p, mode='r+')", True),
        ("p.write_text(s)", True),
        ("Image.open('wax')", False),
        ("sqlite3.connect(p)", True),
    ],
)
def test_writes_tells_writing_from_reading(code: str, expected: bool):
    # 'wax' has the letters of a mode, but they exclude each other
    node = ast.parse(code, mode="eval").body
    assert bool(writes(node)) is expected


def test_only_the_writers_write_files():
    for module, path in MODULES.items():
        if module in (FILES, STORE) or home(module) in WRITERS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not writes(node), (
                f"{module}, line {getattr(node, 'lineno', 0)}, writes a file: leave that to {WRITERS}"
            )


def test_third_party_imports_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for lines in groups for line in lines}
    distributions = importlib.metadata.packages_distributions()
    for module in MODULES:
        for name in imported(module):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top == PACKAGE:
                continue
            candidates = {d.lower().replace("_", "-") for d in distributions.get(top, [top])}
            assert candidates & declared, f"{module} imports {top}, which pyproject.toml does not name"


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.config", f"{PACKAGE}.architecture"])
def test_import_leaves_jax_out(module: str, user_environment: dict[str, str]):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=user_environment, check=True, timeout=120)


HELP = """
import runpy, sys
path = sys.argv[1]
sys.argv = [path, "--help"]
sys.path[0] = path.rpartition("/")[0]
try:
    runpy.run_path(path, run_name="__main__")
except SystemExit as end:
    assert not end.code, f"--help ended with {end.code}"
else:
    raise AssertionError("--help did not end the program")
assert "jax" not in sys.modules, "--help imports jax: import it after parsing"
"""


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_help_leaves_jax_out(path: Path, user_environment: dict[str, str]):
    command = [sys.executable, "-c", HELP, path.as_posix()]
    done = subprocess.run(command, env=user_environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--preset" in done.stdout or "--run" in done.stdout, done.stdout[-2000:]
