from __future__ import annotations

import logging
import socket

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import InputError
from hwbench.targets.transport import CA, CERTIFICATE, KEY, Address, TlsFiles, check_transport

names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)


@given(st.sampled_from(["tcp", "tls"]), names | st.ip_addresses().map(str), st.integers(1, 65535))
def test_an_address_comes_back_as_its_parts(scheme, host, port):
    written = f"[{host}]" if ":" in host else host
    assert Address.parse(f"{scheme}://{written}:{port}") == Address(scheme, host, port)


@pytest.mark.parametrize(
    "text", ["", "host:1", "tcp://host", "tcp://:1", "udp://host:1", "tcp://a b:1", "tcp://::1:1x"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(InputError, match="is not a scheduler's address; it has the form tcp://HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("[::1]", True), ("192.0.2.1", False),
     ("[2001:db8::1]", False), ("nowhere.invalid", False)],
)  # fmt: skip
def test_what_stays_on_this_machine(host, is_loopback):
    assert Address.parse(f"tcp://{host}:8786").is_loopback is is_loopback


def test_the_interface_is_that_of_the_route():
    assert Address.parse("tcp://127.0.0.1:8786").local() == "127.0.0.1"
    own = [
        address.address
        for each in psutil.net_if_addrs().values()
        for address in each
        if address.family == socket.AF_INET
    ]
    for address in own:  # what is sent to an own address leaves from it
        assert Address.parse(f"tcp://{address}:8786").local() == address


def test_a_host_without_a_route_is_refused():
    with pytest.raises(InputError, match=r"the scheduler at nowhere.invalid:1 cannot be reached"):
        Address.parse("tcp://nowhere.invalid:1").local()


@pytest.mark.parametrize(
    ("scheduler", "warned"),
    [("tcp://192.0.2.1:8786", True), ("tcp://127.0.0.1:8786", False), ("tls://192.0.2.1:8786", False)],
)
def test_plain_text_beyond_this_machine_is_warned_of(scheduler, warned, caplog):
    with caplog.at_level(logging.WARNING):
        check_transport(scheduler, "")
    assert ("can run code on every worker" in caplog.text) is warned


def test_a_folder_must_be_whole_and_the_address_encrypted(tmp_path):
    for name in (CA, CERTIFICATE):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"key\.pem: missing; TLS needs ca\.pem, cert\.pem and key\.pem in one folder"):
        check_transport("tls://h:1", str(tmp_path))
    (tmp_path / KEY).touch()
    with pytest.raises(InputError, match=r"tcp://h:1 is not encrypted; its address must begin with tls://"):
        check_transport("tcp://h:1", str(tmp_path))
    assert check_transport("tls://h:1", str(tmp_path))[1] == TlsFiles.of(tmp_path)
