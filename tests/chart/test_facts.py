"""What the chart's manifests say, fact by fact: the things that an operator relies on."""

import json
import re
from pathlib import Path

import click
import pytest
import yaml

from scheduler.cli import main
from tests.chart.conftest import CASES, CHART, Chart, Manifest, containers, find, serve_arguments

IMMUTABLE = CHART.parents[1] / "tests" / "chart" / "immutable.json"


def args(chart: Chart, values: str = "{}") -> list[str]:
    return next(one for one in containers(chart.render(values)) if one["name"] == "scheduler")["args"]


def flag(arguments: list[str], name: str) -> str | None:
    return next((one.partition("=")[2] for one in arguments if one.partition("=")[0] == f"--{name}"), None)


def pod(manifests: list[Manifest], kind: str = "StatefulSet", name: str = "release-scheduler") -> Manifest:
    return find(manifests, kind, name)["spec"]["template"]


def test_every_flag_that_is_rendered_exists(chart: Chart) -> None:
    seen = set()
    for case in CASES:
        for container in containers(chart.render(case)):
            if container["name"] not in {"scheduler", "verify", "certificate"}:
                continue
            command: click.Command = main
            for word in container["args"]:
                if not word.startswith("--"):
                    assert isinstance(command, click.Group)
                    command = command.commands[word]
            known = {option for parameter in command.params for option in parameter.opts}
            given = {word.partition("=")[0] for word in container["args"] if word.startswith("--")}
            assert given <= known, (case.name, given - known)
            seen |= given
    assert {"--etcd-client-password-file", "--tls-ca-file", "--mode", "--ca-key-file"} <= seen


def test_rendered_settings_are_settings_that_serve_takes(chart: Chart, tmp_path: Path) -> None:
    """Each case's arguments pass the settings' own checks; only what the kubelet fills in is made up."""
    from click.testing import CliRunner

    from scheduler import app
    from scheduler.config import ServeSettings

    taken: list[ServeSettings] = []

    async def run(settings: ServeSettings, *_: object, **__: object) -> int:
        taken.append(settings)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "run", run)
        for case in CASES:
            arguments = serve_arguments(chart.render(case), tmp_path)
            filled = [re.sub(r"\$\((\w+)\)", "release-scheduler-0", one) for one in arguments]
            result = CliRunner().invoke(main, filled)
            assert result.exit_code == 0, (case.name, result.output)
            result = CliRunner().invoke(main, ["config", "check", str(tmp_path / "config.yaml")])
            assert result.exit_code == 0, (case.name, result.output)
    assert len(taken) == len(CASES)
    assert all(one.etcd_client_endpoints and not one.etcd_embed for one in taken)
    everything = taken[[case.name for case in CASES].index("everything-values.yaml")]
    assert (everything.lease_ttl_s, everything.commit_window, everything.drain_timeout_s) == (10, 32_768, 20.0)


