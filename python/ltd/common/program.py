"""Running a program: what a command prints and returns where its input, the system or the user stops it."""

from __future__ import annotations

import codecs
import contextlib
import errno
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from ltd.errors import InputError

INPUT_ERROR, INTERRUPTED, CLOSED_PIPE = 2, 130, 141  # exit codes; a shell's, where a signal is meant
ESCAPE = "ltd.escape"  # what to do with characters that a terminal does not have
ADVICE = {
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EFBIG: "allow larger files and run it again",
    errno.EACCES: "name a place that this user may use",
    errno.EPERM: "name a place that this user may use",
    errno.EROFS: "name a place that is writable",
}


def run_program(run: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code: its own, 2 for input or a system that stops it, 130 for Ctrl-C, 141
    for a closed pipe. Mistakes and errors of the operating system become one sentence on standard error, warnings a
    line each; an error of ours keeps its traceback.

    Args:
        run: the command; returns its exit code, None being 0.
    """
    open_missing_streams()
    show_every_character()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            code = run() or 0
            sys.stdout.flush()  # here, where a full disk can still be told
            return code
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        return code_for(error)


def run_words(run: Callable[..., None], usage: str) -> NoReturn:
    """Runs a small script with the words of the command line as arguments, and ends with its code, see `run_program`.

    Args:
        run: what it does.
        usage: how it is called, for a message where there are more or fewer words than `run` takes.
    """

    def checked() -> None:
        try:
            bound = inspect.signature(run).bind(*sys.argv[1:])
        except TypeError:
            raise InputError(f"that is not how it is called; write: {usage}") from None
        run(*bound.args)

    sys.exit(run_program(checked))


def code_for(error: BaseException) -> int:
    """The exit code for what ended a command, after its sentence; raises what is an error of ours."""
    causes = chain(error)
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):  # also one that became an import's error
        return INTERRUPTED
    if any(isinstance(cause, BrokenPipeError) for cause in causes):
        abandon_output()
        say("error: nobody reads the output any more, so it ends here")
        return CLOSED_PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    sentence = sentence_for(error)
    if sentence is None:
        raise error
    if isinstance(error, OSError):
        abandon_output()
    say(f"error: {sentence}")
    return INPUT_ERROR


def chain(error: BaseException) -> list[BaseException]:
    """An error, and those that it came from."""
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or link.__context__
    return found


def sentence_for(error: BaseException) -> str | None:
    """What to tell the user about a mistake of theirs, or about their system; None for an error of ours."""
    if isinstance(error, ImportError) and isinstance(error.__cause__, InputError):  # all that pybind11 lets through
        return one_line(error.__cause__)
    if isinstance(error, InputError):
        return one_line(error)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors
        return f"{error.format_message().rstrip('.')}; see {command_of(error)}--help"
    if isinstance(error, OSError):
        if error.strerror is None:  # made by a library, with a text of its own
            return one_line(error)
        place = "the output" if error.filename is None else error.filename
        advice = ADVICE.get(error.errno or 0)
        return f"cannot use {place}: {error.strerror}{f'; {advice}' if advice else ''}"
    return None


def command_of(error: Any) -> str:
    """The program and command that a usage error is about, with a space behind; nothing if it does not say."""
    names: list[str] = []
    context = getattr(error, "ctx", None)
    while context is not None:
        names.insert(0, f"{context.info_name} ")
        context = context.parent
    return "".join(names)


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


def show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """Shows a warning to a user, whom its place in the code does not help."""
    say(f"warning: {' '.join(str(message).split())}")


def say(line: str) -> None:
    """Prints a line to standard error, if that can be written."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def open_missing_streams() -> None:
    """Gives a program that was started with closed streams empty ones: else its first files would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (open to the end)


def show_every_character() -> None:
    """Lets standard output escape what its encoding lacks, with one warning, instead of ending the program."""
    stream: Any = sys.stdout
    if getattr(stream, "errors", None) not in ("strict", "surrogateescape") or not hasattr(stream, "reconfigure"):
        return
    encoding, told = stream.encoding, False

    def escape(error: UnicodeError) -> tuple[str | bytes, int]:
        nonlocal told
        if not told:
            told = True
            show_warning(
                f"the output's encoding, {encoding}, lacks some characters, which are written as escapes; "
                "PYTHONIOENCODING=utf-8 writes them as they are"
            )
        return codecs.backslashreplace_errors(error)

    codecs.register_error(ESCAPE, escape)
    stream.reconfigure(errors=ESCAPE)


def abandon_output() -> None:
    """Sends what is left for a standard output that cannot be written nowhere, so that the exit does not try again."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
