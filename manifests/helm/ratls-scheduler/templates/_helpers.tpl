{{- define "ratls.name" -}}
{{- printf "%s-scheduler" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "ratls.selector" -}}
app.kubernetes.io/name: ratls-scheduler
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ratls.labels" -}}
{{ include "ratls.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Of the database: both stand in its URL. */ -}}
{{- define "ratls.database.host" -}}
{{- regexReplaceAll "^[^@]+@([a-z0-9.-]+).*$" .Values.database.url "${1}" -}}
{{- end }}
{{- define "ratls.database.port" -}}
{{- regexReplaceAll "^[^@]+@[a-z0-9.-]+(:([0-9]+))?/.*$" .Values.database.url "${2}" | default "5432" -}}
{{- end }}

{{- /* What a schema cannot say. */ -}}
{{- define "ratls.check" -}}
{{- range $name, $content := .Values.agreements -}}
  {{- $file := fromJson $content -}}
  {{- if or (hasKey $file "Error") (not (kindIs "slice" $file.versions)) (empty $file.versions) -}}
    {{- fail (printf "agreements.%s: not the content of an agreement file; say --set-file agreements.%s=policy.agreement.json" $name $name) -}}
  {{- end -}}
{{- end -}}
{{- end }}
