"""What every command shares: arguments, exit status and signal handling."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from distill.config import Config, load_config
from distill.errors import UserError
from distill.runtime.ranks import Ranks
from distill.teacher_cache.manifest import CacheError
from restormer.weight_files import WeightsError
from unet.weights import UNetWeightsError

# Errors the user can mend: our own, those of the two networks (which do not import `distill`), and the system's file errors.
# Any other error is a bug, and keeps its traceback.
USER_ERRORS = (UserError, WeightsError, UNetWeightsError, FileNotFoundError, PermissionError)
USER_ERROR_STATUS = 2
# SIGHUP comes when the terminal closes, unless `nohup` has it ignored. Windows does not have it.
HANG_UP = getattr(signal, "SIGHUP", None)
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([HANG_UP] if HANG_UP is not None else []))


class Interrupted(BaseException):
    """A signal asked the program to end. Not a subclass of Exception, so that no error handler catches it."""

    def __init__(self, signum: int, between_steps: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        # The training state is whole, and may be saved, only between steps.
        self.between_steps = between_steps


class SignalGate:
    """Turns SIGNALS into Interrupted. Outside `with gate:` a signal raises it at once. Inside the block a signal is
    held until `check` raises it.

    If a signal is held already, a SIGINT raises at once: the user can leave a step that hangs, without saving. A second SIGTERM
    stays held like the first, because a scheduler and the launcher that it started (such as torchrun) each send one.
    """

    def __init__(self) -> None:
        self._held = False
        self._pending: int | None = None

    def install(self) -> None:
        for signum in SIGNALS:
            if signum != HANG_UP or signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if not self._held or (self._pending is not None and signum == signal.SIGINT):
            raise Interrupted(signum)
        self._pending = self._pending or signum

    def __enter__(self) -> SignalGate:
        self._held = True
        return self

    def __exit__(self, *_: object) -> None:
        self._held = False

    def check(self, all_reduce_max: Callable[[int | None], int | None] = lambda signum: signum) -> None:
        """Raises Interrupted if a signal came since `with`. `all_reduce_max` is called with the signal number that this rank
        received, or None. It returns the highest number that any rank received, so that all ranks stop after the same step."""
        signum = all_reduce_max(self._pending)
        if signum is not None:
            raise Interrupted(signum, between_steps=True)


def new_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """The parser of `python -m distill.NAME`. Its help ends with the example, line breaks kept."""
    return argparse.ArgumentParser(
        prog=f"python -m distill.{name}",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--config FILE` and `--set key.path=value ...`."""
    parser.add_argument("--config", required=True, metavar="FILE", help="the run's YAML file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys, such as teacher.mode=none"
    )


def read_config(arguments: argparse.Namespace) -> Config:
    """Raises ConfigError and FileNotFoundError."""
    return load_config(arguments.config, arguments.set)


def run_command(main: Callable[[], None]) -> None:
    """Runs a command. The exit status is 0 for success, 2 for an error the user can mend (with a one-line message), and 128+N
    after signal N. The first rank logs everything. The other ranks log errors only, and say how they ended."""
    ranks = Ranks.of_environment()
    level = logging.INFO if ranks.first else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    name = Path(sys.argv[0]).name.removesuffix(".py") + (f" (rank {ranks.rank})" if ranks.count > 1 else "")
    try:
        main()
    except USER_ERRORS as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)
    except Interrupted as stop:
        print(f"{name}: stopped by {stop}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    line = " ".join(str(error).split())
    if isinstance(error, CacheError) and error.mend is not None:
        line += f"; this mends it: {_cache_command(error.mend)}"
    return line


def _cache_command(options: str) -> str:
    """The `distill.cache` command line with these options and the running command's configuration."""
    parser = argparse.ArgumentParser(add_help=False)
    add_config_arguments(parser)
    arguments, _ = parser.parse_known_args()
    words = ["--config", arguments.config] + (["--set", *arguments.set] if arguments.set else [])
    return f"python -m distill.cache {shlex.join(words)} {options}".rstrip()
