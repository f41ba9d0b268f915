"""The parser of every command: argparse, with options anywhere among the positional arguments.

In Python versions before September 2024, argparse leaves an optional positional such as PROMPT
empty when an option precedes it. Here the words are sorted first: the options with their values,
then `--`, then the positionals in their order.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from .. import stderr

_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")


class _Dashes(str):
    """A positional `--` that argparse does not take for its own separator."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True


class Parser(argparse.ArgumentParser):
    """For the whole command line or one command. Wrong usage is one line and exit 2."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is not None:  # the command sorts its own
            return super().parse_known_args(words, namespace)
        found, unknown = super().parse_known_args(self._sorted(words), namespace)
        if unknown:
            hint = "" if unknown[0].startswith("-") else "; text with spaces goes in quotes"
            shown = " ".join(word or "''" for word in unknown)
            self.error(f"unrecognized arguments: {shown}{hint}")
        for name, value in vars(found).items():
            setattr(found, name, _plain(value))
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        near = get_close_matches(str(value), action.choices or (), 1)
        if near and near[0] != value:
            raise argparse.ArgumentError(action, f"there is no {value!r}; did you mean {near[0]}?")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        line = stderr.one_line(message)
        stderr.fail(f"{self.prog}: error: {line}; see {self.prog} --help")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version are results: unlike argparse, fail when they cannot be written."""
        (file or sys.stdout).write(message)

    def _sorted(self, words: list[str]) -> list[str]:
        """The options with their values, then `--` and the positionals."""
        options: list[str] = []
        positionals: list[str] = []
        at = 0
        while at < len(words):
            word = words[at]
            at += 1
            if word == "--":
                positionals += words[at:]
                break
            if not self._is_option(word):
                positionals.append(word)
                continue
            options.append(word)
            n_values = self._n_values(word)
            while n_values and at < len(words) and not self._is_option(words[at]):
                if words[at] == "--":
                    break
                options.append(words[at])
                at, n_values = at + 1, n_values - 1
        if not positionals:
            return options
        return [*options, "--", *(_Dashes(p) if p == "--" else p for p in positionals)]

    def _is_option(self, word: str) -> bool:
        """As in argparse: not a negative number, nor a text with spaces."""
        if len(word) < 2 or word[0] != "-" or word == "--":
            return False
        known = bool(self._actions_of(word))
        return known or not (" " in word or _NEGATIVE.fullmatch(word))

    def _actions_of(self, word: str) -> list[argparse.Action]:
        """The option that a word names, or those that it abbreviates."""
        name = word.partition("=")[0]
        known = self._option_string_actions
        if name in known:
            return [known[name]]
        if not self.allow_abbrev or not name.startswith("--"):
            return []
        return [action for option, action in known.items() if option.startswith(name)]

    def _n_values(self, word: str) -> float:
        """The most words that an option takes."""
        actions = self._actions_of(word)
        if "=" in word or len(actions) != 1:
            return 0
        nargs = actions[0].nargs
        if isinstance(nargs, int):
            return nargs
        return 1 if nargs in (None, "?") else math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, _Dashes) else value
