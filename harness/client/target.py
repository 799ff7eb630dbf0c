"""The target of requests: address, routes, headers, trust and secrets, and the bytes that reach it.

A URL with what a scenario says of headers, routes and trust becomes a target; a target, a path and
a body become a whole request.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from harness.errors import InputError
from harness.messages import Message, message
from harness.safety import redaction
from harness.scenario.engine import Engine, FromEnvironment

ROUTES = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "score": "/v1/score",
    "models": "/v1/models",
    "metrics": "/metrics",
    "health": "/health",
}

_APIS = ("chat", "completions", "responses", "embeddings", "rerank", "score")  # chat first: its path ends alike


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates are believed: the system's and those of the file `ca`, or any."""

    ca: str | None = None
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """The TLS context of this trust.

        Raises:
            InputError: where the file cannot be read or holds no certificate.
        """
        context = ssl.create_default_context()
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except OSError as fault:  # ssl.SSLError is one
            raise InputError(message("client.certificates", path=self.ca, reason=str(fault))) from None
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: an origin, the path before /v1, and headers that every request carries.

    `routes` are paths that differ, from the root, by the usual ones; `query` is kept on each request.
    """

    scheme: str
    host: str
    port: int
    base: str
    headers: tuple[tuple[str, str], ...] = ()
    query: str = ""
    routes: tuple[tuple[str, str], ...] = ()
    trust: Trust = Trust()

    @property
    def origin(self) -> str:
        """Host and port as the Host header names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address, without a trailing slash."""
        return f"{self.scheme}://{self.origin}{self.base}{self.query}"

    def place(self, path: str) -> str:
        """The path that is asked for where the usual one is `path`, with the query."""
        return f"{dict(self.routes).get(path, self.base + path)}{self.query}"

    def address(self, path: str) -> str:
        """The whole address of what usually lies at `path`."""
        return f"{self.scheme}://{self.origin}{self.place(path)}"


def target_of(
    url: str,
    headers: tuple[tuple[str, str], ...] = (),
    routes: tuple[tuple[str, str], ...] = (),
    trust: Trust = Trust(),
) -> Target:
    """The target that a URL names.

    A trailing `/v1` is part of every path and dropped; of a whole endpoint, what stands before it counts.

    Raises:
        InputError: where it is no http(s) URL, or carries a user name or password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as fault:
        raise InputError(message("client.url_invalid", url=url, reason=str(fault))) from None
    if parts.username or parts.password:
        raise InputError(message("client.url_credentials"))
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise InputError(message("client.url_no_address", url=url))
    base, own_routes = _base_of(parts.path.rstrip("/"))
    query = f"?{parts.query}" if parts.query else ""
    port = port or (443 if parts.scheme == "https" else 80)
    return Target(parts.scheme, parts.hostname, port, base, headers, query, (*own_routes, *routes), trust)


@lru_cache(maxsize=1024)
def is_this_host(name: str) -> bool:
    """Whether a host name or address is this machine's own: a socket can be bound to it. False where it is unknown."""
    try:
        rows = socket.getaddrinfo(name, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return any(_can_bind(family, address) for family, _, _, _, address in rows)


def _can_bind(family: int, address: tuple[object, ...]) -> bool:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        return True
    return False


def _base_of(path: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The base that a path names, and the routes beside it where it is a whole endpoint without /v1."""
    for name in (*_APIS, "models"):
        if path.endswith(ROUTES[name]):
            return path.removesuffix(ROUTES[name]), ()
    for name in _APIS:
        end = ROUTES[name].removeprefix("/v1")
        if path.endswith(end):
            root = path.removesuffix(end)
            return "", tuple(
                (usual, root + usual.removeprefix("/v1")) for usual in (ROUTES[api] for api in (*_APIS, "models"))
            )
    return path.removesuffix("/v1"), ()


def post_bytes(target: Target, path: str, body: bytes) -> bytes:
    """A whole POST request as bytes, ready to be written."""
    return request_bytes("POST", target, path, body)


def request_bytes(method: str, target: Target, path: str, body: bytes = b"") -> bytes:
    """A whole request as bytes; a header of the target's stands in place of ours."""
    fields = {
        "Host": target.origin,
        **dict(target.headers),
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json" if method == "POST" else "*/*",
        "Accept-Encoding": "identity",  # what is compressed comes in lumps, and its events with it
        "Content-Length": str(len(body)),
    }
    own = {name.lower(): (name, value) for name, value in target.headers}
    lines = [own.get(name.lower(), (name, value)) for name, value in fields.items()]
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"{method} {target.place(path)} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def target_for(url: str, engine: Engine) -> Target:
    """The target at `url` with what the engine's keys say of reaching it; its secrets are known from then on.

    Raises:
        InputError: where the address is none, or a variable is not set.
    """
    headers = [(name, _value(name, value)) for name, value in engine.headers.items()]
    key = api_key(engine.api_key_env)
    if key and not any(name.lower() == "authorization" for name, _ in headers):
        headers.insert(0, ("Authorization", f"Bearer {key}"))
    routes = tuple((ROUTES[name], path) for name, path in engine.paths if path is not None)
    trust = Trust(engine.tls.ca, insecure=engine.tls.insecure)
    return target_of(url, tuple(headers), routes, trust)


def _value(name: str, value: str | FromEnvironment) -> str:
    if isinstance(value, str):
        return value
    return secret_of(value.from_env, f"engine.headers.{name}", message("client.header_value"))


def api_key(name: str | None) -> str:
    """The key in the environment variable `name`; the key itself is never written anywhere.

    Raises:
        InputError: where the variable is named but not set.
    """
    return "" if name is None else secret_of(name, "engine.api_key_env", message("client.api_key"))


def secret_of(variable: str, key: str, content: Message) -> str:
    """What an environment variable holds, noted as a secret; `key` of the scenario names it.

    Raises:
        InputError: where it is not set, or cannot be sent.
    """
    secret = os.environ.get(variable, "")
    if not secret:
        raise InputError(message("client.variable_unset", key=key, variable=variable, content=content))
    if not secret.isascii() or not secret.isprintable():
        raise InputError(message("client.secret_not_ascii", key=key, variable=variable))
    redaction.register_secret(secret, variable)
    scheme, _, credentials = secret.partition(" ")
    if scheme.lower() in ("bearer", "basic") and credentials:
        redaction.register_secret(credentials, variable)
    return secret


def know_again(reach: Mapping[str, Any]) -> None:
    """Note the secrets that the keys of a run's engine name, as far as they are in this environment."""
    named = [(reach.get("headers") or {}).values(), [{"from_env": reach.get("api_key_env")}]]
    for value in (value for values in named for value in values):
        variable = value.get("from_env") if isinstance(value, dict) else None
        if isinstance(variable, str) and os.environ.get(variable):
            secret_of(variable, "engine", message("client.api_key"))
