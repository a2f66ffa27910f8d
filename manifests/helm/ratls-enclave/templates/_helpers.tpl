{{- define "ratls.name" -}}
{{- printf "%s-enclave" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "ratls.selector" -}}
app.kubernetes.io/name: ratls-enclave
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ratls.labels" -}}
{{ include "ratls.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* An agreement is another object for each policy, so that a new version restarts the pod. */ -}}
{{- define "ratls.agreement" -}}
{{ include "ratls.name" . }}-agreement-{{ .Values.policyDigest | trimPrefix "sha256:" | trunc 8 }}
{{- end }}

{{- /* Labels that node-feature-discovery gives. A runtime class places its pods by itself. */ -}}
{{- define "ratls.node" -}}
{{- if eq .Values.tee "sgx" -}}
intel.feature.node.kubernetes.io/sgx: "true"
{{- else if not .Values.tdx.runtimeClass -}}
feature.node.kubernetes.io/cpu-security.tdx.protected: "true"
{{- else -}}
{}
{{- end -}}
{{- end }}

{{- /* Of every container, whatever it runs. */ -}}
{{- define "ratls.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
{{- end }}

{{- /* The policy that the parties signed, read for what an operator would otherwise say twice. */ -}}
{{- define "ratls.policy" -}}
{{- $file := fromJson .Values.agreement -}}
{{- (last $file.versions).payload | toString | b64dec | fromToml | toJson -}}
{{- end }}
{{- /* Rows that are sealed arrive beside the attested connection, on the next port. */ -}}
{{- define "ratls.sealed" -}}
{{- if eq (dig "transport" "bulk" "" (include "ratls.policy" . | fromJson)) "sealed" }}yes{{ end -}}
{{- end }}

{{- /* What a schema cannot say: how values belong together. */ -}}
{{- define "ratls.check" -}}
{{- $values := .Values -}}
{{- if eq $values.tee "sgx" -}}
  {{- if hasKey $values "tdx" }}{{ fail "tdx: tee is sgx; drop it, or say tee: tdx" }}{{ end -}}
  {{- if not (hasKey $values "aesmd") }}{{ fail "aesmd: missing; tee sgx needs `image`, the quoting service in the pod, or `claim`, the node's socket" }}{{ end -}}
  {{- if eq (hasKey $values.aesmd "image") (hasKey $values.aesmd "claim") }}{{ fail "aesmd: name one of `image`, the quoting service in the pod, and `claim`, the node's socket" }}{{ end -}}
  {{- if and (hasKey $values.aesmd "claim") (hasKey $values.aesmd "group") }}{{ fail "aesmd.group: the node's own service opens /dev/sgx_provision; drop it" }}{{ end -}}
{{- else -}}
  {{- if hasKey $values "aesmd" }}{{ fail "aesmd: tee is tdx; drop it, or say tee: sgx" }}{{ end -}}
  {{- if not (hasKey $values "tdx") }}{{ fail "tdx: missing; tee tdx needs `reports`, a claim of the guest's folder for quotes" }}{{ end -}}
{{- end -}}
{{- if or (hasPrefix "127." $values.collateral.address) (eq $values.collateral.address "::1") -}}
  {{- fail "collateral.address: within a pod this is the pod; name an address that the node's network reaches" -}}
{{- end -}}
{{- $file := fromJson $values.agreement -}}
{{- if or (hasKey $file "Error") (not (kindIs "slice" $file.versions)) (empty $file.versions) -}}
  {{- fail "agreement: not the content of an agreement file; say --set-file agreement=policy.agreement.json" -}}
{{- end -}}
{{- $digest := printf "sha256:%s" ((last $file.versions).payload | toString | b64dec | sha256sum) -}}
{{- if ne $digest $values.policyDigest -}}
  {{- fail (printf "policyDigest: the agreement's newest version is %s, and %s was named" $digest $values.policyDigest) -}}
{{- end -}}
{{- $policy := include "ratls.policy" . | fromJson -}}
{{- if ne (dig "platform" "root" "" $policy) "intel" -}}
  {{- fail (printf "agreement: its policy names the root %s, and an enclave in production believes intel alone" (dig "platform" "root" "" $policy)) -}}
{{- end -}}
{{- $tees := list -}}
{{- range $policy.enclave }}{{ $tees = append $tees .tee }}{{ end -}}
{{- if not (has $values.tee $tees) -}}
  {{- fail (printf "tee: the policy lists enclaves of %s, and none of %s" ($tees | uniq | join ", ") $values.tee) -}}
{{- end -}}
{{- end }}
