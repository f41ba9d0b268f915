"""The keys of a JSON object that a stranger wrote: exact types, ranges, and messages that name the
file, the key and what it holds."""

from typing import Any, NoReturn

import numpy as np

from ..errors import ConfigError, UnsupportedError
from ..files.json_file import show

REQUIRED: Any = object()


class UnsupportedConfigError(ConfigError, UnsupportedError):
    """config.json requires something that llamaprobe does not compute; the message says what."""


class Keys:
    """The keys of one JSON object; `name` stands before a key in messages."""

    def __init__(self, path: str, values: dict[str, Any], name: str = "") -> None:
        self.path, self.values, self.name = path, values, name

    def fail(self, key: str, allowed: str) -> NoReturn:
        fact = f"is {show(self.values[key])}" if key in self.values else "is missing"
        raise ConfigError(f"{self.path}: {self.name}{key} {fact}; it must be {allowed}")

    def refuse(self, key: str, why: str) -> NoReturn:
        value = show(self.values.get(key))
        raise UnsupportedConfigError(f"{self.path}: {self.name}{key} is {value}: {why}")

    def value(self, key: str, kinds: tuple[type, ...], allowed: str, default: Any) -> Any:
        found = self.values.get(key)
        if found is None and default is not REQUIRED:
            return default
        if type(found) not in kinds:  # exact: True is not an int here
            self.fail(key, allowed)
        return found

    def integer(self, key: str, low: int, high: int, default: Any = REQUIRED) -> Any:
        allowed = f"an integer from {low} to {high}"
        found = self.value(key, (int,), allowed, default)
        if found is not None and not low <= found <= high:
            self.fail(key, allowed)
        return found

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        allowed = "a number above 0 that a float32 can hold"
        found = self.value(key, (int, float), allowed, default)
        if found is not None and not _fits(found):
            self.fail(key, allowed)
        return found if found is None else float(found)

    def numbers(self, key: str, n: int) -> list[float]:
        """A list of n numbers above 0."""
        allowed = f"a list of {n} numbers above 0 that a float32 can hold"
        found = self.value(key, (list,), allowed, REQUIRED)
        if len(found) != n or not all(type(x) in (int, float) and _fits(x) for x in found):
            self.fail(key, allowed)
        return [float(x) for x in found]

    def flag(self, key: str) -> bool:
        found: bool = self.value(key, (bool,), "true or false", False)
        return found

    def text(self, key: str) -> str | None:
        found: str | None = self.value(key, (str,), "a string", None)
        return found

    def strings(self, key: str) -> list[Any]:
        found: list[Any] = self.value(key, (list,), "a list of strings", [])
        return found

    def block(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.value(key, (dict,), "an object", {})
        return found

    def inside(self, key: str) -> "Keys":
        return Keys(self.path, self.block(key), f"{self.name}{key}.")


def _fits(number: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(0 < np.float32(number) < np.inf)


def any_of(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
