{{- /* A StatefulSet's name and a hash of ten characters make a label together, which holds 63. */ -}}
{{- define "sidecar.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "sidecar.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sidecar.labels" -}}
{{ include "sidecar.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sidecar.metadata" -}}
metadata:
  name: {{ include "sidecar.name" . }}
  labels:
    {{- include "sidecar.labels" . | nindent 4 }}
{{- end }}

{{- define "sidecar.probe" -}}
httpGet: { path: {{ .path }}, port: metrics, scheme: {{ ternary "HTTPS" "HTTP" .tls }} }
{{- end }}

{{- /* Not a default of values.yaml: Helm would add it to labels that somebody chose instead. */ -}}
{{- define "sidecar.clients" -}}
{{- toYaml (.Values.networkPolicy.clients | default (dict "activation-sidecar/client" "true")) }}
{{- end }}