def test_the_configuration_is_a_file_that_replicas_mount(chart: Chart) -> None:
    values = "config: {max-message-bytes: 16777216, ack-timeout: 1.5, log-level: debug}"
    data = find(chart.render(values), "ConfigMap", "release-scheduler")["data"]
    settings = yaml.safe_load(data["config.yaml"])
    assert settings["max-message-bytes"] == 16 << 20 and isinstance(settings["max-message-bytes"], int)
    assert (settings["ack-timeout"], settings["log-level"], settings["partitions"]) == (1.5, "debug", 128)
    # What names Secrets or their files is an argument: nothing secret can stand in the file, whatever the values are.
    keys = set(json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"])
    assert not [key for key in keys if re.search("password|token|key|secret", key) and key != "concurrency-key"]


def test_replicas_are_free_and_left_out_while_autoscaling(chart: Chart) -> None:
    for count in (1, 2, 7, 40):
        assert find(chart.render(f"replicas: {count}"), "StatefulSet", "release-scheduler")["spec"]["replicas"] == count
    for values in ("autoscaling: {mode: hpa}", "autoscaling: {mode: keda, keda: {serverAddress: 'http://p'}}"):
        assert "replicas" not in find(chart.render(values), "StatefulSet", "release-scheduler")["spec"]


def test_one_scaler_or_none(chart: Chart) -> None:
    scalers = {"HorizontalPodAutoscaler", "ScaledObject"}
    assert not [one for one in chart.render() if one["kind"] in scalers]
    hpa = find(chart.render("autoscaling: {mode: hpa, hpa: {memoryPercent: 50}}"), "HorizontalPodAutoscaler")
    assert [one["resource"]["name"] for one in hpa["spec"]["metrics"]] == ["cpu", "memory"]
    assert hpa["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": "release-scheduler",
    }
    keda = find(chart.render("autoscaling: {mode: keda, keda: {serverAddress: 'http://p'}}"), "ScaledObject")
    assert [one["name"] for one in keda["spec"]["triggers"]] == ["waiting", "lateness"]


@pytest.mark.parametrize(
    ("values", "spec"),
    [
        ("{}", {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}),
        (
            "podDisruptionBudget: {minAvailable: 2}",
            {"minAvailable": 2, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        ),
        ("podDisruptionBudget: {maxUnavailable: 30%, unhealthyPodEvictionPolicy: ''}", {"maxUnavailable": "30%"}),
        ("replicas: 1", None),
        ("podDisruptionBudget: {enabled: false}", None),
        ("autoscaling: {mode: hpa, minReplicas: 1}", None),
    ],
)
def test_disruption_budget(chart: Chart, values: str, spec: Manifest | None) -> None:
    budgets = [
        one
        for one in chart.render(values)
        if one["kind"] == "PodDisruptionBudget" and not one["metadata"]["name"].endswith("etcd")
    ]
    if spec is None:
        assert budgets == []
    else:
        assert {key: value for key, value in budgets[0]["spec"].items() if key != "selector"} == spec


def test_probes_are_plain_http_and_liveness_never_asks_etcd(chart: Chart) -> None:
    container = pod(chart.render())["spec"]["containers"][0]
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert paths == {
        "startup": {"path": "/livez", "port": "health"},
        "liveness": {"path": "/livez", "port": "health"},
        "readiness": {"path": "/readyz", "port": "health"},
    }
    etcd = pod(chart.render(), name="release-scheduler-etcd")["spec"]["containers"][0]
    assert "tcpSocket" in etcd["livenessProbe"], "a member without a quorum is alive"


def test_services(chart: Chart) -> None:
    manifests = chart.render()
    client, headless = (
        find(manifests, "Service", name)["spec"] for name in ("release-scheduler", "release-scheduler-headless")
    )
    assert client["ports"][0]["appProtocol"] == "kubernetes.io/h2c"
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"] is True
    assert find(manifests, "StatefulSet", "release-scheduler")["spec"]["serviceName"] == "release-scheduler-headless"
    secure = find(chart.render("tls: {mode: certManager}"), "Service", "release-scheduler")["spec"]
    assert secure["ports"][0]["appProtocol"] == "tls"


def test_what_sidecars_are_told(chart: Chart) -> None:
    assert (
        flag(args(chart), "override-broadcast-host-port")
        == "$(POD_NAME).release-scheduler-headless.space.svc.cluster.local:50006"
    )
    # A Deployment's pods have no names in DNS: they are told by address, which the process finds itself.
    assert flag(args(chart, "kind: Deployment"), "override-broadcast-host-port") is None


def test_external_etcd_by_one_value(chart: Chart) -> None:
    values = "etcd: {external: {endpoints: ['https://a:2379', 'https://b:2379']}}"
    manifests = chart.render(values)
    assert not [one for one in manifests if "etcd" in one["metadata"]["name"]]
    assert flag(args(chart, values), "etcd-client-endpoints") == "https://a:2379,https://b:2379"


def test_no_secret_is_an_argument(chart: Chart) -> None:
    """Passwords are files; names of Secrets and their keys never carry a value."""
    values = (CHART / "ci" / "external-etcd-values.yaml").read_text()
    manifests = chart.render(values)
    arguments = args(chart, values)
    assert flag(arguments, "etcd-client-password-file") == "/etc/scheduler/etcd-auth/password"
    assert flag(arguments, "etcd-client-username") == "$(ETCD_USERNAME)"
    assert flag(arguments, "etcd-cert-file") == "/etc/scheduler/etcd-tls/tls.crt"
    spec = pod(manifests)["spec"]
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes["etcd-auth"]["secret"]["items"] == [{"key": "password", "path": "password"}]
    environment = {one["name"]: one for one in spec["containers"][0]["env"]}
    assert environment["ETCD_USERNAME"]["valueFrom"]["secretKeyRef"] == {"name": "etcd-user", "key": "username"}
    assert not [one for one in environment if "PASSWORD" in one]
    assert not [one for one in manifests if one["kind"] == "Secret"]


def test_tls_modes(chart: Chart) -> None:
    assert "--allow-insecure" in args(chart)
    for mode, secret in (
        ("existingSecret, existingSecret: mine", "mine"),
        ("certManager", "release-scheduler-tls"),
        ("selfSigned", "release-scheduler-tls"),
    ):
        manifests = chart.render(f"tls: {{mode: {mode}}}")
        spec = pod(manifests)["spec"]
        (volume,) = [one for one in spec["volumes"] if one["name"] == "tls"]
        assert volume["secret"]["secretName"] == secret
        assert "ca.key" not in json.dumps(spec)
        assert "--allow-insecure" not in spec["containers"][0]["args"]
        assert flag(spec["containers"][0]["args"], "tls-ca-file") == "/etc/scheduler/tls/ca.crt"
    certificate = find(chart.render("tls: {mode: certManager}"), "Certificate", "release-scheduler-tls")["spec"]
    assert certificate["uris"] == ["spiffe://localhost/ns/space/dapr-scheduler"]
    assert "*.release-scheduler-headless.space.svc.cluster.local" in certificate["dnsNames"]
    client = find(chart.render("tls: {mode: certManager}"), "Certificate", "release-scheduler-test-tls")["spec"]
    assert client["uris"] == ["spiffe://public/ns/space/scheduler-verify"]
    sentry = pod(chart.render("tls: {mode: sentry, trustDomain: example}"))["spec"]
    (token,) = [one for one in sentry["volumes"] if one["name"] == "sentry-token"]
    audience = token["projected"]["sources"][0]["serviceAccountToken"]["audience"]
    assert audience == "spiffe://example/ns/space/dapr-sentry"


def test_self_signed_certificates_are_what_they_should_be(chart: Chart) -> None:
    import base64

    from cryptography import x509

    data = find(chart.render("tls: {mode: selfSigned}"), "Secret")["data"]
    leaf, authority = (x509.load_pem_x509_certificate(base64.b64decode(data[name])) for name in ("tls.crt", "ca.crt"))
    leaf.verify_directly_issued_by(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "release-scheduler.space.svc.cluster.local" in names.get_values_for_type(x509.DNSName)


def test_rights_only_where_they_are_needed(chart: Chart) -> None:
    assert not [one for one in chart.render() if "Role" in one["kind"]]
    assert pod(chart.render())["spec"]["automountServiceAccountToken"] is False
    manifests = chart.render("{namespaceController: {enabled: true}, tls: {mode: certManager}}")
    assert find(manifests, "ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]}
    ]
    assert pod(manifests)["spec"]["automountServiceAccountToken"] is True


def test_images(chart: Chart) -> None:
    def image(values: str) -> str:
        return pod(chart.render(values))["spec"]["containers"][0]["image"]

    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    digest = "sha256:" + "a" * 64
    assert image("{}") == f"scheduler:{version}"
    assert image("image: {registry: r, repository: a/b, tag: v2}") == "r/a/b:v2"
    assert image(f"image: {{registry: r, tag: v2, digest: '{digest}'}}") == f"r/scheduler@{digest}"
    mirrored = chart.render(
        "{global: {imageRegistry: m}, image: {registry: r}, etcd: {bundled: {defrag: {enabled: true}}}}"
    )
    assert {one["image"].partition("/")[0] for one in containers(mirrored)} == {"m"}


def test_the_version_is_the_products() -> None:
    from scheduler import __version__

    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert meta["appVersion"] == __version__
    assert f"scheduler:{__version__}" in meta["annotations"]["artifacthub.io/images"]
    etcd = yaml.safe_load((CHART / "values.yaml").read_text())["etcd"]["bundled"]["image"]
    assert f"{etcd['registry']}/{etcd['repository']}:{etcd['tag']}" in meta["annotations"]["artifacthub.io/images"]


def test_labels_and_selectors(chart: Chart) -> None:
    for case in CASES:
        for manifest in chart.render(case):
            if manifest["kind"] == "ConfigMap" and "labels" not in manifest["metadata"]:
                continue  # extraObjects are the user's
            labels = manifest["metadata"]["labels"]
            assert {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/version",
                "helm.sh/chart",
            } <= set(labels)
            if manifest["kind"] in {"StatefulSet", "Deployment"}:
                selector = manifest["spec"]["selector"]["matchLabels"]
                assert set(selector) == {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}
                assert selector.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()


def test_pods_roll_for_what_they_read_and_for_nothing_else(chart: Chart) -> None:
    def checksum(values: str) -> str:
        return pod(chart.render(values))["metadata"]["annotations"]["checksum/config"]

    assert checksum("replicas: 3") == checksum("{replicas: 9, service: {type: LoadBalancer}}")
    # Running replicas take it over.
    assert checksum("config: {log-level: debug}") == checksum("{}")
    assert (
        len(
            {
                checksum(values)
                for values in ("{}", "config: {lease-ttl: 9}", "etcd: {root: /x}", "tls: {mode: selfSigned}")
            }
        )
        == 4
    )


def test_what_cannot_change_in_an_upgrade_has_not(chart: Chart) -> None:
    """The fields that Kubernetes does not let change, against those of the charts before: a difference needs a new major version."""
    found = {}
    for values in ("{}", "kind: Deployment"):
        for manifest in chart.render(values):
            spec = manifest.get("spec", {})
            if manifest["kind"] in {"StatefulSet", "Deployment"}:
                keys = ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy")
                found[f"{manifest['kind']}/{manifest['metadata']['name']}"] = {
                    key: spec[key] for key in keys if key in spec
                }
    assert found == json.loads(IMMUTABLE.read_text())


def test_escape_hatches_arrive(chart: Chart) -> None:
    manifests = chart.render((CHART / "ci" / "everything-values.yaml").read_text())
    template = pod(manifests, name="jobs")
    spec = template["spec"]
    container = spec["containers"][0]
    assert (
        template["metadata"]["labels"]["pod"] == "label" and template["metadata"]["annotations"]["pod"] == "annotation"
    )
    assert [one["name"] for one in spec["containers"]] == ["scheduler", "beside"] and spec["initContainers"][0][
        "name"
    ] == "before"
    assert {"A", "B"} <= {one["name"] for one in container["env"]} and container["envFrom"] == [
        {"configMapRef": {"name": "more"}}
    ]
    assert container["args"][-1] == "--in-flight-per-stream=1024"
    assert "--config-file=/etc/scheduler/config/config.yaml" in container["args"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "2"]
    assert (spec["runtimeClassName"], spec["priorityClassName"], spec["schedulerName"]) == (
        "gvisor",
        "system-cluster-critical",
        "mine",
    )
    assert spec["topologySpreadConstraints"][0]["topologyKey"] == "rack"
    assert {one["name"] for one in spec["imagePullSecrets"]} == {"mirror", "mine"}
    assert {"jobs-extra", "jobs-text"} <= {one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap"}
    own = [one for one in manifests if not one["metadata"]["name"].startswith(("jobs-extra", "jobs-text"))]
    assert {one["metadata"]["namespace"] for one in own} == {"platform"}
    assert {one["metadata"]["labels"]["cost-center"] for one in own} == {"42"}
    assert {one["metadata"]["annotations"]["owner"] for one in own} == {"platform"}


def test_spread_and_grace_by_default(chart: Chart) -> None:
    spec = pod(chart.render())["spec"]
    assert [one["topologyKey"] for one in spec["topologySpreadConstraints"]] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    assert spec["topologySpreadConstraints"][0]["matchLabelKeys"] == ["controller-revision-hash"]
    assert pod(chart.render("kind: Deployment"), "Deployment")["spec"]["topologySpreadConstraints"][0][
        "matchLabelKeys"
    ] == ["pod-template-hash"]
    assert (
        spec["terminationGracePeriodSeconds"] == 30
        and find(chart.render(), "StatefulSet", "release-scheduler")["spec"]["podManagementPolicy"] == "Parallel"
    )


def test_the_hook_of_helm_test(chart: Chart) -> None:
    test = find(chart.render(), "Pod")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert test["spec"]["containers"][0]["args"][:2] == ["job", "verify"]
    assert test["spec"]["containers"][0]["image"] == pod(chart.render())["spec"]["containers"][0]["image"]
    none = chart.render("tls: {mode: existingSecret, existingSecret: x}")
    assert not [one for one in none if one["kind"] == "Pod"]
