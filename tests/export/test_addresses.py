"""Addresses of collectors are checked before anything runs."""

import pytest

from harness.errors import InputError
from harness.export.addresses import is_http
from harness.export.delivery import exporter_of

BAD = ("ftp://x", "http://host:abc", "http://", "http://host:70000", "http://host:0", "http://[::1", "http://a b", "x")


@pytest.mark.parametrize("address", [*BAD, "host:4318"])
def test_otel_takes_urls_only(address):
    """One line that names the target, the address and what was expected."""
    with pytest.raises(
        InputError, match=r"^--export otel: '.*' is no address of a collector; expected http://"
    ) as told:
        exporter_of(f"otel={address}")

    assert "\n" not in str(told.value)


@pytest.mark.parametrize("address", [*BAD, "notaurl", "host:abc", ":9091"])
def test_a_push_gateway_is_a_url_or_a_host_with_its_port(address):
    """A bare word is neither."""
    with pytest.raises(InputError, match=r"^--export prometheus-push: '.*' is no address of a push gateway; expected "):
        exporter_of(f"prometheus-push={address}")


def test_an_address_of_the_environment_is_checked_too(monkeypatch):
    """Each target's own variables; the password of an address is not shown."""
    monkeypatch.setenv("PROMETHEUS_PUSHGATEWAY_URL", "ftp://me:secret-word@x")
    with pytest.raises(InputError, match="'ftp://x'"):
        exporter_of("prometheus-push")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")
    with pytest.raises(InputError, match="'collector' is no address"):
        exporter_of("otel")


@pytest.mark.parametrize("address", ["http://127.0.0.1:4318", "https://me:word@host/v1/metrics", "http://[::1]:4318"])
def test_addresses_of_servers_are_taken(address):
    """With a user, a path, or an address of IPv6."""
    assert is_http(address)
    assert not is_http("127.0.0.1:9091")
    assert is_http("127.0.0.1:9091", bare=True)
