"""Templates in Go's language for the chat formats that vendors publish with their models."""

from __future__ import annotations

CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""

LLAMA3 = """{{ if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}{{ if .Prompt }}<|start_header_id|>user<|end_header_id|>

{{ .Prompt }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>

{{ .Response }}<|eot_id|>"""

GEMMA = """
{{- range $i, $m := .Messages }}
{{- if eq .Role "user" }}<start_of_turn>user
{{ if and (eq $i 1) $.System }}{{ $.System }}

{{ end }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}<end_of_turn>
{{ end }}
{{- end }}<start_of_turn>model
"""

PHI3 = """{{- range .Messages -}}
<|{{ .Role }}|>
{{ .Content }}<|end|>
{{ end -}}
<|assistant|>
"""

COMMAND_R = """{{ if .System }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>
{{- .System }}<|END_OF_TURN_TOKEN|>{{ end }}
{{- if .Prompt }}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>
{{- .Prompt }}<|END_OF_TURN_TOKEN|>{{ end }}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>
{{- .Response }}<|END_OF_TURN_TOKEN|>"""

DEEPSEEK_R1 = """
{{- if .System }}{{ .System }}{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|User|>{{ .Content }}
{{- else if eq .Role "assistant" }}<|Assistant|>
{{- if and $.IsThinkSet (and $last .Thinking) }}<think>
{{ .Thinking }}
</think>

{{ end }}{{ .Content }}{{ if not $last }}<|end|>{{ end }}
{{- end }}
{{- if and $last (ne .Role "assistant") }}<|Assistant|>
{{- if and $.IsThinkSet (not $.Think) }}<think>

</think>

{{ end }}
{{- end }}
{{- end }}"""

GRANITE = """
{{- define "turn" }}<|start_of_role|>{{ .Role }}<|end_of_role|>{{ .Content }}<|end_of_text|>
{{ end }}
{{- if .Tools }}<|start_of_role|>available_tools<|end_of_role|>{{ .Tools }}<|end_of_text|>
{{ end }}
{{- range .Messages }}
{{- if eq .Role "tool" }}<|start_of_role|>tool_response<|end_of_role|>{{ .Content }}<|end_of_text|>
{{ else if .ToolCalls }}<|start_of_role|>assistant<|end_of_role|><|tool_call|>
{{- range $i, $c := .ToolCalls }}{{ if $i }},{{ end }}{{ json .Function }}{{ end }}<|end_of_text|>
{{ else }}{{ template "turn" . }}{{ end }}
{{- end }}<|start_of_role|>assistant<|end_of_role|>"""

MISTRAL = """
{{- range $i, $_ := .Messages }}
{{- $rest := slice $.Messages $i }}
{{- if eq .Role "user" }}
{{- if and (eq (len $rest) 1) $.Tools }}[AVAILABLE_TOOLS] {{ $.Tools }}[/AVAILABLE_TOOLS]{{ end -}}
[INST] {{ if and $.System (eq (len $rest) 1) }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}</s>
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{- end }}]</s>
{{- end }}
{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ .Content }}}[/TOOL_RESULTS]
{{- end }}
{{- end }}"""

QWEN25 = """
{{- if or .System .Tools }}<|im_start|>system
{{ .System }}
{{- if .Tools }}

# Tools

<tools>
{{- range .Tools }}
{{ . }}
{{- end }}
</tools>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{ if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}{{ end }}
{{- if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and $last (ne .Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- end }}"""

LLAMA31 = """
{{- define "header" }}<|start_header_id|>{{ . }}<|end_header_id|>

{{ end }}
{{- if or .System .Tools }}{{ template "header" "system" }}
{{- if .Tools }}Environment: ipython

{{ end }}{{ .System }}<|eot_id|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}{{ template "header" "user" }}
{{- if and $.Tools $last }}Functions you may call:
{{ range $.Tools }}
{{- printf "- %s(" .Function.Name }}
{{- range $name, $p := .Function.Parameters.Properties }}{{ $name }}: {{ toTypeScriptType $p }}
{{- end }})
{{ end }}
{{ end }}{{ .Content }}<|eot_id|>
{{- else if eq .Role "assistant" }}{{ template "header" "assistant" }}
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}
{{- end }}{{ .Content }}{{ if not $last }}<|eot_id|>{{ end }}
{{- else if eq .Role "tool" }}{{ template "header" "ipython" }}{{ .Content }}<|eot_id|>
{{- end }}
{{- if and $last (ne .Role "assistant") }}{{ template "header" "assistant" }}{{ end }}
{{- end }}"""
