"""`--processes`: what each replica on a host gets of its own, which settings cannot be, and how several processes' metrics become one text."""

import pytest

from scheduler.config import ConfigError, ServeSettings
from scheduler.exposition import merged
from scheduler.processes import settings_of


def test_each_replica_has_a_name_and_a_port_of_its_own() -> None:
    settings = ServeSettings(id="host", processes=3, port=6000, override_broadcast_host_port="[::1]:7000")
    found = [settings_of(settings, index) for index in range(3)]
    assert [one.id for one in found] == ["host-0", "host-1", "host-2"]
    assert [one.port for one in found] == [6000, 6001, 6002]
    assert [one.override_broadcast_host_port for one in found] == ["[::1]:7000", "[::1]:7001", "[::1]:7002"]


def test_any_free_port_is_any_free_port_for_each() -> None:
    settings = ServeSettings(processes=2, port=0)
    assert [settings_of(settings, index).port for index in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"processes": 0}, "--processes is 0, allowed are 1 to 64"),
        ({"processes": 4, "port": 65_533}, "65533 to 65536"),
        ({"processes": 4, "healthz_port": 50_008}, "--healthz-port is 50008"),
        ({"processes": 4, "metrics_port": 50_006}, "--metrics-port is 50006"),
        ({"processes": 2, "override_broadcast_host_port": "host"}, "host:port"),
    ],
)
def test_what_cannot_be_is_told(given: dict, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        ServeSettings(**given)


ONE = """# HELP up Whether.
# TYPE up gauge
up 1.0
# HELP late Lateness.
# TYPE late histogram
late_bucket{le="0.1"} 2.0
late_bucket{le="+Inf"} 3.0
"""
TWO = """# HELP up Whether.
# TYPE up gauge
up 0.0
# HELP late Lateness.
# TYPE late histogram
late_bucket{app="a } b",le="+Inf"} 5.0
# HELP more Only here.
# TYPE more counter
more_total 7.0
"""


def test_families_stay_together_and_each_sample_names_its_process() -> None:
    assert merged("process", [("0", ONE), ("1", ""), ("2", TWO)]) == (
        "# HELP up Whether.\n# TYPE up gauge\n"
        'up{process="0"} 1.0\nup{process="2"} 0.0\n'
        "# HELP late Lateness.\n# TYPE late histogram\n"
        'late_bucket{process="0",le="0.1"} 2.0\nlate_bucket{process="0",le="+Inf"} 3.0\nlate_bucket{process="2",app="a } b",le="+Inf"} 5.0\n'
        "# HELP more Only here.\n# TYPE more counter\n"
        'more_total{process="2"} 7.0\n'
    )
