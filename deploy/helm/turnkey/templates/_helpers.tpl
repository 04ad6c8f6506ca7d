{{/* Parts that several templates share. */}}

{{/* The prefix of all names. It leaves room for suffixes, and for those that Kubernetes adds to the names of Jobs. */}}
{{- define "turnkey.fullname" -}}
{{- $name := contains "turnkey" .Release.Name | ternary .Release.Name (printf "%s-turnkey" .Release.Name) }}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The labels that select pods. They cannot change in an upgrade. */}}
{{- define "turnkey.selectorLabels" -}}
app.kubernetes.io/name: turnkey
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "turnkey.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "turnkey.selectorLabels" . }}
{{- end }}

{{- define "turnkey.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "turnkey.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "turnkey.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* What all pods have in common, the service account aside. */}}
{{- define "turnkey.pod" -}}
automountServiceAccountToken: false
# Turnkey reads its settings from environment variables. Without this, Kubernetes would add variables for every Service
# of the namespace.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* What all containers have in common. */}}
{{- define "turnkey.container" -}}
image: {{ include "turnkey.image" . }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
{{- end }}

{{/* DATABASE_URL from a Secret: takes `database` or `migration` of the values. */}}
{{- define "turnkey.databaseUrl" -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .secretKey }}
{{- end }}

{{/* The settings of all commands. */}}
{{- define "turnkey.env" -}}
{{- with .Values.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . }}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  {{- if kindIs "map" $value }}
  valueFrom:
    {{- toYaml $value | nindent 4 }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The attributes of telemetry, as OTEL_RESOURCE_ATTRIBUTES has them. */}}
{{- define "turnkey.resourceAttributes" -}}
{{- $pairs := list }}
{{- range $name, $value := .Values.telemetry.resourceAttributes }}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) }}
{{- end }}
{{- join "," $pairs }}
{{- end }}

{{/* The environment of a command that is not a server. */}}
{{- define "turnkey.jobEnv" -}}
{{- with include "turnkey.resourceAttributes" . }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ . | quote }}
{{- end }}
{{- include "turnkey.env" . }}
{{- end }}

{{/* The pod of a CronJob: takes the root context as `root`, the name of the command, and its arguments. */}}
{{- define "turnkey.cronJobPod" -}}
metadata:
  labels:
    {{- include "turnkey.selectorLabels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "turnkey.serviceAccountName" .root }}
  {{- include "turnkey.pod" .root | nindent 2 }}
  containers:
    - name: {{ .name }}
      {{- include "turnkey.container" .root | nindent 6 }}
      args:
        {{- toYaml .args | nindent 8 }}
      env:
        {{- include "turnkey.databaseUrl" .root.Values.database | nindent 8 }}
        {{- with include "turnkey.jobEnv" .root }}
        {{- . | trim | nindent 8 }}
        {{- end }}
      resources:
        {{- toYaml .root.Values.jobResources | nindent 8 }}
      {{- with .root.Values.extraVolumeMounts }}
      volumeMounts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- with .root.Values.extraVolumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* A Service of this release has these names in the cluster: takes the name of the Service and the namespace. */}}
{{- define "turnkey.dnsNames" -}}
- {{ .name }}
- {{ .name }}.{{ .namespace }}
- {{ .name }}.{{ .namespace }}.svc
- {{ .name }}.{{ .namespace }}.svc.cluster.local
{{- end }}
