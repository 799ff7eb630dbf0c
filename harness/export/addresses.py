"""Addresses of collectors that speak HTTP, checked before a run: what cannot be one is a line at once."""

import re
from urllib.parse import urlsplit

from harness.errors import InputError
from harness.messages import message

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_USER = re.compile(r"[^/@\s]*@")


def hold_http(target: str, address: str, *, bare: bool = False) -> None:
    """Hold an address to `http://HOST[:PORT][/PATH]` or https; where `bare`, `HOST:PORT` is one too.

    Raises:
        InputError: it is another.
    """
    if not is_http(address, bare=bare):
        code = "export.expected_url_or_host" if bare else "export.expected_url"
        raise InputError(message(code, target=target, address=_USER.sub("", address)))


def is_http(address: str, *, bare: bool = False) -> bool:
    """Whether an address is that of an HTTP server; without a scheme it needs a port, and only where `bare`."""
    has_scheme = _SCHEME.match(address) is not None
    if not has_scheme and not bare:
        return False
    try:
        parts = urlsplit(address if has_scheme else f"http://{address}")
        port = parts.port
    except ValueError:  # a port that is no number below 65,536, or brackets around no address
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", address):
        return False
    return port != 0 and (has_scheme or port is not None)
