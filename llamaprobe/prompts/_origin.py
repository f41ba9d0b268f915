"""Text that knows the origin of each character: the template or its input.

A template may split, trim, join and compare messages. `Text` is a str that does so with the same
results and keeps the origin of each character, which distinguishes a special token of the template
from one in a message. `traced` makes a Jinja sandbox in which all text of a template is Text; a
template cannot reach the origin, whose name begins with an underscore.

Operations that are not traced give a plain str, whose origin is LOST; only literals of the template
count as its own. Imports nothing of llamaprobe, as `_render`.
"""

import re
import string
from collections.abc import Callable, Iterable, Iterator
from typing import Any

OWN = "o"  # a literal of the template, or a special token by its name
ROLE = "r"  # the role of a message
GIVEN = "g"  # anything else that the template was given
LOST = "?"


class Text(str):
    """A str with the origin of each character."""

    __slots__ = ("_origin",)
    _origin: str

    def __new__(cls, value: str = "", origin: str | None = None) -> "Text":
        """`origin`: one letter for each character, or one for all. Without it: LOST."""
        text = str.__new__(cls, value)
        n = str.__len__(text)
        if origin is None or len(origin) not in (1, n):
            origin = LOST
        text._origin = origin if len(origin) == n else origin * n
        return text

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: Any) -> "Text":
        return Text(str.__getitem__(self, key), self._origin[key])

    def __iter__(self) -> Iterator["Text"]:
        return map(Text, str.__iter__(self), self._origin)

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, str):
            return NotImplemented
        return Text(str.__add__(self, other), self._origin + origin_of(other))

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, str):
            return NotImplemented
        return Text(str.__add__(other, self), origin_of(other) + self._origin)

    def __mul__(self, times: Any) -> Any:
        return Text(str.__mul__(self, times), self._origin * times)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> "Text":
        return _checked(str.__mod__(self, values), _percent(self, values))

    def join(self, items: Iterable[str]) -> "Text":
        items = list(items)
        return Text(str.join(self, items), self._origin.join(map(origin_of, items)))

    def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        return self._cut(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        return self._cut(str.rsplit(self, sep, maxsplit), sep)

    def _cut(self, pieces: list[str], sep: str | None) -> list[str]:
        """The pieces as slices of self; between them is `sep`, or white space."""
        found: list[str] = []
        at = 0
        for piece in pieces:
            at = str.find(self, piece, at)
            found.append(self[at : at + len(piece)])
            at += len(piece) + len(sep or "")
        return found

    def splitlines(self, keepends: bool = False) -> list[str]:
        found: list[str] = []
        at = 0
        whole = str.splitlines(self, True)
        for line, shown in zip(whole, str.splitlines(self, keepends), strict=True):
            found.append(self[at : at + len(shown)])
            at += len(line)
        return found

    def partition(self, sep: str) -> tuple[str, str, str]:
        return self._three(str.partition(self, sep))

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        return self._three(str.rpartition(self, sep))

    def _three(self, parts: tuple[str, str, str]) -> tuple[str, str, str]:
        first, second = len(parts[0]), len(parts[0]) + len(parts[1])
        return self[:first], self[first:second], self[second:]

    def lstrip(self, chars: str | None = None) -> "Text":
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None) -> "Text":
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None) -> "Text":
        return self.rstrip(chars).lstrip(chars)

    def removeprefix(self, prefix: str) -> "Text":
        return self[len(self) - len(str.removeprefix(self, prefix)) :]

    def removesuffix(self, suffix: str) -> "Text":
        return self[: len(str.removesuffix(self, suffix))]

    def replace(self, old: str, new: str, count: Any = -1) -> "Text":
        if old:
            pieces = self._cut(str.split(self, old, count), old)
        elif count < 0:  # around every character
            pieces = ["", *self, ""]
        else:
            return Text(str.replace(self, old, new, count))
        return Text(new, origin_of(new)).join(pieces)


def _same_length(name: str) -> Callable[[Text], Text]:
    """upper and the like: character by character, unless one becomes several."""
    change = getattr(str, name)
    return lambda self: _checked(change(self), self._origin)


for _name in ("upper", "lower", "title", "capitalize", "swapcase", "casefold"):
    setattr(Text, _name, _same_length(_name))


def origin_of(text: str) -> str:
    """The origin of each character."""
    return text._origin if isinstance(text, Text) else LOST * len(text)


_WORDS = re.compile(r"[\w\s.,:-]*")  # not a special token: these have brackets or the like


def of_all(value: Any) -> str:
    """One letter for the text of `value`: OWN or GIVEN; LOST if it has both and the template's part
    may be a special token, or if it has no text."""
    letters: set[str] = set()
    rest, words = [value], True
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            letters.update(origin_of(item))
            words = words and (OWN not in origin_of(item) or bool(_WORDS.fullmatch(item)))
        elif isinstance(item, dict):
            rest.extend(item.keys())
            rest.extend(item.values())
        elif isinstance(item, list | tuple | set):
            rest.extend(item)
    if letters <= {OWN}:
        return OWN if letters else LOST
    return GIVEN if words else LOST


