"""The command ``skipae``.

Only click is loaded until there is work to do, so that ``--help`` answers at once: a command's module is loaded
when the command is called.
"""

from __future__ import annotations

import _thread
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from skipae import __version__
from skipae.errors import SkipaeError, Stopped, UsageError, suggest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

INTERRUPTED = 130

COMMANDS = {
    "denoise": "Remove noise from images.",
    "inpaint": "Fill holes in images from their surroundings.",
    "features": "Extract encoder features to files.",
    "segment": "Label every pixel with a class.",
    "classify": "Predict the classes of images.",
    "layers": "List the layers of a checkpoint.",
    "visualize": "Draw the strongest feature maps of a layer.",
    "export": "Export a model for other programs.",
    "models": "List, fetch and check models.",
    "doctor": "Check the installation and devices, and suggest fixes.",
    "bench": "Measure speed and memory on the devices of this machine.",
    "completion": "Print a shell script for tab completion.",
}
"""Name and first help line of each command."""


class UncutGroup(click.Group):
    """A group that lists its commands with whole sentences, wrapped where click cuts them to a line."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        found = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        rows = [(name, each.get_short_help_str(10_000)) for name, each in found if each is not None and not each.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class CommandGroup(UncutGroup):
    """A group that reports every error, also usage errors, as one line on standard error, with skipae's exit codes."""

    program = "skipae"
    arguments: Sequence[str] = ()
    """The arguments of the call."""
    hides_libraries = True
    """True if what native libraries print on standard error is hidden; ``--debug`` shows it."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit."""
        self.arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in self.arguments
        extra["standalone_mode"] = False
        extra.setdefault("terminal_width", _width())
        gc.freeze()  # exempt what is loaded from garbage collection: saves a sixth of --help
        with suppress(ValueError):  # only the main thread may
            for name in ("SIGTERM", "SIGHUP"):  # so that no incomplete file remains
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup requests
                    signal.signal(number, _stop)
        try:
            hidden = nullcontext() if debug or not self.hides_libraries else _native_lines_hidden()
            with _no_signal_lost(), hidden:
                code = super().main(args=self.arguments, prog_name=prog_name or self.program, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            code = UsageError.exit_code
        except click.ClickException as error:
            self.show_error(error.format_message())
            code = UsageError.exit_code
        except (click.Abort, KeyboardInterrupt) as end:  # before the command or after it
            interrupt = end.__cause__ if isinstance(end, click.Abort) else end
            self.show_error("interrupted")
            code = _code(interrupt)
        except Exception as error:
            if debug:
                import traceback

                from skipae.console import echo

                echo(*traceback.format_exc().splitlines(), err=True)
            code, text = self.explain(error)
            if text is None:
                text = f"{_unexpected(error)}{'' if debug else ' (--debug shows where)'}"
            self.show_error(text)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, context: click.Context) -> Any:
        """Run a command; click's own message for an interrupt is more than one line."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt as interrupt:
            self.show_error(self.explain_interrupt(interrupt))
            raise click.exceptions.Exit(_code(interrupt)) from None

    def explain(self, error: Exception) -> tuple[int, str | None]:
        """Return the exit code and message of an error; the message is None if the error is unexpected."""
        return (error.exit_code, error.command_line()) if isinstance(error, SkipaeError) else (1, None)

    def explain_interrupt(self, interrupt: KeyboardInterrupt) -> str:
        """Return the message after Ctrl-C or a signal."""
        return str(interrupt) or "interrupted"

    def show_error(self, text: str) -> None:
        """Write a message to standard error, on one line."""
        from skipae.console import one_line

        with suppress(OSError):  # the terminal is closed
            click.echo(one_line(f"{self.program}: error: " + " ".join(text.split())), err=True)


class _Commands(CommandGroup):
    """The commands of :data:`COMMANDS`, each loaded when it is called."""

    def list_commands(self, context: click.Context) -> list[str]:
        """List the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Load a command's module."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"skipae.commands.{name}").command
        command.name = name
        return command

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Find the command; suggest a similar name for one that does not exist."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            context.fail(f"unknown command {args[0]!r}{suggest(args[0], COMMANDS)}; use one of {', '.join(COMMANDS)}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands and options, without loading commands."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, context, incomplete)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skipae", message="%(prog)s %(version)s")
def main() -> None:
    """Restore photos and extract image features, on the CPU or a GPU."""


def _width() -> int:
    """Return the width of the help page in columns; click's own way loads shutil and with it the compressors."""
    try:
        return max(48, min(os.get_terminal_size().columns, 100) - 2)
    except OSError:
        return 78


@contextmanager
def _native_lines_hidden() -> Iterator[None]:
    """Hide what native libraries write to standard error by themselves, as libtiff does about damaged files.

    Pillow offers no handler for it, and descriptor 2 is the same for all threads: redirecting it only while an image is
    decoded would lose what others write meanwhile.  So ``sys.stderr`` gets a descriptor of its own and 2 leads nowhere,
    once for the whole command.  Nothing changes where ``sys.stderr`` is not descriptor 2, as in a program that captures
    it.
    """
    before = sys.stderr
    try:
        number = before.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or not a file
        number = -1
    if number != 2:
        yield
        return
    stream = os.fdopen(os.dup(2), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    try:
        sys.stderr = stream
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(stream.fileno(), 2)
        sys.stderr = before
        with suppress(OSError):  # the terminal is closed
            stream.close()


def _stop(number: int, _: object) -> None:
    stopped = Stopped()
    stopped.exit_code = 128 + number
    raise stopped


@contextmanager
def _no_signal_lost() -> Iterator[None]:
    """Interrupt again if a signal arrived in a destructor or a callback, in which Python drops exceptions."""
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            before(dropped)
            return
        number, thread = _code(dropped.exc_value) - 128, _thread.get_ident()

        def later() -> None:
            time.sleep(0.01)  # until the destructor has returned
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(thread, number)  # also ends a wait
            else:
                _thread.interrupt_main(signal.Signals(number))

        _thread.start_new_thread(later, ())

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _code(interrupt: BaseException | None) -> int:
    return interrupt.exit_code if isinstance(interrupt, Stopped) else INTERRUPTED


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:  # a folder without permission
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {error}"
