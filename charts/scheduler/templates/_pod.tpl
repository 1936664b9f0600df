{{- define "scheduler.args" -}}
- serve
- --id=$(POD_NAME)
- --listen-address={{ .Values.listenAddress }}
- --port={{ .Values.ports.grpc }}
{{- if eq .Values.kind "StatefulSet" }}
- --override-broadcast-host-port=$(POD_NAME).{{ include "scheduler.headlessDomain" . }}:{{ .Values.ports.grpc }}
{{- end }}
- --healthz-listen-address={{ .Values.listenAddress }}
- --healthz-port={{ .Values.ports.health }}
- --enable-metrics={{ .Values.metrics.enabled }}
- --metrics-listen-address={{ .Values.listenAddress }}
- --metrics-port={{ .Values.ports.metrics }}
- --etcd-embed=false
- --etcd-client-endpoints={{ include "scheduler.etcdEndpoints" . }}
- --etcd-data-dir=/var/lib/scheduler
- --etcd-root={{ .Values.etcd.root }}
- --etcd-max-txn-ops={{ int64 .Values.etcd.maxTxnOps }}
- --etcd-max-request-bytes={{ int64 .Values.etcd.maxRequestBytes }}
{{- if not (include "scheduler.etcdBundled" .) }}
{{- with .Values.etcd.external }}
{{- if .existingSecret }}
- --etcd-client-username=$(ETCD_USERNAME)
- --etcd-client-password-file=/etc/scheduler/etcd-auth/password
{{- end }}
{{- if .tlsSecret }}
- --etcd-ca-file=/etc/scheduler/etcd-tls/{{ .tlsKeys.ca }}
{{- if .tlsKeys.cert }}
- --etcd-cert-file=/etc/scheduler/etcd-tls/{{ .tlsKeys.cert }}
- --etcd-key-file=/etc/scheduler/etcd-tls/{{ .tlsKeys.key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "scheduler.etcdTls" . }}
{{- with .Values.etcd.bundled.tls.keys }}
- --etcd-ca-file=/etc/scheduler/etcd-tls/{{ .ca }}
- --etcd-cert-file=/etc/scheduler/etcd-tls/{{ .cert }}
- --etcd-key-file=/etc/scheduler/etcd-tls/{{ .key }}
{{- end }}
{{- end }}
{{- if .Values.namespaceController.enabled }}
- --mode=kubernetes
{{- end }}
{{- if eq .Values.tls.mode "disabled" }}
- --allow-insecure
{{- else }}
- --tls-enabled=true
- --trust-domain={{ .Values.tls.trustDomain }}
- --app-trust-domains={{ join "," .Values.tls.appTrustDomains }}
{{- if include "scheduler.tlsSecret" . }}
- --tls-cert-file=/etc/scheduler/tls/{{ .Values.tls.keys.cert }}
- --tls-key-file=/etc/scheduler/tls/{{ .Values.tls.keys.key }}
- --tls-ca-file=/etc/scheduler/tls/{{ .Values.tls.keys.ca }}
{{- else if .Values.tls.sentry.address }}
- --sentry-address={{ .Values.tls.sentry.address }}
{{- end }}
{{- end }}
- --config-file=/etc/scheduler/config/config.yaml
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "scheduler.probe" -}}
httpGet:
  path: {{ .path }}
  port: health
{{ toYaml .timing }}
{{- end -}}

