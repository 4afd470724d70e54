{{- define "gateway.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end }}

{{- define "gateway.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{- define "gateway.secret" -}}
{{ .Values.admin.existingSecret | default (printf "%s-admin" (include "gateway.name" .)) }}
{{- end }}

{{/* The paths and ports that manifests and configuration have in common: declared here and nowhere else. */}}
{{- define "gateway.fixed" -}}
requests: 8080
admin: 9900
config: /etc/gateway
state: /var/lib/gateway
token: /run/secrets/canary-gateway
{{- end }}

{{/* Refuse what the schema cannot say, with the reason. */}}
{{- define "gateway.check" -}}
{{- if gt (int .Values.replicas) 1 }}
{{- fail (printf "replicas: %d gateways would each decide about the canary on a part of the evidence, and could decide differently; use replicas: 1 and raise config.workers and resources for more traffic" (int .Values.replicas)) }}
{{- end }}
{{- range tuple "listen" "state_dir" }}
{{- if hasKey $.Values.config . }}{{ fail (printf "config.%s is set by the chart: remove it" .) }}{{ end }}
{{- end }}
{{- range tuple "listen" "token_file" "token_env" }}
{{- if hasKey ($.Values.config.admin | default dict) . }}{{ fail (printf "config.admin.%s is set by the chart (admin.existingSecret names the token): remove it" .) }}{{ end }}
{{- end }}
{{- if dig "admin" "tls" "client_ca_file" "" .Values.config }}
{{- fail "config.admin.tls.client_ca_file: the kubelet's probes have no client certificate, so the pod would never be ready; use tokens, or a proxy in front of the admin port" }}
{{- end }}
{{- if and (eq .Values.mode "sidecar") (not .Values.sidecar.containers) }}
{{- fail "mode: sidecar needs the model's containers in sidecar.containers" }}
{{- end }}
{{- if and (eq .Values.mode "edge") .Values.sidecar.containers }}
{{- fail "sidecar.containers is of use in mode: sidecar alone" }}
{{- end }}
{{- range .Values.sidecar.containers }}
{{- if eq .name "gateway" }}{{ fail "sidecar.containers: the name gateway is the gateway's own container's; choose another" }}{{ end }}
{{- end }}
{{- end }}

{{/* What takes a new start when it changes: the gateway refuses it in a reload. */}}
{{- define "gateway.needsStart" -}}
{{- toJson (dict "workers" (dig "workers" 1 .Values.config) "admin" (.Values.config.admin | default dict)) | sha256sum }}
{{- end }}

{{- define "gateway.file" -}}
{{- $fixed := include "gateway.fixed" . | fromYaml }}
{{- $admin := merge (dict "listen" (printf "0.0.0.0:%d" (int $fixed.admin)) "token_file" (printf "%s/token" $fixed.token)) (deepCopy (.Values.config.admin | default dict)) }}
{{- toYaml (merge (dict "listen" (printf "0.0.0.0:%d" (int $fixed.requests)) "state_dir" $fixed.state "admin" $admin) (deepCopy .Values.config)) }}
{{- end }}

{{- define "gateway.drainSeconds" -}}
{{- $limits := .Values.config.limits | default dict }}
{{- add (ceil (dig "drain_timeout_s" 30 $limits)) (ceil (dig "drain_grace_s" 0 $limits)) }}
{{- end }}

{{/* The pod's end: preStop (the gateway's, or the model's), the drain, and ten seconds for what comes after it. */}}
{{- define "gateway.graceSeconds" -}}
{{- add (int .Values.drain.preStopSeconds) (include "gateway.drainSeconds" . | int) 10 }}
{{- end }}

{{- define "gateway.preStop" -}}
preStop:
  sleep: {seconds: {{ .Values.drain.preStopSeconds }}}
{{- end }}

{{- define "gateway.probe" -}}
httpGet:
  path: {{ .path }}
  port: admin
  {{- if dig "admin" "tls" "" .root.Values.config }}
  scheme: HTTPS
  {{- end }}
{{- end }}

{{- define "gateway.container" -}}
{{- $fixed := include "gateway.fixed" . | fromYaml -}}
name: gateway
image: {{ include "gateway.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, {{ $fixed.config }}/gateway.yaml]
{{- if eq .Values.mode "sidecar" }}
# An init container that never ends: it starts before the model's containers and ends after them.
restartPolicy: Always
{{- end }}
ports:
  - {name: requests, containerPort: {{ $fixed.requests }}, protocol: TCP}
  - {name: admin, containerPort: {{ $fixed.admin }}, protocol: TCP}
env:
  # For `kubectl exec`: the commands find the token here, the gateway itself reads the file.
  - name: GATEWAY_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ include "gateway.secret" . }}, key: {{ .Values.admin.secretKey }}}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
# Begun: workers route by control's table. Whether stable's endpoints are well is no part of it.
startupProbe:
  {{- include "gateway.probe" (dict "path" "/readyz" "root" .) | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 60
# The data plane. Half a minute: a control process that is started again takes less, and workers serve meanwhile.
readinessProbe:
  {{- include "gateway.probe" (dict "path" "/readyz" "root" .) | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 6
# The supervisor. It replaces what dies and what hangs by itself within 15 s; only when it does not is the pod started anew.
livenessProbe:
  {{- include "gateway.probe" (dict "path" "/healthz" "root" .) | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- if eq .Values.mode "edge" }}
# A sidecar needs none: it is told to end when the model's containers have.
lifecycle:
  {{- include "gateway.preStop" . | nindent 2 }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  # A directory, not a subPath: that is how a changed ConfigMap reaches the gateway.
  - {name: config, mountPath: {{ $fixed.config }}, readOnly: true}
  - {name: token, mountPath: {{ $fixed.token }}, readOnly: true}
  - {name: state, mountPath: {{ $fixed.state }}}
  - {name: temporary, mountPath: /tmp}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "gateway.modelContainer" -}}
{{- $container := deepCopy .container }}
{{- if not (hasKey $container "lifecycle") }}
{{- $_ := set $container "lifecycle" (include "gateway.preStop" .root | fromYaml) }}
{{- end }}
{{- toYaml $container }}
{{- end }}
