"""Values that cannot be are refused by name, in both helms."""

import pytest

from tests.chart.conftest import HELMS, Chart

REFUSED = [
    ("replica: 3", "replica"),
    ("replicas: 0", "replicas"),
    ("replicas: three", "replicas"),
    ("kind: DaemonSet", "kind"),
    ("image: {pullPolicy: Sometimes}", "pullPolicy"),
    ("image: {digest: latest}", "digest"),
    ("image: {repository: ''}", "repository"),
    ("config: {lease-tll: 5}", "lease-tll"),
    ("config: {lease-ttl: fast}", "lease-ttl"),
    ("config: {log-level: loud}", "log-level"),
    ("config: {port: 1}", "port"),
    ("extraArgs: [serve]", "extraArgs"),
    ("extraEnv: [{value: x}]", "name"),
    ("extraEnv: {A: b}", "extraEnv"),
    ("extraVolumeMounts: [{name: x}]", "mountPath"),
    ("ports: {grpc: 70000}", "grpc"),
    ("service: {type: ExternalName}", "type"),
    ("service: {ipFamilies: [IPv5]}", "ipFamilies"),
    ("tls: {mode: on}", "mode"),
    ("tls: {mode: existingSecret}", "existingSecret"),
    ("tls: {appTrustDomains: []}", "appTrustDomains"),
    ("namespaceController: {enabled: true}", "tls"),
    ("etcd: {external: {endpoints: ['etcd-0:2379']}}", "endpoints"),
    ("etcd: {external: {endpoints: 'http://etcd:2379'}}", "endpoints"),
    ("etcd: {external: {password: secret}}", "password"),
    ("etcd: {root: scheduler}", "root"),
    ("etcd: {maxTxnOps: 1}", "maxTxnOps"),
    ("etcd: {bundled: {replicas: 2}}", "replicas"),
    ("etcd: {bundled: {quotaBackendBytes: 1000}}", "quotaBackendBytes"),
    ("etcd: {bundled: {persistence: {size: big}}}", "size"),
    ("etcd: {bundled: {autoCompaction: {mode: never}}}", "mode"),
    ("podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}", "maxUnavailable"),
    ("autoscaling: {mode: both}", "mode"),
    ("autoscaling: {mode: keda}", "keda"),
    ("metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}", "podMonitor"),
    ("metrics: {serviceMonitor: {interval: often}}", "interval"),
    ("metrics: {prometheusRule: {overrides: {SchedulerDown: {threshhold: 1}}}}", "threshhold"),
    ("podSecurityContext: {runAsUser: root}", "runAsUser"),
    (
        "terminationGracePeriodSeconds: 5",
        "terminationGracePeriodSeconds is 5: it must exceed config.drain-timeout (8 s)",
    ),
    ("autoscaling: {mode: hpa, minReplicas: 5, maxReplicas: 2}", "autoscaling.maxReplicas is 2, less than"),
    ("replicaCount: 3", "replicaCount has gone since 0.1.0: the number of replicas is `replicas` (see UPGRADING.md)"),
    ("etcd: {enabled: true}", "etcd.enabled has gone since 0.1.0"),
    ("autoscaling: {enabled: false}", "autoscaling.enabled has gone since 0.1.0"),
]


@pytest.mark.parametrize(("values", "name"), REFUSED, ids=[values for values, _ in REFUSED])
def test_refused_by_name(chart: Chart, values: str, name: str) -> None:
    for helm in HELMS:
        assert name in chart.refusal(values, helm), helm


def test_a_value_for_a_subchart_or_an_umbrella_passes(chart: Chart) -> None:
    assert chart.render("global: {storageClass: fast}")
