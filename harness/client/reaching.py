"""How does a scenario's engine become a target: address, keys, headers, trust and routes?"""

import os
from collections.abc import Mapping
from typing import Any

from harness.client.target import ROUTES, Target, Trust, target_of
from harness.errors import InputError
from harness.safety import redaction
from harness.scenario.models import Engine, FromEnvironment


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
    return secret_of(value.from_env, f"engine.headers.{name}", "the header's value")


def api_key(name: str | None) -> str:
    """The key in the environment variable `name`; the key itself is never written anywhere.

    Raises:
        InputError: where the variable is named but not set.
    """
    return "" if name is None else secret_of(name, "engine.api_key_env", "the API key")


def secret_of(variable: str, key: str, what: str) -> str:
    """What an environment variable holds, noted as a secret; `key` of the scenario names it.

    Raises:
        InputError: where it is not set, or cannot be sent.
    """
    secret = os.environ.get(variable, "")
    if not secret:
        raise InputError(f"{key}: environment variable {variable} is not set; expected it to hold {what}")
    if not secret.isascii() or not secret.isprintable():
        raise InputError(f"{key}: what {variable} holds cannot be sent in a header; expected plain ASCII")
    redaction.know(secret, variable)
    scheme, _, credentials = secret.partition(" ")
    if scheme.lower() in ("bearer", "basic") and credentials:
        redaction.know(credentials, variable)
    return secret


def know_again(reach: Mapping[str, Any]) -> None:
    """Note the secrets that the keys of a run's engine name, as far as they are in this environment."""
    named = [(reach.get("headers") or {}).values(), [{"from_env": reach.get("api_key_env")}]]
    for value in (value for values in named for value in values):
        variable = value.get("from_env") if isinstance(value, dict) else None
        if isinstance(variable, str) and os.environ.get(variable):
            secret_of(variable, "engine", "a secret")
