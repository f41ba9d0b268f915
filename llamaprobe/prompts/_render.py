"""A chat template to text, in Jinja's immutable sandbox, as transformers sets it up.

Imports only `_origin` of llamaprobe, so that `sandbox` can load it without the package; templates
known to be harmless are rendered by the same code in the caller's process. A template is compiled
once and keeps no state between renderings. `strftime_now` formats the date of the request, not the
clock, with English names in every locale.

`prepare` and `answer` raise ValueError with the reason: the template's own (`raise_exception`), a
fault in it, or a result over the limit.
"""

import contextlib
import datetime
import functools
import json
import re
from typing import Any

from . import _origin

_OLDEST = (3, 1, 6)  # older ones have known sandbox escapes
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def prepare(request: dict) -> "Compiled":
    """The template of `request`, compiled; with `traced` for both sandboxes, else for the second
    one on demand. Raises ValueError, MemoryError.
    """
    with _faults():
        compiled = Compiled(request["template"])
    if request["traced"]:
        with contextlib.suppress(Exception):
            compiled.traced  # noqa: B018
    return compiled


def answer(compiled: "Compiled", request: dict) -> tuple[str, str | None]:
    """The text of `request`, and with `traced` the origin of each character (see `_origin`; None:
    not known).

    `messages`; `own`, the variables that count as the template's own text, and `given`, all others;
    `date` (ISO), `max_chars`; `spelled`, the special tokens spelled out in messages and `given`,
    and `marks`, two characters that occur nowhere. Raises ValueError, MemoryError.
    """
    date, most = datetime.date.fromisoformat(request["date"]), request["max_chars"]
    clock = {"strftime_now": lambda format: _strftime(date, format)}
    own, given = request["own"], request["given"] | {"messages": request["messages"]}
    with _faults():
        text = _generate(compiled.plain, most, clock | own | given)
    if not request["traced"]:
        return text, None
    # The plain rendering counts: one that fails or differs below leaves the origin unknown.
    origin = None
    with contextlib.suppress(Exception):
        known = _origin.given(own, _origin.OWN) | _origin.given(given)
        known["messages"] = [_origin.message(message) for message in request["messages"]]
        traced = _generate(compiled.traced, most, clock | known)
        if traced == text:
            origin = _origin.origin_of(traced)
    if origin is not None and request["spelled"]:
        marked = _origin.Marked(request["spelled"], request["marks"])
        with contextlib.suppress(Exception):
            put = _generate(compiled.plain, 2 * most, clock | own | marked.mark(given))
            origin = marked.put_back(put, text, origin)
    return text, origin


class Compiled:
    """One template in two sandboxes: for plain texts, and for texts with an origin."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.plain = _environment().from_string(text)

    @functools.cached_property
    def traced(self):
        return _environment(traced=True).from_string(self._text)


def _generate(template, max_chars: int, variables: dict) -> str:
    chunks, room = [], max_chars
    for chunk in template.generate(**variables):
        chunks.append(chunk)
        room -= len(chunk)
        if room < 0:
            raise ValueError(f"it renders over {max_chars} characters, which is the limit")
    return template.environment.concat(chunks)


@contextlib.contextmanager
def _faults():
    """Faults of a template as ValueError."""
    import jinja2

    try:
        yield
    except jinja2.TemplateSyntaxError as e:
        raise ValueError(f"line {e.lineno}: {e.message}") from None
    except jinja2.TemplateError as e:
        raise ValueError(str(e) or type(e).__name__) from None
    except (ValueError, MemoryError):
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as e:
        raise ValueError(f"{type(e).__name__}: {e}") from None


def _environment(*, traced: bool = False):
    """The sandbox, with the filters and globals that templates on the hub expect.

    Source: transformers 5, utils/chat_template_utils.py.
    """
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    version = re.match(r"(\d+)\.(\d+)\.(\d+)", jinja2.__version__)
    if version and tuple(map(int, version.groups())) < _OLDEST:
        raise ValueError(
            f"Jinja2 {jinja2.__version__} is not safe for templates; pip install -U 'Jinja2>=3.1.6'"
        )
    sandbox: Any = ImmutableSandboxedEnvironment
    if traced:
        sandbox = _origin.traced(sandbox, _to_json)
    environment = sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), loopcontrols]
    )
    if not traced:
        environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception,
        dict=_Dict(),
        namespace=_namespace(),
    )
    return environment


def _generation_tag():
    """{% generation %} .. {% endgeneration %}, which encloses the model's answers: the body alone.
    A function, because jinja2 is imported late."""
    import jinja2
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja has it

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    return Generation


def _namespace():
    """Jinja's own, but no name may begin with an underscore."""
    import jinja2

    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(
                f"a namespace takes no name with an underscore in front: {name!r}"
            )

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, values = args[0], dict(*args[1:], **kwargs)
            for name in values:
                check(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name, value):
            check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

    return Namespace


def _raise_exception(message):
    from jinja2 import TemplateError

    raise TemplateError(message)


class _Dict:
    """`dict` for templates: callable, but not a class that leads to others."""

    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


def _to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Plain JSON: Jinja's own filter escapes < > & and ' for HTML."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime(date: datetime.date, format: str) -> str:
    """`date` at midnight by `format`, with the names of the C locale."""
    when = datetime.datetime(date.year, date.month, date.day)
    day, month = _DAYS[date.weekday()], _MONTHS[date.month - 1]
    names = {"A": day, "a": day[:3], "B": month, "b": month[:3], "h": month[:3], "p": "AM"}
    composed = {"c": "%a %b %e %H:%M:%S %Y", "x": "%m/%d/%y", "X": "%H:%M:%S", "r": "%I:%M:%S AM"}

    def english(match):
        letter = match[1]
        if letter in composed:
            return re.sub("%(.)", english, composed[letter])
        return names.get(letter, match[0])

    with contextlib.suppress(UnicodeError):
        return when.strftime(re.sub("%(.)", english, format))
    raise ValueError("strftime_now: the format is not valid text")
