"""Who may talk to whom under `networkPolicy.enabled`: the rendered policies, read as Kubernetes reads them, give a table."""

from typing import NamedTuple

import pytest

from tests.chart.conftest import Chart, Manifest, pod_specs

SPACE = "space"
COMPONENT = "app.kubernetes.io/component"


class Pod(NamedTuple):
    """An end of a connection; without a namespace it is no pod of the cluster's."""

    namespace: str
    labels: dict[str, str]
    ports: dict[str, int]


STRANGERS = {
    "app": Pod("shop", {"app": "shop"}, {}),
    "prometheus": Pod("monitoring", {"app": "prometheus"}, {}),
    "neighbour": Pod(SPACE, {"app": "neighbour"}, {"4001": 4001}),
    "outside": Pod("", {}, {"443": 443, "2379": 2379, "4001": 4001}),
    "dns": Pod("kube-system", {"k8s-app": "kube-dns"}, {"53": 53}),
    "sentry": Pod(SPACE, {"app": "dapr-sentry"}, {"50001": 50001}),
}


def pods(manifests: list[Manifest]) -> dict[str, Pod]:
    """Those that the chart makes, by component, and strangers."""
    found = dict(STRANGERS)
    for manifest in manifests:
        for metadata, spec in pod_specs(manifest):
            ports = {port["name"]: port["containerPort"] for one in spec["containers"] for port in one.get("ports", ())}
            one = Pod(manifest["metadata"]["namespace"], metadata["labels"], ports)
            name = one.labels[COMPONENT]
            assert name not in found or found[name].labels.items() <= one.labels.items(), name
            found.setdefault(name, one)
    return found


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this test does not know expressions"
    return selector.get("matchLabels", {}).items() <= labels.items()


def is_peer(peer: Manifest, namespace: str, pod: Pod) -> bool:
    assert peer and set(peer) <= {"podSelector", "namespaceSelector"}, peer
    if not pod.namespace:
        return False
    if "namespaceSelector" in peer:
        of_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
    else:
        of_namespace = pod.namespace == namespace
    return of_namespace and selects(peer.get("podSelector", {}), pod.labels)


def lets(policies: list[Manifest], way: str, pod: Pod, other: Pod, port: tuple[str, int], protocol: str) -> bool:
    """Whether the policies of a pod let this in or out; a pod without policies is open."""
    peers = {"Ingress": "from", "Egress": "to"}[way]
    mine = [
        one
        for one in policies
        if one["metadata"]["namespace"] == pod.namespace
        and way in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], pod.labels)
    ]
    return not mine or any(
        any(entry["port"] in port and entry.get("protocol", "TCP") == protocol for entry in rule["ports"])
        and (not rule.get(peers) or any(is_peer(peer, pod.namespace, other) for peer in rule[peers]))
        for one in mine
        for rule in one["spec"].get(way.lower(), ())
    )


def table(manifests: list[Manifest]) -> dict[str, str]:
    """For each end, to which ports of which others it gets; who has no policy gets anywhere that lets it in."""
    policies = [one for one in manifests if one["kind"] == "NetworkPolicy"]
    ends = pods(manifests)
    found = {}
    for name, source in ends.items():
        reached = [
            f"{target_name}:{port[0]}"
            for target_name, target in sorted(ends.items())
            for port in sorted(target.ports.items())
            # What strangers do among each other is none of ours.
            if name not in STRANGERS or target_name not in STRANGERS
            if lets(policies, "Egress", source, target, port, "UDP" if port[1] == 53 else "TCP")
            and lets(policies, "Ingress", target, source, port, "TCP")
        ]
        found[name] = " ".join(reached)
    return {name: reached for name, reached in found.items() if reached}


OPEN = "scheduler:grpc scheduler:metrics"
MONITORED = f"etcd:metrics {OPEN}"
OUTSIDE = ("app", "dns", "neighbour", "prometheus", "sentry")

BY_DEFAULT = {
    **dict.fromkeys(OUTSIDE, MONITORED),
    "scheduler": "dns:53 etcd:client",
    "etcd": "dns:53 etcd:client etcd:peer",
    "etcd-maintenance": "dns:53 etcd:client",
    "test": "dns:53 scheduler:grpc",
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param("networkPolicy: {enabled: true}", BY_DEFAULT, id="by default"),
        pytest.param(
            """
            networkPolicy:
              enabled: true
              clients: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]
              monitoring: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}, podSelector: {matchLabels: {app: prometheus}}}]
            etcd: {bundled: {snapshots: {enabled: true}}}
            """,
            {**BY_DEFAULT, **dict.fromkeys(OUTSIDE), "app": "scheduler:grpc", "prometheus": "etcd:metrics scheduler:metrics"},
            id="named clients and monitoring",
        ),
        pytest.param(
            """
            networkPolicy: {enabled: true}
            etcd: {external: {endpoints: ['https://a:4001', 'https://b']}}
            metrics: {enabled: false}
            tls: {mode: sentry}
            """,
            {**dict.fromkeys(OUTSIDE, "scheduler:grpc"), "scheduler": "dns:53 neighbour:4001 outside:4001 outside:443 sentry:50001"},
            id="external etcd and Sentry",
        ),
        pytest.param(
            """
            networkPolicy: {enabled: true, etcd: [{podSelector: {matchLabels: {app: neighbour}}}]}
            etcd: {external: {endpoints: ['https://a:4001']}}
            """,
            {**dict.fromkeys(OUTSIDE, OPEN), "scheduler": "dns:53 neighbour:4001", "test": "dns:53 scheduler:grpc"},
            id="external etcd in a known place",
        ),
        pytest.param(
            """
            networkPolicy: {enabled: true}
            tls: {mode: sentry}
            namespaceController: {enabled: true}
            """,
            {
                **dict.fromkeys(OUTSIDE, MONITORED),
                "scheduler": "dns:53 etcd:client outside:443 sentry:50001",
                "etcd": "dns:53 etcd:client etcd:peer",
                "etcd-maintenance": "dns:53 etcd:client",
            },
            id="the API server",
        ),
    ],
)  # fmt: skip
def test_who_may_talk_to_whom(chart: Chart, values: str, expected: dict[str, str | None]) -> None:
    assert table(chart.render(values)) == {name: reached for name, reached in expected.items() if reached}


def test_without_policies_all_is_open(chart: Chart) -> None:
    found = table(chart.render("{}"))
    assert found["outside"] == "etcd:client etcd:metrics etcd:peer scheduler:grpc scheduler:health scheduler:metrics"
