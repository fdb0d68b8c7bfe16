"""The command line of an experiment: presets, flags for every field, and errors in one line."""

import contextlib
import dataclasses
import errno
import io
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.processes import ToldError, count, join
from mmrlhf_jax.runtime.platform import prepare_jax

Config = TypeVar("Config")

USER_ERROR = 2  # exit status for anything that the user can mend
KEYBOARD_INTERRUPT = 130  # exit status of a program stopped by Ctrl-C

# What a user can mend of that which the system refuses; any other OSError is a bug and keeps its traceback.
_REMEDIES = {
    errno.ENOSPC: "make room, or choose a --run on another disk; what is saved stays, and --resume goes on",
    errno.EDQUOT: "make room, or choose a --run on another disk; what is saved stays, and --resume goes on",
    errno.EACCES: "give yourself the right to it, or choose another folder",
    errno.EPERM: "give yourself the right to it, or choose another folder",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands where a folder belongs; choose another folder",
    errno.EEXIST: "a file stands where a folder belongs; choose another folder",
    errno.EISDIR: "a folder stands where a file belongs; choose another name",
}

# one flag for each switch, and no subcommands for fields that may hold one of several configs
_MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands, tyro.conf.OmitSubcommandPrefixes)


def run_cli(
    main: Callable[[Config], Any],
    presets: Mapping[str, Config],
    *,
    description: str | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parse the command line into a config, prepare JAX, and run `main(config)`.

    `presets` maps names to instances of one frozen dataclass with a field `preset: str`; the first is the
    default and `--preset NAME`, anywhere in `argv` (default `sys.argv[1:]`), chooses another. Flags change
    single fields: `--optimizer.learning-rate 1e-3`. `main` imports its heavy modules itself, so that `--help`
    does not load JAX.

    Raises `SystemExit`: status 2 with `error: message` on stderr for a `UserError` and where the system
    refuses a file (no space, no permission, a file where a folder belongs), 130 for Ctrl-C.
    """
    try:
        config = parse_config(presets, description=description, argv=argv)
        prepare_jax()
        join()
        if count() > 1 and not getattr(config, "mesh", ""):
            raise UserError(
                f"{count()} processes would all do the same: give a --mesh over the devices of all, where "
                "the experiment takes one, or start a single process"
            )
        main(config)
    except ToldError:
        raise SystemExit(USER_ERROR) from None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}: {_REMEDIES[error.errno]}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(KEYBOARD_INTERRUPT) from None


def parse_config(
    presets: Mapping[str, Config], *, description: str | None = None, argv: Sequence[str] | None = None
) -> Config:
    """The config that `argv` describes, starting from its preset; see `run_cli`.

    Raises `UserError` for an unknown preset or flag, and for a value that the config or its type refuses;
    `SystemExit` after `--help`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    name = _preset_name(args) or next(iter(presets))
    if name not in presets:
        raise UserError(f"no preset {name!r}: choose one of {', '.join(presets)}")
    default = dataclasses.replace(presets[name], preset=name)  # type: ignore[type-var]
    help_text = f"{(description or type(default).__doc__ or '').strip()}\n\nPresets: {', '.join(presets)}"

    def parse(console_outputs: bool) -> Config:
        return tyro.cli(
            type(default),
            default=default,
            args=args,
            description=help_text,
            config=_MARKERS,
            console_outputs=console_outputs,
        )

    # tyro turns a ValueError of a nested config into a box of its own and exits. A first, silent parse
    # lets the config's own sentence through; anything else is what tyro's box says in a second one.
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse(console_outputs=False)
    except SystemExit as stop:
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return parse(console_outputs=True)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(f"{_first_section(box.getvalue())}; --help lists all flags") from None


def _first_section(box: str) -> str:
    """What tyro's box says down to its first rule, as a line; its title is on the frame, or above a rule."""
    lines = [line.strip("│| ") for line in box.splitlines() if not line.startswith(("╭", "╰", "+"))]
    framed = len(lines) < len(box.splitlines())
    sections = itertools.groupby(lines, lambda line: bool(line) and not line.strip("─-"))
    told = [" ".join(filter(None, section)) for is_rule, section in sections if not is_rule]
    return (told if framed else told[1:])[0].rstrip(".")


def _preset_name(args: Sequence[str]) -> str | None:
    """The value of the last `--preset NAME` or `--preset=NAME`, None where there is none."""
    name = None
    for arg, following in zip(args, [*args[1:], None], strict=False):
        if arg == "--preset":
            name = following
        elif arg.startswith("--preset="):
            name = arg.removeprefix("--preset=")
    return name
