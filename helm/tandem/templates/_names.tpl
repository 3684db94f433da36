{{/* Names, labels, images and settings that several templates share. */}}

{{- define "tandem.operator" -}}
{{ .Release.Name }}-operator
{{- end -}}

{{- define "tandem.etcd" -}}
{{ .Release.Name }}-etcd
{{- end -}}

{{/* Labels of all objects of a part, and what selects its pods: (list $ "operator"). */}}
{{- define "tandem.labels" -}}
app.kubernetes.io/name: tandem-{{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/part-of: tandem
{{- end -}}

{{- define "tandem.metadata" -}}
name: {{ (index . 0).Release.Name }}-{{ index . 2 }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "tandem.labels" . | nindent 2 }}
{{- end -}}

{{/* The sandbox is in a namespace of its own: its pods need more than that of the operator allows. */}}
{{- define "tandem.sandbox" -}}
{{ .Release.Name }}-sandbox
{{- end -}}

{{- define "tandem.sandboxMetadata" -}}
name: {{ include "tandem.sandbox" . }}
namespace: {{ include "tandem.sandbox" . }}
labels:
  {{- include "tandem.labels" (list . "sandbox") | nindent 2 }}
{{- end -}}

{{/* The image of a part: (list $ "operator"). */}}
{{- define "tandem.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $tag := $images.tag | default (index . 0).Chart.AppVersion -}}
{{- $prefix := "" -}}
{{- with $images.registry }}{{ $prefix = printf "%s/" (trimSuffix "/" .) }}{{ end -}}
{{- get $images (index . 1) | default (printf "%standem-%s:%s" $prefix (index . 1) $tag) -}}
{{- end -}}

{{- define "tandem.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tandem.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{/* What both kinds of pods take from the values: (list $ .Values.operator "operator"). */}}
{{- define "tandem.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tandem.labels" (list $root (index . 2)) | nindent 8 }}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* "true" if the chart installs an etcd. */}}
{{- define "tandem.hasEtcd" -}}
{{- if not .Values.etcd.external.endpoints }}true{{ end -}}
{{- end -}}

{{- define "tandem.usesTls" -}}
{{- if ne .Values.etcd.tls.source "none" }}true{{ end -}}
{{- end -}}

{{- define "tandem.passwordSecret" -}}
{{- .Values.etcd.passwordSecret | default (printf "%s-password" (include "tandem.etcd" .)) -}}
{{- end -}}

{{- define "tandem.serverSecret" -}}
{{- .Values.etcd.tls.serverSecret | default (printf "%s-server" (include "tandem.etcd" .)) -}}
{{- end -}}

{{- define "tandem.clientSecret" -}}
{{- .Values.etcd.tls.clientSecret | default (printf "%s-client" (include "tandem.etcd" .)) -}}
{{- end -}}

{{/* Secrets with what the operator shows to etcd, separated by spaces; empty: etcd asks for nothing. */}}
{{- define "tandem.etcdSecrets" -}}
{{- $secrets := list -}}
{{- if include "tandem.hasEtcd" . -}}
{{- if include "tandem.usesTls" . }}{{ $secrets = append $secrets (include "tandem.clientSecret" .) }}{{ end -}}
{{- if .Values.etcd.authentication }}{{ $secrets = append $secrets (include "tandem.passwordSecret" .) }}{{ end -}}
{{- else if .Values.etcd.external.secret -}}
{{- $secrets = append $secrets .Values.etcd.external.secret -}}
{{- end -}}
{{- join " " $secrets -}}
{{- end -}}

{{/* settings.yaml of the operator. */}}
{{- define "tandem.settings" -}}
{{- $etcd := printf "%s.%s.svc:2379" (include "tandem.etcd" .) .Release.Namespace -}}
{{- $settings := dict
      "etcd_endpoints" (.Values.etcd.external.endpoints | default $etcd)
      "lease_namespace" .Release.Namespace
      "lease_name" (include "tandem.operator" .)
      "trainer_image" (include "tandem.image" (list . "trainer"))
      "sidecar_image" (include "tandem.image" (list . "sidecar"))
      "rollout_image" (include "tandem.image" (list . "rollout")) -}}
{{- if include "tandem.etcdSecrets" . }}{{ $_ := set $settings "etcd_dir" "/etc/tandem/etcd" }}{{ end -}}
{{- if and (include "tandem.hasEtcd" .) .Values.etcd.authentication -}}
{{- $_ := set $settings "etcd_enable_authentication" true -}}
{{- end -}}
{{- with .Values.namespaces }}{{ $_ := set $settings "namespaces" (join "," .) }}{{ end -}}
{{- if .Values.monitoring.enabled }}{{ $_ := set $settings "pod_monitor" true }}
{{- $_ := set $settings "monitoring_interval" .Values.monitoring.interval -}}
{{- with .Values.monitoring.labels }}{{ $_ := set $settings "monitoring_labels" . }}{{ end -}}
{{- end -}}
{{- with .Values.monitoring.namespace }}{{ $_ := set $settings "monitoring_namespace" . }}{{ end -}}
{{- toYaml (merge $settings (.Values.settings | default dict)) -}}
{{- end -}}

{{/* The names in the certificate of etcd's members, separated by spaces. Wildcards would need reverse lookups. */}}
{{- define "tandem.etcdNames" -}}
{{- $name := include "tandem.etcd" . -}}
{{- $names := list "localhost" -}}
{{- range $domain := list "svc" "svc.cluster.local" -}}
{{- $names = append $names (printf "%s.%s.%s" $name $.Release.Namespace $domain) -}}
{{- range until 5 -}}
{{- $names = append $names (printf "%s-%d.%s-members.%s.%s" $name . $name $.Release.Namespace $domain) -}}
{{- end -}}
{{- end -}}
{{- join " " $names -}}
{{- end -}}
