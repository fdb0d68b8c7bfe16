"""A peer in a process and an environment of its own, that works one piece at a time when it is asked to.

So this package is measured with the newest Python and jax, and each peer with what it has wheels for. The two
sides talk in lines over the peer's standard streams: it says "ready" and its versions, then "done" again and
again; it is told "go".
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent


class Peer:
    """`python script arguments`, started and warm; a call has it do one piece of work, to the end.

    Attributes:
      versions: of Python and of what the peer is made of.
    """

    def __init__(self, python: Path, script: str, arguments: Sequence[str]) -> None:
        self._command = [str(python), str(HERE / script), *arguments]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = json.loads(self._expect("ready"))

    def __call__(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._expect("done")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()  # which closes its streams

    def _expect(self, word: str) -> str:
        """What stands behind that word."""
        assert self._process.stdout is not None
        said, _, rest = self._process.stdout.readline().strip().partition(" ")
        if said != word:
            self._process.kill()
            raise RuntimeError(f"the peer ended, see what it printed above: {' '.join(self._command)}")
        return rest


def taking_turns(*packages: str) -> Callable[[], None]:
    """For the peer's side: a function that says that a piece of work is done, and returns for the next one.

    Args:
      packages: what the peer is made of.

    Whatever the process prints from now on goes to its standard error. Nobody asking any more ends it.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    made_of = {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
    word = f"ready {json.dumps(made_of)}"

    def turn() -> None:
        nonlocal word
        out.write(f"{word}\n")
        out.flush()
        word = "done"
        if sys.stdin.readline() != "go\n":
            os._exit(0)

    return turn
