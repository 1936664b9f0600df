"""Settings: one table, four ways in the order flag, environment, file, default; and what is said of those that cannot be."""

import json
from dataclasses import fields
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from scheduler import app, logs
from scheduler.cli import config_file, main
from scheduler.cli.config import COMMANDS
from scheduler.config import LOG_LEVELS, ServeSettings, SidecarSettings, settings_table
from scheduler.sidecar import app as sidecar_app
from tests.support.processes import ROOT


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


@pytest.fixture
def taken(monkeypatch) -> list:
    """The settings that the process would run with, instead of running."""
    found: list = []

    async def run(settings, *_: object, **__: object) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(sidecar_app, "run", run)
    return found


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "scheduler.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_first_that_is_there_wins(taken, file) -> None:
    path = file("partitions: 16\nlease-ttl: 16\nport: 16\nid: of-the-file\n")
    environment = {"SCHEDULER_SERVE_LEASE_TTL": "17", "SCHEDULER_SERVE_PORT": "17", "SCHEDULER_SERVE_CONFIG_FILE": path}
    ran = invoke("serve", "--port=18", **environment)
    assert ran.exit_code == 0, ran.output
    (found,) = taken
    assert (found.partitions, found.lease_ttl_s, found.port, found.id) == (16, 17, 18, "of-the-file")
    assert found.commit_window == ServeSettings.__dataclass_fields__["commit_window"].default
    ran = invoke("config", "show", "--origin", "-o", "json", "serve", "--port=18", **environment)
    shown = json.loads(ran.output)
    assert shown["partitions"] == {"value": 16, "origin": f"file {path}:1"}
    assert shown["lease-ttl"] == {"value": 17, "origin": "environment SCHEDULER_SERVE_LEASE_TTL"}
    assert shown["port"] == {"value": 18, "origin": "flag"} and shown["commit-window"]["origin"] == "default"


def test_every_kind_of_value_can_stand_in_the_file(taken, file) -> None:
    path = file(
        "etcd-client-endpoints: [http://a:1, http://b:2]\napp-trust-domains: x,y\nallow-insecure: true\nack-timeout: 1\n"
        "etcd-ca-file: /ca\nlog-level: debug\nmode: standalone\nkubeconfig:\n"
    )
    assert invoke("serve", "--config-file", path).exit_code == 0
    (found,) = taken
    assert found.etcd_client_endpoints == ("http://a:1", "http://b:2") and found.app_trust_domains == ("x", "y")
    assert (found.allow_insecure, found.ack_timeout_s, found.etcd_ca_file) == (True, 1.0, Path("/ca"))
    assert (found.etcd_embed, found.log_level, found.kubeconfig) == (False, "debug", None)


