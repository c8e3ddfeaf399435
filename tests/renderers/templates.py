"""Chat templates of the tests' own, in the manner of the families that models use."""

from __future__ import annotations

CHATML = """{% for message in messages %}
{%- if loop.first and message.role != "system" %}
<|im_start|>system
You help.<|im_end|>
{% endif %}
<|im_start|>{{ message['role'] }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA_LIKE = """{{- bos_token }}
{%- set ns = namespace(turn=0) %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{#- The date goes first. #}
{{- "<|header|>system<|end|>\\n\\nToday: " + date_string + "<|eot|>" }}
{%- for message in messages %}
    {%- if message.role not in ["system", "user", "assistant", "tool"] %}
        {{- raise_exception("no such role: " ~ message.role) }}
    {%- endif %}
    {%- if message.role == "user" %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- endif %}
    {{- '<|header|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant<|end|>' ~ ns.turn ~ '\\n\\n' }}
{%- endif %}"""

WITH_TOOLS = """{%- if tools %}
<tools>
{%- for tool in tools %}

{{ tool | tojson }}
{%- endfor %}

{{ tools[0].function.parameters | tojson(indent=4) }}
</tools>
{%- endif %}
{%- macro header(role, name=none) -%}
[{{ role }}{% if name %} {{ name | upper }}{% endif %}]
{%- endmacro %}
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls %}
{{ header("call") }}
        {%- for call in message.tool_calls %}
            {%- set call = call.function %}
{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}
        {%- endfor %}
    {%- elif message.role == "tool" %}
{{ header("tool", message.name) }} {{ message.content }} {{ message.tool_call_id }}
    {%- else %}
        {%- generation %}
{{ header(message.role) }} {{ message.content.split('</think>')[-1].lstrip('\\n') }}
        {%- endgeneration %}
    {%- endif %}
    {%- if loop.index0 > 98 %}{% break %}{% endif %}
{%- endfor %}
{%- for pair in {"a": 1}.items() | list + [("b", 2)] %}
{{ "%s=%d" | format(*pair) }}{{ "{:>4}".format(pair[1]) }}
{%- endfor %}
{{ messages | map(attribute="role") | unique | join(", ") }}
{{ (messages | first).content | replace("a", "o") | indent(2) }}
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- if add_generation_prompt %}[assistant]{{ eos_token }}{% endif %}"""

ALL = {"chatml": CHATML, "llama-like": LLAMA_LIKE, "tools": WITH_TOOLS}
