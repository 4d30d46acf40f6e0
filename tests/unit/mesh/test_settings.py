from __future__ import annotations

import pytest
from pydantic import Field, SecretStr

from dataplane.mesh.address import AddressField, UnixAddress
from dataplane.mesh.settings import Port, SidecarSettings, load_settings
from dataplane.protocol.errors import SettingsError


class Example(SidecarSettings):
    http_port: Port = Field(8080, description="a TCP port from 1 to 65535")
    api_key: SecretStr = Field(description="an API key")
    enclave_address: AddressField = Field(
        default_factory=lambda: UnixAddress("/run/x.sock"), description="unix:/path or vsock:CID:PORT"
    )


def test_settings_come_from_the_environment_by_their_upper_case_names() -> None:
    settings = load_settings(Example, {"HTTP_PORT": "9000", "API_KEY": "k", "ENCLAVE_ADDRESS": "unix:/tmp/e.sock"})
    assert settings.http_port == 9000, "HTTP_PORT is the field http_port"
    assert settings.enclave_address == UnixAddress("/tmp/e.sock"), "addresses are parsed"
    assert settings.log_level == "INFO", "unset variables keep their defaults"


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings(Example, {"HTTP_PORT": "", "API_KEY": "k"}).http_port == 8080, "empty is not 0"


def test_every_fault_is_named_at_once_with_value_and_expectation() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Example, {"HTTP_PORT": "eighty", "LOG_LEVEL": "LOUD", "ENCLAVE_ADDRESS": "nowhere"})
    text = str(caught.value)
    assert "HTTP_PORT is 'eighty'; expected a TCP port from 1 to 65535" in text, "the port's fault"
    assert "LOG_LEVEL is 'LOUD'; expected one of DEBUG, INFO, WARNING, ERROR" in text, "the level's fault"
    assert "ENCLAVE_ADDRESS is 'nowhere'; expected unix:/path or vsock:CID:PORT" in text, "the address's fault"
    assert "API_KEY is not set; expected an API key" in text, "the missing variable"
    assert len(text.splitlines()) == 4, "one line a fault"


def test_a_secrets_value_is_never_repeated() -> None:
    class Strict(SidecarSettings):
        api_key: SecretStr = Field(description="an API key of 40 characters", min_length=40)

    with pytest.raises(SettingsError) as caught:
        load_settings(Strict, {"API_KEY": "hunter2"})
    assert "hunter2" not in str(caught.value), "the value must not be shown"
    assert "API_KEY is (hidden)" in str(caught.value), "the variable must be named"
    assert caught.value.__cause__ is None, "pydantic's own error repeats inputs and must not be chained"


def test_variables_that_no_field_asks_for_are_ignored() -> None:
    assert load_settings(Example, {"API_KEY": "k", "PATH": "/bin"}).http_port == 8080, "PATH is not ours"
