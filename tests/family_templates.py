"""Chat templates made with what the templates of each family use: its turns, its order of checks,
its filters and tests, its switches.
"""

_ALTERNATE = (
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant take turns, from the user on') }}{%- endif %}"
)

QWEN25 = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nA small test model.<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if (m.role == "user") or (m.role == "system" and not loop.first) or (m.role == "assistant" and not m.tool_calls) %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
    {%- elif m.role == "tool" %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n' ~ m.content }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, question=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set at = (messages|length - 1) - loop.index0 %}
    {%- set answers = m.content is string and m.content.startswith('<tool_response>') %}
    {%- if ns.searching and m.role == "user" and m.content is string and not (answers and m.content.endswith('>')) %}
        {%- set ns.searching = false %}
        {%- set ns.question = at %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.content is string %}{%- set content = m.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if m.role == "user" or (m.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif m.role == "assistant" %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is string %}
            {%- set thought = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.question and (loop.last or thought) %}
            {{- '<|im_start|>' + m.role + '\\n<think>\\n' + thought.strip('\\n') }}
            {{- '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + m.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

R1 = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(first=true, system='') %}\
{%- for m in messages %}{%- if m['role'] == 'system' %}{% set ns.system = m['content'] %}{%- endif %}{%- endfor %}\
{{bos_token}}{{ns.system}}\
{%- for m in messages %}\
{%- if m['role'] == 'user' %}{{'<｜User｜>' + m['content']}}{%- endif %}\
{%- if m['role'] == 'assistant' and m['content'] is not none %}\
{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}\
{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}\
{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"""

MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
    "{{- bos_token }}{%- for m in turns %}" + _ALTERNATE + "{%- if m['role'] == 'user' %}"
    "{%- if loop.first and system is defined %}{{- ' [INST] ' + system + '\\n\\n' + m['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' [INST] ' + m['content'] + ' [/INST]' }}{%- endif %}"
    "{%- elif m['role'] == 'assistant' %}{{- ' ' + m['content'] + eos_token}}"
    "{%- else %}{{- raise_exception('no such role') }}{%- endif %}{%- endfor %}"
)

NEMO = """\
{%- if messages[0]["role"] == "system" %}
    {%- set head = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in turns %}
    {%- if not (message.role == "tool" or message.tool_calls is defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("user and assistant take turns here too") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == asked[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {{- tool.function | tojson }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
        {%- endif %}
        {%- if loop.last and head is defined %}
            {{- "[INST]" + head + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- message["content"] + eos_token}}
    {%- endif %}
{%- endfor %}
"""

SMALL = """\
{%- set today = strftime_now("%Y-%m-%d") %}
{%- set yesterday = 'the day before ' + today %}
{%- set usual = "You are a small model.\\nToday is " + today + " (" + yesterday + ")." %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set head = messages[0]['content'] %}
    {%- else %}
        {%- set head = messages[0]['content'][0]['text'] %}
    {%- endif %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set head = usual %}
    {%- set turns = messages %}
{%- endif %}
{{- '[INST]' + head + '[/INST]' }}
{%- for message in turns %}
    {%- if message['role'] == 'user' %}
        {%- if message['content'] is string %}
            {{- '[INST]' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST]' }}
            {%- for block in message['content'] %}
                {%- if block['type'] == 'text' %}{{- block['text'] }}
                {%- elif block['type'] in ['image', 'image_url'] %}{{- '[IMG]' }}
                {%- else %}{{- raise_exception('a block of an unknown type') }}{%- endif %}
            {%- endfor %}
            {{- '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}"""

GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system messages here') }}{% endif %}"
    "{% for m in messages %}" + _ALTERNATE + "{% if (m['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

GEMMA3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for m in turns -%}
    """ + _ALTERNATE + """
    {%- if (m['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = m['role'] -%}{%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (prefix if loop.first else "") }}
    {%- if m['content'] is string -%}
        {{ m['content'] | trim }}
    {%- elif m['content'] is iterable -%}
        {%- for item in m['content'] -%}
            {%- if item['type'] == 'image' -%}{{ boi_token }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("content is of another kind") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model
' }}
{%- endif -%}
"""

PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PHI4 = (
    "{% for message in messages %}{% if (message['role'] in ['system', 'user', 'assistant']) %}"
    "{{'<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

PHI4_MINI = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + message['tools'] }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% else %}{{ eos_token }}{% endif %}"
)

SMOLLM3 = """\
{#- the switch is a variable, a flag in the system message, or on -#}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- if enable_thinking -%}{%- set mode = "/think" -%}{%- else -%}{%- set mode = "/no_think" -%}{%- endif -%}
{%- set today = strftime_now("%d %B %Y") -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set head = messages[0].content -%}
  {%- if "/no_think" in head -%}{%- set mode = "/no_think" -%}
  {%- elif "/think" in head -%}{%- set mode = "/think" -%}{%- endif -%}
  {%- set custom = head.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{%- if "/system_override" in (head or "") -%}
  {{- custom.replace("/system_override", "").rstrip() -}}{{- "<|im_end|>\\n" -}}
{%- else -%}
  {{- "# Facts\\n\\n" -}}{{- "Day: " ~ today ~ "\\n" -}}{{- "Mode: " + mode + "\\n\\n" -}}
  {{- "# Orders\\n\\n" -}}
  {%- if custom -%}{{- custom + "\\n\\n" -}}{%- else -%}{{- "A small assistant.\\n\\n" -}}{%- endif -%}
{%- endif -%}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else "" -%}
  {%- if message.role == "user" -%}{{ "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>\\n" }}
  {%- elif message.role == "assistant" -%}
    {% generation %}
    {%- if mode == "/think" -%}{{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- else -%}
      {{- "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- endif -%}
    {% endgeneration %}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {%- if mode == "/think" -%}{{ "<|im_start|>assistant\\n" }}
  {%- else -%}{{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" }}{%- endif -%}
{%- endif -%}
"""

OLMO2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ '<|system|>\n' + m['content'] + '\n' }}"
    "{% elif m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '\n' }}"
    "{% elif m['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n' + m['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n' + m['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)

OLMO3 = """\
{%- set has_system = messages|selectattr('role', 'equalto', 'system')|list|length > 0 -%}
{%- if not has_system -%}{{- '<|im_start|>system\\nA helper' -}}
{%- if tools is none or (tools | length) == 0 -%}{{- ' without functions.<|im_end|>\\n' -}}
{%- else -%}{{- ' with <functions>' -}}{{- tools | tojson -}}{{- '</functions><|im_end|>\\n' -}}{%- endif -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if message.get('content', none) is not none -%}{{- message['content'] -}}{%- endif -%}
{%- if not loop.last -%}{{- '<|im_end|>' + '\\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}
{%- else -%}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}{%- endif -%}
{%- if loop.last and add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>' -}}{%- endif -%}
{%- endfor -%}"""

GRANITE = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set head = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set head = "Written on " + strftime_now('%B %d, %Y') + "." %}
    {%- if tools and documents %}{%- set head = head + " Both." %}
    {%- elif tools %}{%- set head = head + " Tools." %}
    {%- elif documents %}{%- set head = head + " Documents." %}
    {%- elif thinking %}{%- set head = head + " Think." %}
    {%- endif %}
    {%- if 'citations' in controls and documents %}{%- set head = head + ' Cite.' %}{%- endif %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|im_start|>' + head + '<|endoftext|>
' }}
{%- if tools %}{{- '<|start_of_role|>available_tools<|im_start|>' }}{{- tools | tojson(indent=4) }}{{- '<|endoftext|>
' }}{%- endif %}
{%- if documents %}
    {{- '<|start_of_role|>documents<|im_start|>' }}
    {%- for document in documents %}
        {{- 'Document ' + loop.index0 | string + '
' }}{{- document['text'] }}
        {%- if not loop.last %}{{- '

'}}{%- endif%}
    {%- endfor %}
    {{- '<|endoftext|>
' }}
{%- endif %}
{%- for message in turns %}
    {{- '<|start_of_role|>' + message['role'] + '<|im_start|>' + message['content'] + '<|endoftext|>
' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
        {%- if controls %}{{- ' ' + controls | tojson()}}{%- endif %}
        {{- '<|im_start|>' }}
    {%- endif %}
{%- endfor %}"""

EXAONE4 = """\
{%- if not skip_think is defined %}{%- set skip_think = true %}{%- endif %}
{%- set marks = {'user': '[|user|]\\n', 'assistant': '[|assistant|]\\n', 'system': '[|system|]\\n'} %}
{%- set end = '[|endofturn|]\\n' %}
{%- macro tools_of(tools) %}
    {{- "# Tools" }}
    {%- for tool in tools %}
        {{- "\\n<tool>" }}{{- tool | tojson(ensure_ascii=False) | safe }}{{- "</tool>" }}
    {%- endfor %}
{%- endmacro %}
{%- set ns = namespace(question=messages|length - 1, found=false) %}
{%- for message in messages | reverse %}
    {%- if not ns.found and message.role == "user" %}
        {%- set ns.question = messages|length - loop.index %}{%- set ns.found = true %}
    {%- endif %}
{%- endfor %}
{%- for i in range(messages | length) %}
    {%- set m = messages[i] %}
    {%- set role = m.role %}
    {%- if role not in marks %}{{- raise_exception('no such role: ' ~ role) }}{%- endif %}
    {%- if i == 0 %}
        {%- if role == 'system' %}{{- marks['system'] }}{{- m.content }}
            {%- if tools is defined and tools %}{{- "\\n\\n" }}{{- tools_of(tools) }}{%- endif %}{{- end -}}
            {%- continue %}
        {%- elif tools is defined and tools %}{{- marks['system'] }}{{- tools_of(tools) }}{{- end -}}
        {%- endif %}
    {%- endif %}
    {%- if role == 'assistant' %}
        {{- marks['assistant'] }}
        {%- set body = m.content %}{%- set thought = none %}
        {%- if m.reasoning_content is defined and m.reasoning_content %}{%- set thought = m.reasoning_content %}
        {%- elif m.content and '</think>' in m.content %}
            {%- set parts = m.content.split('</think>') %}
            {%- set thought = parts[0] | replace('<think>', '') | trim %}
            {%- set body = parts[1:] | join('</think>') | trim %}
        {%- endif %}
        {%- if i > ns.question and thought and not skip_think %}
            {{- '<think>\\n' ~ thought ~ '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- body ~ end -}}
    {%- else %}
        {{- marks[role] }}{{- m.content }}{{- end -}}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- marks['assistant'] }}
    {%- if enable_thinking is defined and enable_thinking is true %}
        {{- "<think>\\n" }}
    {%- else %}
        {{- "<think>\\n\\n</think>\\n\\n" }}
    {%- endif %}
{%- endif %}"""

TEMPLATES = {
    "qwen2.5": QWEN25, "qwen3": QWEN3, "r1-distill-qwen": R1, "r1-distill-llama": R1,
    "mistral 0.1": MISTRAL, "mistral 0.3": MISTRAL, "nemo": NEMO, "small 3.1": SMALL,
    "gemma": GEMMA2, "gemma2": GEMMA2, "gemma3": GEMMA3, "gemma3_text": GEMMA3,
    "phi3": PHI3, "phi4": PHI4, "phi4-mini": PHI4_MINI, "smollm3": SMOLLM3,
    "olmo2": OLMO2, "olmo3": OLMO3, "granite": GRANITE, "exaone4": EXAONE4,
}
"""By the name of the tokenizer in family_tokenizers."""
