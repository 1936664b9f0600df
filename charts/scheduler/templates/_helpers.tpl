{{- define "scheduler.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Names of pods and hooks are made from it, so it stays short. */ -}}
{{- define "scheduler.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "scheduler.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "scheduler.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- /* Takes (dict "root" $ "component" "...") */ -}}
{{- define "scheduler.selector" -}}
app.kubernetes.io/name: {{ include "scheduler.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "scheduler.labels" -}}
{{ include "scheduler.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: scheduler
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* metadata of an object: (dict "root" $ "name" "..." "component" "..." ["labels" {...}] ["annotations" {...}]) */ -}}
{{- define "scheduler.metadata" -}}
name: {{ .name }}
namespace: {{ include "scheduler.namespace" .root }}
labels:
  {{- include "scheduler.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* (dict "root" $ "image" .Values.image "tag" "default tag") */ -}}
{{- define "scheduler.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "scheduler.pullSecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "scheduler.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "scheduler.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "scheduler.address" -}}
{{ include "scheduler.fullname" . }}.{{ include "scheduler.namespace" . }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{- define "scheduler.headlessDomain" -}}
{{ include "scheduler.fullname" . }}-headless.{{ include "scheduler.namespace" . }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{- define "scheduler.etcdDomain" -}}
{{ include "scheduler.fullname" . }}-etcd.{{ include "scheduler.namespace" . }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{- define "scheduler.etcdBundled" -}}
{{- if not .Values.etcd.external.endpoints }}true{{ end -}}
{{- end -}}

{{- define "scheduler.etcdEndpoints" -}}
{{- if include "scheduler.etcdBundled" . -}}
{{- $endpoints := list -}}
{{- range $index := until (int .Values.etcd.bundled.replicas) -}}
{{- $endpoints = append $endpoints (printf "%s://%s-etcd-%d.%s:2379" (include "scheduler.etcdScheme" $) (include "scheduler.fullname" $) $index (include "scheduler.etcdDomain" $)) -}}
{{- end -}}
{{- join "," $endpoints -}}
{{- else -}}
{{- join "," .Values.etcd.external.endpoints -}}
{{- end -}}
{{- end -}}

{{- /* Secret with the server's certificate; empty: none is mounted. */ -}}
{{- define "scheduler.tlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" -}}
{{ .Values.tls.existingSecret }}
{{- else if has .Values.tls.mode (list "certManager" "selfSigned") -}}
{{ include "scheduler.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{- /* Secret with a client's certificate for `helm test`. */ -}}
{{- define "scheduler.testSecret" -}}
{{- if .Values.helmTest.clientSecret -}}
{{ .Values.helmTest.clientSecret }}
{{- else if eq .Values.tls.mode "certManager" -}}
{{ include "scheduler.fullname" . }}-test-tls
{{- end -}}
{{- end -}}

{{- /* Whether the chart can make the test's pod: it needs plaintext or a client certificate. */ -}}
{{- define "scheduler.testable" -}}
{{- if and .Values.helmTest.enabled (or (has .Values.tls.mode (list "disabled" "selfSigned")) (include "scheduler.testSecret" .)) }}true{{ end -}}
{{- end -}}

{{- define "scheduler.dnsNames" -}}
{{- $name := include "scheduler.fullname" . -}}
{{- $namespace := include "scheduler.namespace" . -}}
{{- list "localhost" $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (include "scheduler.address" .) (printf "*.%s" (include "scheduler.headlessDomain" .)) | toJson -}}
{{- end -}}

{{- /* What pods roll for; what no pod reads, such as the number of replicas, is left out, and so is what running replicas take over. */ -}}
{{- define "scheduler.checksum" -}}
{{- dict "config" (omit .Values.config "log-level") "etcd" (include "scheduler.etcdEndpoints" .) "root" .Values.etcd.root "tls" .Values.tls "args" .Values.extraArgs | toJson | sha256sum -}}
{{- end -}}

{{- define "scheduler.peers" -}}
{{- if . }}
{{- toYaml . }}
{{- else -}}
- namespaceSelector: {}
{{- end }}
{{- end -}}

{{- /* A self-signed authority of cert-manager, and its issuer, both called NAME-ca: (dict "root" $ "component" "..." "name" "...") */ -}}
{{- define "scheduler.authority" -}}
{{- $metadata := omit . "name" -}}
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  {{- include "scheduler.metadata" (merge (dict "name" (printf "%s-self-signed" .name)) $metadata) | nindent 2 }}
spec:
  selfSigned: {}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  {{- include "scheduler.metadata" (merge (dict "name" (printf "%s-ca" .name)) $metadata) | nindent 2 }}
spec:
  isCA: true
  commonName: {{ .name }}-ca
  secretName: {{ .name }}-ca
  duration: 87600h
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: {{ .name }}-self-signed, kind: Issuer, group: cert-manager.io}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  {{- include "scheduler.metadata" (merge (dict "name" (printf "%s-ca" .name)) $metadata) | nindent 2 }}
spec:
  ca:
    secretName: {{ .name }}-ca
{{- end -}}

{{- /* What is made once and found again by upgrades cannot be made by what renders without a cluster (Argo CD): it would be another each time. */ -}}
{{- define "scheduler.selfSignedGuard" -}}
{{- if and .Release.IsUpgrade (not (lookup "v1" "Namespace" "" (include "scheduler.namespace" .))) -}}
{{- fail "tls.mode selfSigned needs `helm install` and `helm upgrade` with access to the cluster: take certManager or existingSecret" -}}
{{- end -}}
{{- end -}}

{{- /* Whether the bundled etcd speaks TLS, to the replicas and among its members. */ -}}
{{- define "scheduler.etcdTls" -}}
{{- if and (include "scheduler.etcdBundled" .) (ne .Values.etcd.bundled.tls.mode "disabled") }}true{{ end -}}
{{- end -}}

{{- define "scheduler.etcdScheme" -}}
{{ ternary "https" "http" (eq (include "scheduler.etcdTls" .) "true") }}
{{- end -}}

{{- /* Secret with the certificate that the bundled etcd's members and their clients show. */ -}}
{{- define "scheduler.etcdTlsSecret" -}}
{{- if eq .Values.etcd.bundled.tls.mode "existingSecret" -}}
{{ .Values.etcd.bundled.tls.existingSecret }}
{{- else -}}
{{ include "scheduler.fullname" . }}-etcd-tls
{{- end -}}
{{- end -}}

{{- /* Members are looked up by name and told by address, so every name that one may have is listed. */ -}}
{{- define "scheduler.etcdDnsNames" -}}
{{- $name := printf "%s-etcd" (include "scheduler.fullname" .) -}}
{{- $names := list "localhost" -}}
{{- range $index := until 5 -}}
{{- $names = append $names (printf "%s-%d.%s" $name $index (include "scheduler.etcdDomain" $)) -}}
{{- end -}}
{{- $names | toJson -}}
{{- end -}}
