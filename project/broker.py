"""Fixes how the broker library handles a lost server while a worker holds messages."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class LastingQoS(redis.QoS):  # type: ignore[misc,unused-ignore]
    def restore_unacked(self, client: Any = None) -> None:
        """Return unfinished messages to the queue, unless the connection for it is gone.

        In that case the library's own version fails with an AttributeError that ends the worker. The messages stay on
        the server, which redelivers them after their visibility timeout.
        """
        if client is None and self.channel.connection.client is None:
            assert self._delivered is not None
            self._delivered.clear()
            return
        super().restore_unacked(client)


def install() -> None:
    redis.Channel.QoS = LastingQoS
