"""No test goes out: sockets but loopback are refused, in this process and in those it forks."""

import ipaddress
import socket

import pytest

_connect = socket.socket.connect


def _loopback(address) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = str(address[0]).strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def _guarded(self, address):
    if not _loopback(address):
        raise OSError(101, f"a test tried to reach {address}")
    return _connect(self, address)


def guard_sockets(patch=None):
    """Guard every connection of this process."""
    patch = patch or pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guarded)
    patch.setattr(socket.socket, "connect_ex", lambda s, a: _guarded(s, a) or 0)
    patch.delenv("DLREVIEW_DATA", raising=False)


@pytest.fixture(autouse=True, scope="session")
def only_loopback():
    """Guard every connection while tests run."""
    patch = pytest.MonkeyPatch()
    guard_sockets(patch)
    yield
    patch.undo()
