{{- /* What the schema cannot say: values that have gone, and values that contradict what is installed. */ -}}
{{- define "scheduler.guards" -}}
{{- range $gone := .Files.Get "files/removed.yaml" | fromYamlArray -}}
{{- $node := $.Values -}}
{{- range $part := splitList "." $gone.value -}}
{{- if and (kindIs "map" $node) (hasKey $node $part) -}}
{{- $node = index $node $part -}}
{{- else -}}
{{- $node = "\x00absent" -}}
{{- end -}}
{{- end -}}
{{- if ne (toString $node) "\x00absent" -}}
{{- fail (printf "%s has gone since %s: %s (see UPGRADING.md)" $gone.value $gone.since $gone.instead) -}}
{{- end -}}
{{- end -}}
{{- $drain := float64 (default 8 (index .Values.config "drain-timeout")) -}}
{{- if le (float64 .Values.terminationGracePeriodSeconds) $drain -}}
{{- fail (printf "terminationGracePeriodSeconds is %v: it must exceed config.drain-timeout (%v s), or pods are killed before they have handed their partitions over" .Values.terminationGracePeriodSeconds $drain) -}}
{{- end -}}
{{- if and (ne .Values.autoscaling.mode "none") (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- fail (printf "autoscaling.maxReplicas is %v, less than autoscaling.minReplicas (%v)" .Values.autoscaling.maxReplicas .Values.autoscaling.minReplicas) -}}
{{- end -}}
{{- if include "scheduler.etcdBundled" . -}}
{{- with lookup "apps/v1" "StatefulSet" (include "scheduler.namespace" .) (printf "%s-etcd" (include "scheduler.fullname" .)) -}}
{{- if ne (int .spec.replicas) (int $.Values.etcd.bundled.replicas) -}}
{{- fail (printf "etcd.bundled.replicas is %v, and the installed etcd has %v members: members of a running etcd are added and removed with etcdctl, not by this chart" $.Values.etcd.bundled.replicas .spec.replicas) -}}
{{- end -}}
{{- $scheme := include "scheduler.etcdScheme" $ -}}
{{- range $argument := (first .spec.template.spec.containers).args -}}
{{- if and (hasPrefix "--initial-advertise-peer-urls=" $argument) (not (contains (printf "=%s://" $scheme) $argument)) -}}
{{- fail (printf "etcd.bundled.tls.mode is %s, and the members of the installed etcd know each other by other URLs: how a running etcd changes is in UPGRADING.md" $.Values.etcd.bundled.tls.mode) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