def test_the_sidecars_file_stands_before_and_behind_run(taken, file) -> None:
    path = file(
        "app-id: of-the-file\nmax-body-size: 8Mi\nscheduler-host-address: [a:1, b]\ndapr-block-shutdown-duration: 2s\n"
    )
    for arguments in (
        ["--config-file", path],
        ["--config-file", path, "run", "--", "true"],
        ["run", "--config-file", path, "--", "true"],
    ):
        assert invoke("sidecar", *arguments).exit_code == 0
    assert len(taken) == 3
    for found in taken:
        assert (found.app_id, found.max_body_size_bytes, found.block_shutdown_s) == ("of-the-file", 8 << 20, 2.0)
        assert found.scheduler_host_address == ("a:1", "b:50006")
    taken.clear()
    # A flag before `run` goes before the environment, too.
    invoke(
        "sidecar",
        "--app-id=flag",
        "run",
        "--",
        "true",
        SCHEDULER_SIDECAR_APP_ID="variable",
        SCHEDULER_SIDECAR_APP_PORT="7",
    )
    assert (taken[0].app_id, taken[0].app_port) == ("flag", 7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lease-tll: 5", ":1: lease-tll: there is no such setting; did you mean lease-ttl?"),
        ("lease_ttl: 5", ":1: lease_ttl: there is no such setting; did you mean lease-ttl?"),
        ("zzzzzzzz: 5", ":1: zzzzzzzz: there is no such setting"),
        ("\nport: fast", ":2: port is 'fast', allowed is a whole number"),
        ("port: true", ":1: port is True, allowed is a whole number"),
        ("id: 5", ":1: id is 5, allowed is a text"),
        ("tls-enabled: 'yes'", ":1: tls-enabled is 'yes', allowed is true or false"),
        ("etcd-client-endpoints: [1]", ":1: etcd-client-endpoints is [1], allowed is a list of texts"),
        ("log-level: loud", ":1: log-level: 'loud' is not one of"),
        ("port: 1\nid: a\nport: 2", ":3: port stands on line 1 already"),
        ("etcd-client-password: hush", ":1: etcd-client-password: a secret has no place in this file"),
        ("- port", ":1: settings are keys with values"),
        ("a: [", "is no YAML"),
        ("a: !!python/object:os.system x", "is no YAML"),
        ("config-file: x", ":1: config-file: there is no such setting"),
        ("partitions: 0", "--partitions is 0, allowed are 1 to 65536"),
        ("etcd-space-quota: lots", ":1: etcd-space-quota: 'lots' is no quantity"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(taken, file, text: str, told: str) -> None:
    path = file(text)
    for arguments in (["serve", "--config-file", path], ["config", "check", path]):
        ran = invoke(*arguments)
        assert ran.exit_code == 1 and told in ran.output, ran.output
        assert "hush" not in ran.output and "Traceback" not in ran.output
    assert taken == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SCHEDULER_SERVE_LEASE_TLL", "no such setting; did you mean SCHEDULER_SERVE_LEASE_TTL?"),
        ("SCHEDULER_SERVE_HELTHZ_PORT", "no such setting; did you mean SCHEDULER_SERVE_HEALTHZ_PORT?"),
        ("SCHEDULER_SERVE_ZZZZZZZZ", "no such setting\n"),
    ],
)
def test_a_variable_that_is_misspelt_is_told(taken, file, name: str, told: str) -> None:
    path = file("port: 7\n")
    for arguments in (["serve"], ["config", "check", path], ["config", "show", "serve"]):
        ran = invoke(*arguments, **{name: "5"})
        assert ran.exit_code == 1 and f"{name}: there is {told}" in ran.output, ran.output
    ran = invoke("serve", SCHEDULER_SERVE_LEASE_TLL="5", SCHEDULER_SERVE_PROT="7")
    assert "LEASE_TTL?" in ran.output and "SCHEDULER_SERVE_PORT?" in ran.output
    # Another command's are its own matter, and so is help.
    assert invoke("sidecar", "--app-id=x", **{name: "5"}).exit_code == 0
    assert invoke("serve", "--help", **{name: "5"}).exit_code == 0
    assert len(taken) == 1


def test_a_sidecars_variables_are_checked_once_for_all_its_commands(taken) -> None:
    for arguments in (["sidecar", "--app-id=x"], ["sidecar", "run", "--app-id=x", "--", "true"]):
        ran = invoke(*arguments, SCHEDULER_SIDECAR_APP_PROT="7")
        assert ran.exit_code == 1 and ran.output.count("did you mean SCHEDULER_SIDECAR_APP_PORT?") == 1, ran.output
        ran = invoke(*arguments, SCHEDULER_SIDECAR_RUN_APP_PORT="7", SCHEDULER_SIDECAR_CONFIG="x")
        assert ran.exit_code == 0, ran.output


def test_variables_that_kubernetes_sets_for_services_are_none_of_ours(taken) -> None:
    """A Service `scheduler` gives SCHEDULER_PORT; one that is called scheduler-serve-x or scheduler-sidecar has our very prefix."""
    variables = {}
    for service in ("SCHEDULER", "SCHEDULER_SERVER", "SCHEDULER_SERVE_X", "SCHEDULER_SIDECAR_X"):
        variables |= {
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "50006",
            f"{service}_SERVICE_PORT_GRPC": "50006",
            f"{service}_PORT": "tcp://10.0.0.1:50006",
            f"{service}_PORT_50006_TCP": "tcp://10.0.0.1:50006",
            f"{service}_PORT_50006_TCP_PROTO": "tcp",
            f"{service}_PORT_50006_TCP_PORT": "50006",
            f"{service}_PORT_50006_TCP_ADDR": "10.0.0.1",
        }
    for arguments in (["serve"], ["sidecar", "--app-id=x"]):
        ran = invoke(*arguments, **variables)
        assert ran.exit_code == 0, ran.output
    assert len(taken) == 2