{{- /* The pod template that the StatefulSet and the Deployment share. */ -}}
{{- define "scheduler.podTemplate" -}}
{{- $component := dict "root" . "component" "scheduler" -}}
metadata:
  labels:
    {{- include "scheduler.labels" $component | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "scheduler.checksum" . }}
    kubectl.kubernetes.io/default-container: scheduler
    {{- if and .Values.metrics.enabled .Values.metrics.scrapeAnnotations }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ .Values.ports.metrics | quote }}
    prometheus.io/path: /metrics
    {{- end }}
    {{- with merge (dict) .Values.podAnnotations .Values.metrics.annotations .Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "scheduler.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.namespaceController.enabled }}
  {{- include "scheduler.pullSecrets" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.schedulerName }}
  schedulerName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "scheduler.spread" . | nindent 2 }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: scheduler
      image: {{ include "scheduler.image" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- include "scheduler.args" . | nindent 8 }}
      env:
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: NAMESPACE
          value: {{ include "scheduler.namespace" . }}
        - name: DAPR_HOST_IP
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        {{- if and (not (include "scheduler.etcdBundled" .)) .Values.etcd.external.existingSecret }}
        - name: ETCD_USERNAME
          valueFrom:
            secretKeyRef:
              name: {{ .Values.etcd.external.existingSecret }}
              key: {{ .Values.etcd.external.keys.username }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: grpc
          containerPort: {{ .Values.ports.grpc }}
        - name: health
          containerPort: {{ .Values.ports.health }}
        {{- if .Values.metrics.enabled }}
        - name: metrics
          containerPort: {{ .Values.ports.metrics }}
        {{- end }}
      startupProbe:
        {{- include "scheduler.probe" (dict "path" "/livez" "timing" .Values.probes.startup) | nindent 8 }}
      livenessProbe:
        {{- include "scheduler.probe" (dict "path" "/livez" "timing" .Values.probes.liveness) | nindent 8 }}
      readinessProbe:
        {{- include "scheduler.probe" (dict "path" "/readyz" "timing" .Values.probes.readiness) | nindent 8 }}
      {{- with .Values.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: state
          mountPath: /var/lib/scheduler
        - name: config
          mountPath: /etc/scheduler/config
          readOnly: true
        {{- range include "scheduler.secretVolumes" . | fromYamlArray }}
        - name: {{ .name }}
          mountPath: {{ .mountPath }}
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    # The lease file lies here: it outlives the container, so that a restarted replica takes its lease back at once.
    - name: state
      emptyDir: {}
    - name: config
      configMap:
        name: {{ include "scheduler.fullname" . }}
    {{- range include "scheduler.secretVolumes" . | fromYamlArray }}
    - name: {{ .name }}
      {{- toYaml .source | nindent 6 }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- /* Secrets and the like that are mounted: name, mountPath, source. */ -}}
{{- define "scheduler.secretVolumes" -}}
{{- with include "scheduler.tlsSecret" . }}
- name: tls
  mountPath: /etc/scheduler/tls
  source:
    secret:
      secretName: {{ . }}
      # An authority's key, where there is one, is not the replicas' business.
      items:
        {{- range values $.Values.tls.keys | sortAlpha }}
        - {key: {{ . }}, path: {{ . }}}
        {{- end }}
{{- end }}
{{- if eq .Values.tls.mode "sentry" }}
- name: trust-anchors
  mountPath: /var/run/secrets/dapr.io/tls
  source:
    configMap:
      name: {{ .Values.tls.sentry.trustBundleConfigMap }}
- name: sentry-token
  mountPath: /var/run/secrets/dapr.io/sentrytoken
  source:
    projected:
      sources:
        - serviceAccountToken:
            path: token
            audience: spiffe://{{ .Values.tls.trustDomain }}/ns/{{ include "scheduler.namespace" . }}/dapr-sentry
            expirationSeconds: 600
{{- end }}
{{- if include "scheduler.etcdTls" . }}
- name: etcd-tls
  mountPath: /etc/scheduler/etcd-tls
  source:
    secret:
      secretName: {{ include "scheduler.etcdTlsSecret" . }}
      items:
        {{- range values .Values.etcd.bundled.tls.keys | sortAlpha }}
        - {key: {{ . }}, path: {{ . }}}
        {{- end }}
{{- end }}
{{- if not (include "scheduler.etcdBundled" .) }}
{{- with .Values.etcd.external }}
{{- if .existingSecret }}
- name: etcd-auth
  mountPath: /etc/scheduler/etcd-auth
  source:
    secret:
      secretName: {{ .existingSecret }}
      items:
        - key: {{ .keys.password }}
          path: password
{{- end }}
{{- if .tlsSecret }}
- name: etcd-tls
  mountPath: /etc/scheduler/etcd-tls
  source:
    secret:
      secretName: {{ .tlsSecret }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "scheduler.spread" -}}
{{- if .Values.topologySpread.enabled }}
{{- $selector := dict "matchLabels" (include "scheduler.selector" (dict "root" . "component" "scheduler") | fromYaml) -}}
{{- $revision := ternary "controller-revision-hash" "pod-template-hash" (eq .Values.kind "StatefulSet") -}}
topologySpreadConstraints:
  {{- if .Values.topologySpread.constraints }}
  {{- range .Values.topologySpread.constraints }}
  - {{- toYaml (merge (dict) . (dict "labelSelector" $selector "maxSkew" 1)) | nindent 4 }}
  {{- end }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      {{- toYaml $selector | nindent 6 }}
    matchLabelKeys: [{{ $revision }}]
  {{- end }}
  {{- end }}
{{- end }}
{{- end -}}
