{{- define "headroom.labels" -}}
app.kubernetes.io/name: headroom
{{- if not .Values.kustomize }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- end }}

{{- define "headroom.image" -}}
{{- if .Values.kustomize -}}
headroom
{{- else if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "headroom.kubeSchedulerImage" -}}
{{- $cluster := regexFind "^v[0-9]+[.][0-9]+[.][0-9]+" .Capabilities.KubeVersion.Version -}}
{{ .Values.scheduler.kubeScheduler.image }}:{{ .Values.scheduler.kubeScheduler.tag | default $cluster }}
{{- end }}

{{- define "headroom.schedulerName" -}}
{{ if eq .Values.scheduler.mode "own" }}headroom{{ else }}default-scheduler{{ end }}
{{- end }}

{{- /* Whether the mutating policies are part of the release: not empty when they are. */ -}}
{{- define "headroom.mutating" -}}
{{- if eq .Values.admission "policy" -}}
yes
{{- else if and (eq .Values.admission "auto") (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy") -}}
yes
{{- end -}}
{{- end }}

{{- define "headroom.inline" -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }}, {{ end }}{{ $key }}: {{ get $ $key }}{{ end -}} }
{{- end }}

{{- /* Pods are made anew when a setting changes. kustomize does it by the ConfigMap's name. */ -}}
{{- define "headroom.checksum" -}}
headroom.dev/settings: {{ include (print .Template.BasePath "/settings.yaml") . | sha256sum | trunc 16 }}
{{- end }}
