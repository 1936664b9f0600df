"""What settings are checked for, and the error of those that cannot be."""

import ipaddress


class ConfigError(Exception):
    """A setting that cannot be: which flag, what was found, what is allowed."""


def is_loopback(host: str) -> bool:
    """Whether a listen address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def require_loopback(flag: str, host: str, *, allow_insecure: bool) -> None:
    """Plaintext off this machine must be asked for in so many words. Raises ConfigError."""
    if not allow_insecure and not is_loopback(host):
        shown = host or "all addresses"
        raise ConfigError(
            f"{flag} is {shown!r}, and without TLS only a loopback address is served: use 127.0.0.1, or set "
            "--tls-cert-file, --tls-key-file and --tls-ca-file, or accept plaintext on the network with --allow-insecure"
        )
