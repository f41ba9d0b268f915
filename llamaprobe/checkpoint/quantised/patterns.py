"""Names of modules, and regular expressions for them, that an untrusted config lists.

Python's `re` takes exponential time for some of them. Here every part of a pattern maps the set of
positions where it may begin to the set of those where it may end, so that the time is bounded by
the lengths and the nesting. What is not known (references, \\b, look-behind) is refused.
"""

import re
from collections.abc import Callable
from typing import NoReturn

from ...families.keys import Keys
from ...files.json_file import show

_Part = Callable[[str, set[int]], set[int]]  # (text, positions before) -> positions after

_MAX_LENGTH = 1000
_MAX_NESTING = 4
_MAX_TIMES = 100
_CLASSES = {"d": str.isdecimal, "w": lambda c: c == "_" or c.isalnum(), "s": str.isspace}
_TIMES = re.compile(r"\{(\d{1,3})(,?)(\d{0,3})\}")


class Listed:
    """A list of a config: names of modules, classes, and "re:" with a pattern. ConfigError."""

    def __init__(self, keys: Keys, key: str) -> None:
        names = [str(name) for name in keys.strings(key)]
        self.names = frozenset(name for name in names if name[:3] != "re:")
        patterns = sorted({name[3:] for name in names if name[:3] == "re:"})
        self._patterns = {text: pattern(keys, key, text) for text in patterns}

    def pattern_of(self, name: str) -> str | None:
        """The first pattern by spelling that matches the beginning of a name."""
        return next((text for text, found in self._patterns.items() if found.matches(name)), None)

    def has_part_of(self, name: str) -> bool:
        """Whether an entry is a part of a name between dots, or a pattern matches it."""
        whole = f".{name}."
        return any(f".{part}." in whole for part in self.names) or self.pattern_of(name) is not None


def pattern(keys: Keys, key: str, text: str) -> "Pattern":
    """UnsupportedConfigError names the key."""
    try:
        return Pattern(text)
    except ValueError as error:
        keys.refuse(key, f"{show(text)} is not a pattern that can be read, {error}")


class Pattern:
    """ValueError for what is not known, and what is no regular expression."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        if len(text) > _MAX_LENGTH:
            self._refuse()
        self._match = self._either()
        if self._at < len(text):
            self._refuse()

    def matches(self, name: str) -> bool:
        """Whether `name` begins with a match, as `re.match`."""
        return bool(self._match(name, {0}))

    def _refuse(self) -> NoReturn:
        raise ValueError(f"from character {self._at} on")

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        found = self._peek(text)
        self._at += len(text) if found else 0
        return found

    def _next(self) -> str:
        if self._at >= len(self._text):
            self._refuse()
        self._at += 1
        return self._text[self._at - 1]

    def _either(self) -> _Part:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return lambda text, at: set().union(*(part(text, at) for part in parts))

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._at < len(self._text) and not self._peek("|") and not self._peek(")"):
            parts.append(self._repeated(self._atom()))

        def sequence(text: str, at: set[int]) -> set[int]:
            for part in parts:
                at = part(text, at)
            return at

        return sequence

    def _repeated(self, part: _Part) -> _Part:
        bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        sign = next((sign for sign in bounds if self._take(sign)), "")
        low, high = bounds.get(sign, (1, 1))
        if times := None if sign else _TIMES.match(self._text, self._at):
            self._at, low = times.end(), int(times[1])
            high = low if not times[2] else int(times[3]) if times[3] else None
            if max(low, high or 0) > _MAX_TIMES:
                self._refuse()
        elif not sign:
            return part
        self._take("?")  # which match is taken makes no difference to whether there is one
        if any(map(self._peek, "*+?{")):
            self._refuse()

        def repeated(text: str, at: set[int]) -> set[int]:
            for _ in range(low):
                before, at = at, part(text, at)
                if at == before:
                    break
            found, n = set(at), low
            while at and (high is None or n < high):
                at = part(text, at) - found
                found |= at
                n += 1
            return found

        return repeated

    def _atom(self) -> _Part:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "^":
            return lambda text, at: at & {0}
        if char == "$":
            return lambda text, at: at & {len(text)}
        if char == "[":
            return _one(self._set())
        if char == ".":
            return _one(lambda c: c != "\n")
        if char in "*+?{":
            self._refuse()
        return _one(self._escape() if char == "\\" else char.__eq__)

    def _group(self) -> _Part:
        kind = next((sign for sign in ("?:", "?=", "?!") if self._take(sign)), "")
        self._depth += 1
        if self._depth > _MAX_NESTING or (not kind and self._peek("?")):
            self._refuse()
        inside = self._either()
        if not self._take(")"):
            self._refuse()
        self._depth -= 1
        if kind in ("", "?:"):
            return inside
        wanted = kind == "?="
        return lambda text, at: {i for i in at if bool(inside(text, {i})) == wanted}

    def _escape(self) -> Callable[[str], bool]:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char.isalnum():
            self._refuse()
        return char.__eq__

    def _set(self) -> Callable[[str], bool]:
        excluded = self._take("^")
        tests: list[Callable[[str], bool]] = []
        while not tests or not self._take("]"):
            char = self._next()
            if char == "\\":
                tests.append(self._escape())
            elif self._peek("-") and not self._text.startswith("-]", self._at):
                self._at += 1
                tests.append(_between(char, self._next()))
            else:
                tests.append(char.__eq__)
        return lambda c: any(test(c) for test in tests) != excluded


def _between(first: str, last: str) -> Callable[[str], bool]:
    return lambda c: first <= c <= last


def _one(test: Callable[[str], bool]) -> _Part:
    return lambda text, at: {i + 1 for i in at if i < len(text) and test(text[i])}
