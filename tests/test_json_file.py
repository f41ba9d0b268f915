"""Untrusted JSON: what is refused, and that a hostile file costs no more than its size explains."""

import json
import resource
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llamaprobe as lp
from llamaprobe.files.json_file import MAX_DEPTH, parse_object, parse_value

MB = 1 << 20


def parse(text):
    return parse_object(text.encode() if isinstance(text, str) else text, "m.json", lp.FormatError)


REFUSED = {
    "too deep": ('{"a":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "more than 64 levels"),
    "too deep, cut off": ('{"a":' + "[" * 5000, "more than 64 levels"),
    "brackets": ('{"a":[' + "[]," * 50_000 + "0]}", "more than .* objects, lists and keys"),
    "objects": ('{"a":[' + "{}," * 50_000 + "0]}", "more than .* objects, lists and keys"),
    "keys": (json.dumps({str(i): 0 for i in range(200_000)}, separators=(",", ":")), "more than"),
    "duplicate": ('{"a":1,"a":2}', 'duplicate key "a"'),
    "NaN": ('{"a":NaN}', "NaN is not valid JSON"),
    "1e400": ('{"a":1e400}', "number 1e400 does not fit"),
    "long float": ('{"a":1' + "0" * 299 + "e99}", "does not fit a float64"),
    "very long float": ('{"a":1' + "0" * 320 + ".0}", "does not fit a float64"),
    "2**63": ('{"a":9223372036854775808}', "does not fit 64 bits"),
    "-2**63-1": ('{"a":-9223372036854775809}', "does not fit 64 bits"),
    "surrogate": ('{"a":"\\udce8"}', "half of a surrogate pair"),
    "surrogate, upper case": ('{"a":"\\uDCE8"}', "half of a surrogate pair"),
    "BOM": ("\ufeff{}", "byte order mark"),
    "list": ("[1]", "must be a JSON object"),
    "closed twice": ('{"a":1}}', "not valid JSON"),
    "open string": ('{"a":"[[', "not valid JSON"),
    "latin1": (b'{"a":"\xe8"}', "not UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rejects_what_is_not_plain_json(name):
    text, message = REFUSED[name]
    with pytest.raises(lp.FormatError, match=message):
        parse(text)


def test_accepts_plain_json():
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    brackets = "[{:" * 100_000  # in a string they are text: a prompt may be a program
    escapes = '\\"[[[[\\\\'
    text = f'{{"a":{deep},"b":"{brackets}","c":"{escapes}","d":"\\ud83d\\ude00","e":-9223372036854775808}}'
    found = parse(text)
    assert found["b"] == brackets and found["c"] == '"[[[[\\' and found["d"] == "\U0001f600"
    assert found["e"] == -(2**63)
    assert parse('{"a":1e99,"b":"e123","c":1234567890123456789}')["c"] == 1234567890123456789


def test_answers_of_the_hub_may_hold_any_number():
    data = b'[{"a": 99999999999999999999, "b": "\\udce8"}, [1e30]]'
    assert parse_value(data, "m", lp.FormatError, strict=False)[0]["a"] == 99999999999999999999
    with pytest.raises(lp.FormatError, match="does not fit 64 bits"):
        parse_value(data, "m", lp.FormatError)
    with pytest.raises(lp.FormatError, match='duplicate key "a"'):
        parse_value(b'[{"a": 1, "a": 2}]', "m", lp.FormatError, strict=False)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(width=64),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.dictionaries(st.text(), values))
def test_reads_what_json_writes(value):
    """Whatever json.dumps writes is read back, unless it holds what the strict reader refuses."""
    text = json.dumps(value)
    try:
        expected = json.loads(text)
        json.dumps(expected, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        with pytest.raises(lp.FormatError):
            parse(text)
    else:
        assert parse(text) == expected


HOSTILE = {
    "lists": "[],",
    "towers": "[[[[[[[[]]]]]]]],",
    "objects": "{},",
    "texts": '"ab",',
    "numbers": "0,",
    "long numbers": "1234567890,",
    "digits": "1234567890123456789,",
    "quotes": '"\\"",',
}


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_takes_linear_time_and_a_small_multiple_of_its_size(name):
    """A megabyte took a second and 30 MB; a manifest may have 16."""
    script = f"""
import resource, time
import llamaprobe as lp
from llamaprobe.files.json_file import parse_object
item = {HOSTILE[name]!r}.encode()
data = b'{{"x":[' + item * ({4 * MB} // len(item)) + b'0]}}'
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = most(), time.process_time()
try:
    parse_object(data, "m", lp.FormatError)
except lp.FormatError:
    pass
print((most() - before) / len(data), time.process_time() - start)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    times_its_size, seconds = map(float, run.stdout.split())
    assert times_its_size < 20 and seconds < 4


@pytest.mark.linux
def test_a_manifest_over_16_mb_is_refused_unread(tmp_path):
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(17 * MB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(lp.FormatError, match="over 16777216 bytes"):
        lp.read_run(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
