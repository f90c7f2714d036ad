{{- define "reknit.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "reknit.account" -}}
{{- .Values.serviceAccount.name | default (include "reknit.name" .) -}}
{{- end -}}

{{- define "reknit.selector" -}}
app.kubernetes.io/name: reknit-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Not "managed-by: reknit": that is what the operator selects the objects of jobs by. */ -}}
{{- define "reknit.labels" -}}
{{ include "reknit.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: reknit
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "reknit.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 1).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "reknit.rules" -}}
- apiGroups: [reknit.dev]
  resources: [distributedtrainingjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [reknit.dev]
  resources: [distributedtrainingjobs/status, distributedtrainingjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods, services, secrets]
  verbs: [get, list, watch, create, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "reknit.needs-monitoring" -}}
{{- if not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor need the Prometheus operator's types: install it first, or disable both" -}}
{{- end -}}
{{- end -}}
