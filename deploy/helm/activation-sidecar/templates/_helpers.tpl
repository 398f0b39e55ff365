{{- define "sidecar.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name }}{{ end -}}
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