def given(value: Any, origin: str = GIVEN) -> Any:
    """A copy of plain data in which every text, also a key, has this origin."""
    if isinstance(value, str):
        return Text(value, origin)
    if isinstance(value, dict):
        return {Text(key, origin): given(item, origin) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(given(item, origin) for item in value)
    return value


def message(value: dict[str, Any]) -> dict[str, Any]:
    """A copy of a chat message: the role has origin ROLE, the rest GIVEN."""
    return given(value) | {
        Text(key, GIVEN): Text(item, ROLE)
        for key, item in value.items()
        if key == "role" and isinstance(item, str)
    }


class Marked:
    """Special tokens in messages between two marks, as in transformers. A template may split a
    message at a special token and join it with a literal of its own: the marks show that the
    message had it there.
    """

    def __init__(self, tokens: list[str], marks: str) -> None:
        any_token = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
        self._token = re.compile(any_token)
        self._between = re.compile(rf"{marks[0]}\s*(?:{any_token})\s*{marks[1]}")
        self._marks = marks
        self._without = dict.fromkeys(map(ord, marks))

    def mark(self, value: Any) -> Any:
        """A copy of plain data with marks in its texts, but not in keys."""
        if isinstance(value, str):
            return self._token.sub(rf"{self._marks[0]}\g<0>{self._marks[1]}", value)
        if isinstance(value, dict):
            return {key: self.mark(item) for key, item in value.items()}
        return [self.mark(item) for item in value] if isinstance(value, list) else value

    def put_back(self, marked: str, text: str, origin: str) -> str:
        """`origin` of `text`, GIVEN between the marks in `marked` if that is the same text."""
        if marked.translate(self._without) != text:
            return origin
        parts, at, behind = [], 0, 0
        for match in self._between.finditer(marked):
            skipped = len(marked[behind : match.start()].translate(self._without))
            n = match.end() - match.start() - 2
            parts += [origin[at : at + skipped], GIVEN * n]
            at, behind = at + skipped + n, match.end()
        return "".join(parts) + origin[at:]


def _checked(text: str, origin: str | None) -> Text:
    return Text(text, origin if origin is not None and len(origin) == len(text) else LOST)


_SPEC = re.compile(r"%(?:\((\w+)\))?[#0\- +]*[0-9]*(?:\.[0-9]+)?([a-zA-Z%])")


def _percent(pattern: Text, values: Any) -> str | None:
    """The origin of `pattern % values`; None where it is not traced."""
    named = isinstance(values, dict)
    rest = list(values) if isinstance(values, tuple) else [values]
    origin, at = "", 0
    for match in _SPEC.finditer(pattern):
        origin += pattern._origin[at : match.start()]
        at = match.end()
        if match[2] == "%":
            origin += pattern._origin[at - 1]
            continue
        if not named and not rest:
            return None
        value = values[match[1]] if named else rest.pop(0)
        spec = str.__str__("%" + match[0].partition(")")[2] if named else match[0])
        origin += _placed(str.__mod__(spec, (value,)), value)
    return origin + pattern._origin[at:]


def _placed(piece: str, value: Any) -> str:
    """The origin of `piece`: `value`, perhaps with white space around it."""
    if not isinstance(value, str):
        return of_all(value) * len(piece)
    if (at := piece.find(value)) < 0:
        return of_all(value) * len(piece)
    return LOST * at + origin_of(value) + LOST * (len(piece) - at - len(value))


def _braces(pattern: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The origin of `pattern.format(*args, **kwargs)`; None where it is not traced."""
    letters = set(origin_of(pattern))
    if len(letters) > 1:
        return None
    literal, numbers = "".join(letters), iter(range(len(args)))
    origin = ""
    for text, field, spec, conversion in string.Formatter().parse(pattern):
        origin += literal * len(text)
        if field is None:
            continue
        if spec or conversion or re.search(r"[.\[]", field):
            return None
        value = kwargs[field] if field in kwargs else args[int(field or next(numbers))]
        origin += _placed(format(value, ""), value)
    return origin


def traced(environment_class: type, to_json: Callable[..., str]) -> type:
    """A subclass of a Jinja sandbox whose templates work with Texts: their literals are OWN."""
    from jinja2 import pass_eval_context
    from jinja2.compiler import CodeGenerator
    from jinja2.utils import concat

    empty = Text("", OWN)

    class Generator(CodeGenerator):
        def visit_Const(self, node, frame):
            self.write(f"environment._own({node.as_const(frame.eval_ctx)!r})")

        def visit_TemplateData(self, node, frame):
            self.write(f"environment._own({node.data!r})")

        def visit_Concat(self, node, frame):
            self.write("environment._joined((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

        def _output_const_repr(self, group):
            return f"environment._own({concat(group)!r})"

    def shown(value: Any) -> str:
        """The output of a template for a value."""
        return value if isinstance(value, str) else Text(str(value), of_all(value))

    class Traced(environment_class):
        code_generator_class = Generator
        concat = staticmethod(empty.join)

        def __init__(self, **options: Any) -> None:
            super().__init__(finalize=shown, **options)
            self.filters["tojson"] = lambda x, *args, **kwargs: Text(
                to_json(x, *args, **kwargs), of_all(x)
            )
            self.filters["join"] = pass_eval_context(
                lambda context, value, d=empty, attribute=None, plain=self.filters["join"]: plain(
                    context, value, d, attribute
                )
            )
            self.filters["safe"] = lambda text: text

        @staticmethod
        def _own(value: Any) -> Any:
            return given(value, OWN)

        @staticmethod
        def _joined(parts: Iterable[Any]) -> Text:
            return empty.join(map(shown, parts))

        def wrap_str_format(self, value: Any) -> Any:
            plain = super().wrap_str_format(value)
            if plain is None:
                return None
            text, mapped = value.__self__, value.__name__ == "format_map"

            def format(*args: Any, **kwargs: Any) -> Text:
                result = plain(*args, **kwargs)
                named = dict(args[0]) if mapped else kwargs
                return _checked(result, _braces(text, () if mapped else args, named))

            return format

    return Traced
