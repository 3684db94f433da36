"""Which loopback addresses a run takes when ports are in use."""

import ipaddress
import os
import socket

import pytest
from tandem_local.addresses import AddressesTaken, candidate_block, find_address_block

RUN = "0123abcd"


def listen(address: str, port: int = 0) -> socket.socket:
    listener = socket.socket()
    listener.bind((address, port))
    listener.listen()
    return listener


def test_a_block_in_which_somebody_listens_is_passed_over() -> None:
    first = candidate_block(RUN, 0)
    assert find_address_block(RUN, [8000]) == first
    with listen(str(first[7])):
        assert find_address_block(RUN, [8000]) == candidate_block(RUN, 1)


def test_a_port_that_is_taken_on_all_addresses_is_named_with_its_holder() -> None:
    with listen("0.0.0.0") as holder:  # noqa: S104 - the mistake to be found
        port = holder.getsockname()[1]
        with pytest.raises(AddressesTaken, match=rf"port {port} is taken .*process {os.getpid()}.*end it"):
            find_address_block(RUN, [port])


def test_blocks_are_loopback_and_differ() -> None:
    blocks = [candidate_block(RUN, attempt) for attempt in range(20)]
    assert len(set(blocks)) == 20
    assert all(block.subnet_of(ipaddress.IPv4Network("127.0.0.0/8")) for block in blocks)
