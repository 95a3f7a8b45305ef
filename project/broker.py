"""What the library of the broker gets wrong when the server goes away while a worker holds messages."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class LastingQoS(redis.QoS):  # type: ignore[misc,unused-ignore]
    def restore_unacked(self, client: Any = None) -> None:
        """Give unfinished messages back to the queue, unless the connection is gone through which that would go.

        The library's own fails there with an AttributeError that ends the worker. The messages stay on the server,
        which gives them out again when their time is over.
        """
        if client is None and self.channel.connection.client is None:
            assert self._delivered is not None
            self._delivered.clear()
            return
        super().restore_unacked(client)


def install() -> None:
    redis.Channel.QoS = LastingQoS
