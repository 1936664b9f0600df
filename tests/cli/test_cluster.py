"""`scheduler cluster` and `scheduler job run-now` against real replicas, for people and for programs."""

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from scheduler.cli.members import quantile
from tests.cli.test_cli import run
from tests.support.certificates import Authority
from tests.support.client import Client, Watcher
from tests.support.processes import free_port, wait_until


def test_status_members_and_partitions(cluster) -> None:
    one = cluster(2)
    address = f"--address={one.addresses[1]}"
    client, watcher = Client(one.addresses[0]), Watcher(one.addresses)
    client.schedule("tick", schedule="@every 1s")
    wait_until(lambda: len(watcher.hits) > 1, timeout_s=30, what="triggers")

    code, text = run("cluster", "status", address)
    assert code == 0 and "128 partitions, 128 owned\n" in text and "\x1b" not in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("replica-")}
    assert rows["replica-0"][1:3] == rows["replica-1"][1:3] == ["serving", "yes"]
    assert int(rows["replica-0"][3]) + int(rows["replica-1"][3]) == 128
    assert f"127.0.0.1:{one.etcd.port}" in text and " ms" in text

    code, text = run("cluster", "status", address, "-o", "json")
    status = json.loads(text)
    assert code == 0 and status["partitions"] == {"count": 128, "unowned": []}
    assert [member["load"]["streams"] for member in status["members"]] == [1, 1]
    assert sum(member["load"]["jobs"] for member in status["members"]) == 1
    late = [member["totals"]["latenessMilliseconds"]["p99"] for member in status["members"]]
    assert sum(figure is not None for figure in late) == 1 and status["etcd"][0]["leader"] is True

    code, text = run("cluster", "members", address, "-o", "json")
    assert code == 0 and [member["address"] for member in json.loads(text)] == one.addresses
    code, text = run("cluster", "partitions", address)
    assert code == 0 and len(text.splitlines()) == 129
    code, text = run("cluster", "partitions", address, "--owner=replica-0", "-o", "json")
    mine = json.loads(text)
    assert len(mine) == status["members"][0]["partitions"] and {one["phase"] for one in mine} == {"firing"}
    assert json.loads(run("cluster", "partitions", address, "--unowned", "-o", "json")[1]) == []
    watcher.close()

    one.replicas[0].kill()
    code, text = run("cluster", "status", address)
    assert code == 0 and f"replica-0 at {one.replicas[0].address} does not answer: " in text
    code, text = run("cluster", "partitions", address, "--owner=replica-0")
    assert code == 0 and "replica-0 does not answer, so nothing is known" in text
    client.close()


def test_drain_and_back(cluster) -> None:
    one = cluster(2)
    address = f"--address={one.addresses[0]}"
    code, text = run("cluster", "drain", "replica-7", address)
    assert code == 4 and "there is no member 'replica-7'; there are replica-0, replica-1" in text
    code, text = run("cluster", "drain", "replica-1", address)
    assert code == 0 and "replica-1 is drained" in text
    assert set(one.reader.owners().values()) == {"replica-0"}
    text = run("cluster", "status", address)[1]
    assert any(line.split()[:2] == ["replica-1", "drained"] and "by an operator" in line for line in text.splitlines())
    code, text = run("cluster", "drain", "replica-0", address)
    assert code == 1 and "no other member is serving" in text
    code, text = run("cluster", "drain", "replica-1", "--undrain", address)
    assert code == 0 and "replica-1 takes part again" in text
    one.settle()
    code, text = run("cluster", "drain", "replica-1", "--timeout=0", address)
    assert (code == 1 and "see `scheduler cluster members`" in text) or "is drained" in text


def test_run_now(cluster) -> None:
    one = cluster(1)
    address = f"--address={one.addresses[0]}"
    assert run("job", "schedule", "hourly", "--app-id=app", "--schedule=@every 1h", address)[0] == 0
    watcher = Watcher(one.addresses)
    assert run("job", "run-now", "hourly", "--app-id=app", address) == (0, "hourly fires now\n")
    wait_until(lambda: len(watcher.hits) == 1, timeout_s=30, what="the trigger")
    assert watcher.hits[0].name == "hourly"
    watcher.close()
    code, text = run("job", "run-now", "weekly", "--app-id=app", address)
    assert code == 4 and "job not found: weekly" in text