def test_all_that_is_wrong_is_told_at_once(file) -> None:
    ran = invoke("config", "check", file("prot: 1\nport: x\nlease-ttl: 5\n"))
    assert ran.output.count("scheduler.yaml:") == 2
    ran = invoke("config", "check", file("port: 1\nlease-ttl: 5\n"))
    assert ran.exit_code == 0 and "2 settings of `scheduler serve`" in ran.output
    ran = invoke("config", "check", "--command=sidecar", file("app-port: 3500\n"))
    assert ran.exit_code == 1 and "the sidecar's own port" in ran.output
    ran = invoke("config", "check", "/nonexistent")
    assert ran.exit_code == 1 and "/nonexistent: No such file" in ran.output


def test_secrets_come_from_files_or_as_the_references_injector_sets_them(taken, tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("hush\n")
    assert invoke("sidecar", "--app-id=x", f"--dapr-api-token-file={token}", APP_API_TOKEN="hash").exit_code == 0
    assert (taken[0].dapr_api_token, taken[0].app_api_token) == ("hush", "hash")
    for arguments, environment in (
        (["--dapr-api-token=hush"], {}),
        ([], {"SCHEDULER_SIDECAR_DAPR_API_TOKEN": "hush"}),
        ([f"--dapr-api-token-file={token}"], {"DAPR_API_TOKEN": "hush"}),
        (["--dapr-api-token-file=/nonexistent"], {}),
    ):
        ran = invoke("sidecar", "--app-id=x", *arguments, **environment)
        assert ran.exit_code == 1 and "--dapr-api-token-file" in ran.output and "hush" not in ran.output
    ran = invoke("serve", SCHEDULER_SERVE_ETCD_CLIENT_PASSWORD="hush", SCHEDULER_SERVE_ETCD_CLIENT_ENDPOINTS="x")
    assert ran.exit_code == 1 and "--etcd-client-password-file" in ran.output and "hush" not in ran.output
    for output in ("table", "json", "yaml"):
        ran = invoke("config", "show", "--origin", "-o", output, "sidecar", "--app-id=x", DAPR_API_TOKEN="hush")
        assert "***" in ran.output and "environment DAPR_API_TOKEN" in ran.output and "hush" not in ran.output


def test_what_is_shown_can_be_a_file(taken, file) -> None:
    ran = invoke("config", "show", "-o", "yaml", "serve", "--port=7", "--etcd-client-endpoints=http://a,http://b")
    assert ran.exit_code == 0
    path = file(ran.output)
    assert invoke("config", "check", path).exit_code == 0
    assert invoke("serve", "--config-file", path).exit_code == 0
    assert taken[0].port == 7 and taken[0].etcd_client_endpoints == ("http://a", "http://b")


@pytest.mark.parametrize("name", ["serve", "sidecar"])
def test_the_schema_is_of_the_same_table(name: str) -> None:
    schema = json.loads(invoke("config", "schema", name).output)
    keys = set(schema["properties"])
    table = {row.flag for row in settings_table({"serve": ServeSettings, "sidecar": SidecarSettings}[name])}
    secrets = {key[: -len("-file")] for key in table if key.endswith("-file")}
    assert table - secrets <= keys and not secrets & keys
    assert all(one["description"] for one in schema["properties"].values())
    assert schema["properties"]["log-level"]["enum"] == list(LOG_LEVELS) == list(logs.LEVELS)


def test_flags_defaults_are_the_tables() -> None:
    """What a test builds by hand is what the command line gives."""
    for kind, name in ((ServeSettings, "serve"), (SidecarSettings, "sidecar")):
        command = COMMANDS[name]
        ctx = click.Context(command)
        options = {one.name: one for one in command.params}
        for row in settings_table(kind):
            option = options[row.field]
            assert option.type_cast_value(ctx, option.get_default(ctx)) == row.default, row.flag
        internal = {one.name for one in fields(kind)} - {row.field for row in settings_table(kind)}
        assert internal == {"serve": {"etcd_arguments"}, "sidecar": {"metrics_namespace", "disable_h2c"}}[name]


def test_the_files_of_the_docs_are_good(file) -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    examples = text.split("```yaml\n")[1:]
    assert examples
    for example in examples:
        path = Path(file(example.split("```")[0]))
        assert len(config_file.read(path, COMMANDS["serve"])) == len(yaml.safe_load(path.read_text()))
