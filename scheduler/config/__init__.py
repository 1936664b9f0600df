"""Settings of each command: one table from which flags, environment, the file of settings, its schema and the docs come.

Frozen, checked once, units in the names of fields. cli/options.py makes flags of them.
"""

from scheduler.config.checks import ConfigError, is_loopback
from scheduler.config.serve import ServeSettings
from scheduler.config.setting import LOG_LEVELS, Setting, settings_table
from scheduler.config.sidecar import APP_PROTOCOLS, SidecarSettings

__all__ = [
    "APP_PROTOCOLS",
    "LOG_LEVELS",
    "ConfigError",
    "ServeSettings",
    "Setting",
    "SidecarSettings",
    "is_loopback",
    "settings_table",
]