def test_under_mutual_tls_operators_steer_and_apps_run_their_own(cluster, tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.leaf("scheduler", ["spiffe://localhost/ns/dapr-system/dapr-scheduler"])
    flags = [f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={authority.ca_file}"]
    flags.append("--admin-identities=spiffe://public/ns/ops/admin")
    replica = cluster(1, *flags, "--override-broadcast-host-port=localhost:0", settle_hosts=False).replicas[0]

    def tls(name: str, namespace: str) -> list[str]:
        mine, its_key = authority.leaf(name, [f"spiffe://public/ns/{namespace}/{name}"])
        return [
            f"--address=localhost:{replica.port}",
            f"--tls-ca-file={authority.ca_file}",
            f"--tls-cert-file={mine}",
            f"--tls-key-file={its_key}",
        ]

    admin, shop, other = tls("admin", "ops"), tls("shop", "default"), tls("other", "default")
    assert run("job", "schedule", "hourly", "--app-id=shop", "--schedule=@every 1h", *shop)[0] == 0
    assert run("job", "run-now", "hourly", "--app-id=shop", *shop)[0] == 0
    assert run("job", "run-now", "hourly", "--app-id=shop", *admin)[0] == 0
    code, text = run("job", "run-now", "hourly", "--app-id=shop", *other)
    assert (
        code == 5 and "identity does not match request" in text and "--tls-cert-file must be the certificate of" in text
    )
    code, text = run("cluster", "members", *shop)
    assert code == 5 and "spiffe://public/ns/default/shop is not among this replica's --admin-identities" in text
    code, text = run("cluster", "members", *admin)
    assert code == 0 and "serving" in text


def test_an_operator_under_an_authority_like_sentrys(cluster, tmp_path) -> None:
    """The issuer is itself signed by the root, and its certificates name identities, no hosts."""
    root, issuer = Authority(tmp_path / "root"), Authority(tmp_path / "issuer")
    crossed = x509.load_der_x509_certificate(root.sign_authority(issuer)).public_bytes(Encoding.PEM)
    issuer_file, issuer_key = tmp_path / "issuer.crt", tmp_path / "issuer.key"
    issuer_file.write_bytes(crossed)
    issuer_key.write_bytes(issuer.key_pem())
    scheduler = "spiffe://localhost/ns/dapr-system/dapr-scheduler"
    certificate, key = issuer.leaf("scheduler", [scheduler])
    certificate.write_bytes(certificate.read_bytes() + crossed)
    flags = [f"--tls-cert-file={certificate}", f"--tls-key-file={key}", f"--tls-ca-file={root.ca_file}"]
    address = cluster(1, *flags, "--admin-identities=spiffe://public/ns/ops/*", settle_hosts=False).addresses[0]

    mine = tmp_path / "mine"
    issue = [
        "certificate",
        f"--ca-file={issuer_file}",
        f"--ca-key-file={issuer_key}",
        "--app-id=admin",
        "--namespace=ops",
    ]
    assert run(*issue, f"--out={mine}")[0] == 0
    tls = [f"--tls-ca-file={root.ca_file}", f"--tls-cert-file={mine / 'tls.crt'}", f"--tls-key-file={mine / 'tls.key'}"]
    command = ["cluster", "members", f"--address={address}", *tls]  # by an address that no certificate names
    assert run(*command)[0] == 3
    code, text = run(*command, f"--tls-server-identity={scheduler}")
    assert code == 0 and "serving" in text
    code, text = run(*command, "--tls-server-identity=spiffe://localhost/ns/dapr-system/other")
    assert code == 3 and f"the server is {scheduler}, not spiffe://localhost/ns/dapr-system/other" in text


def test_a_member_that_is_reached_by_another_address_answers_there(cluster) -> None:
    """A port that is forwarded: what the member tells sidecars leads nowhere from here."""
    one = cluster(1, f"--override-broadcast-host-port=127.0.0.1:{free_port()}", settle_hosts=False)
    address = f"--address={one.addresses[0]}"
    code, text = run("cluster", "status", address)
    assert code == 0 and "does not answer" not in text and "serving  yes" in text
    assert run("cluster", "drain", "replica-0", "--force", address)[0] == 0


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([0, 10, 0], 0.5, 1.5),
        ([5, 5, 0], 0.5, 1.0),
        ([0, 0, 3], 0.5, 2.0),
        ([99, 1, 0], 0.99, 1.0),
    ],
)
def test_quantiles(counts, share: float, seconds) -> None:
    assert quantile([1.0, 2.0], counts, share) == seconds


def test_an_older_server_is_recognised(cluster) -> None:
    """etcd answers every unknown service with the same status as a scheduler that has no operators' API."""
    one = cluster(1)
    code, text = run("cluster", "status", f"--address=127.0.0.1:{one.etcd.port}")
    assert code == 1 and "it is older than this command, or no scheduler of this kind" in text


def test_etcd_down_is_not_the_address_wrong(cluster) -> None:
    one = cluster(1)
    one.etcd.kill()
    code, text = run("job", "schedule", "any", "--due-time=1h", "--app-id=app", f"--address={one.addresses[0]}")
    assert code == 3 and "etcd is not available" in text and "The scheduler itself answers" in text
    code, text = run("cluster", "status", f"--address={one.addresses[0]}")
    assert code == 0 and "replica-0" in text and "Connect call failed" in text
