"""What chat templates are written with, one each: what works, and what fails."""

CONSTRUCTS = {
    "selectattr": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "rejectattr": (
        "{{ messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='content') | join('|') }}"
    ),
    "reverse slice": "{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}",
    "reverse": "{% for m in messages | reverse %}{{ loop.revindex0 }}{% endfor %}",
    "range": (
        "{% for i in range(messages | length - 1, -1, -1) %}{{ messages[i].role }}{% endfor %}"
    ),
    "loop": (
        "{% for m in messages %}{{ loop.index0 }}{{ loop.previtem.role if not loop.first }}"
        "{{ loop.last }}{% endfor %}"
    ),
    "split": "{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}",
    "rsplit": "{{ messages[2].content.rsplit('<think>', 1)[1].partition('\\n')[2] }}",
    "replace": (
        "{{ messages[0].content.replace('/no_think', '').rstrip() | replace('brief', 'long') }}"
    ),
    "methods": (
        "{{ messages[0].content.strip().upper().title().startswith('BE') }}"
        "{{ 'a'.join(['x', 'y']) }}"
    ),
    "get": (
        "{{ messages[0].get('none', 'x') }}{% for k, v in messages[0].items() %}{{ k }}={{ v }}"
        ";{% endfor %}"
    ),
    "dictsort": "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "items filter": "{% for k, v in {'b': 1, 'a': 2} | items %}{{ k }}{{ v }}{% endfor %}",
    "tests": (
        "{{ messages is iterable and messages is sequence }}{{ messages[0] is mapping }}"
        "{{ 1 is integer }}{{ x is none }}"
    ),
    "default": (
        "{{ nothing | default('d') }}{{ '' | default('e', true) }}{{ nothing is undefined }}"
    ),
    "namespace": (
        "{% set ns = namespace(a='', n=0) %}{% for m in messages %}"
        "{% set ns.a = ns.a ~ m.role[:1] %}{% endfor %}{{ ns.a }}"
    ),
    "macro": (
        "{% macro f(m, end='!') %}{{ m.role }}{{ end }}{{ varargs | length }}{% endmacro %}"
        "{{ f(messages[0]) }}{{ f(messages[1], end='?') }}"
    ),
    "call": (
        "{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% call wrap() %}"
        "{{ messages[0].content }}{% endcall %}"
    ),
    "set block": (
        "{% set part %}{{ messages[0].content }}{% endset %}{{ part | trim }}"
        "{{ part | length }}"
    ),
    "filter block": "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "if expression": (
        "{{ messages[0].content if messages[0].role == 'system' else 'no' }}{{ 'x' if false }}"
    ),
    "tojson": (
        "{{ messages | tojson(indent=2) }}"
        "{{ {'b': 'é<', 'a': none} | tojson(sort_keys=true, separators=(',', ':')) }}"
    ),
    "format": "{{ '%s-%02d' | format('a', 5) }}{{ 'a {} {x}'.format(1, x=2) }}{{ '%.2f' % 1.5 }}",
    "string": (
        "{{ 5 | string ~ 'x' }}{{ '7' | int + 1 }}{{ [3, 1] | sort | first }}"
        "{{ 'ab' | list | last }}"
    ),
    "unique": (
        "{{ messages | map(attribute='role') | unique | list }}"
        "{{ messages | groupby('role') | length }}"
    ),
    "break": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% break %}{% else %}"
        "{% continue %}{% endif %}{% endfor %}"
    ),
    "recursive": (
        "{% for x in [[1], [2, 3]] recursive %}{{ loop(x) if x is iterable else x }}"
        "{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% endif %}{% endfor %}"
    ),
    "raw": "{% raw %}{{ not this }}{% endraw %}{# nor this #}{{ messages[0].role }}",
    "lines": (
        "  {% if true %}\n    a\n  {% endif %}\n  {{- 'b' -}}  \n{%+ if true %} c {% endif %}\n"
        "\n"
    ),
    "date": "{{ strftime_now('%d %B %Y|%A %j|%-d %b %y') }}{{ strftime_now is defined }}",
    "lookup": (
        "{{ messages[0]['content'] }}{{ messages[-1].content[1:-1] }}"
        "{{ messages[0].nothing is defined }}"
    ),
    "concat": (
        "{{ 'a' + 'b' ~ 1 ~ none ~ true }}{{ 'ab' * 2 }}{{ 7 // 2 }}{{ 2 ** 3 }}"
        "{{ 'a' in 'abc' }}"
    ),
    "cycler": (
        "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ joiner(',')() }}"
        "{{ dict(a=1) | length }}"
    ),
    "wordcount": (
        "{{ messages[0].content | wordcount }}{{ 'a\\nb' | indent(2) }}"
        "{{ 'abcdefghijk' | truncate(4) }}{{ 'x' | center(5) }}"
    ),
    "batch": (
        "{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2] | sum }}{{ [1, 2] | max }}"
        "{{ 'b' | attr('upper') is defined }}"
    ),
}
"""Constructs of these templates, one each."""

FAILING = {
    "undefined": "{{ nothing.x }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update(a=1) }}",
    "underscore": "{{ ''.__class__.__mro__ }}",
    "namespace": "{% set ns = namespace(_x=1) %}",
    "raise": "{{ raise_exception('this ' ~ 'reason') }}",
    "add": "{{ 'a' + none }}",
}
