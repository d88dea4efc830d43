"""Bytes on the TCP stream of one connection, from the kernel: struct tcp_info of Linux (include/uapi/linux/tcp.h).

The layout of the fields read here has not moved since they came (bytes_received with Linux 4.1, bytes_sent with 4.19):
8 x u8; 24 x u32; u64 pacing_rate, max_pacing_rate, bytes_acked, bytes_received; u32 segs_out, segs_in,
notsent, min_rtt, data_segs_in, data_segs_out; u64 delivery_rate, busy, rwnd_limited, sndbuf_limited;
u32 delivered, delivered_ce; u64 bytes_sent, bytes_retrans.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

TCP_INFO = 11
"""Linux's option number; the socket module names it only where the C library does."""
IPPROTO_TCP = 6

_BYTES_RECEIVED = 8 + 24 * 4 + 3 * 8
_BYTES_SENT = 8 + 24 * 4 + 4 * 8 + 6 * 4 + 4 * 8 + 2 * 4
_LENGTH = _BYTES_SENT + 8


class HasOptions(Protocol):
    """What is asked of a socket: plain and TLS sockets have it."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBytes:
    """Of one or several connections; `sent` counts retransmissions, both count TLS where there is TLS."""

    sent: int
    received: int

    def __add__(self, other: StreamBytes) -> StreamBytes:
        return StreamBytes(sent=self.sent + other.sent, received=self.received + other.received)


def read_stream(sock: HasOptions) -> StreamBytes | None:
    """None where the kernel does not say (qemu-user, another system, an old kernel, a closed socket)."""
    try:
        info = sock.getsockopt(IPPROTO_TCP, TCP_INFO, 256)
    except OSError:
        return None
    return parse_tcp_info(info)


def parse_tcp_info(info: bytes) -> StreamBytes | None:
    """None if the structure is too short to hold bytes_sent."""
    if len(info) < _LENGTH:
        return None
    (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED)
    (sent,) = struct.unpack_from("=Q", info, _BYTES_SENT)
    return StreamBytes(sent=sent, received=received)
