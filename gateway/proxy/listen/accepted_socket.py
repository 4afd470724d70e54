"""The class of accepted sockets, whose kind is that of the listening one and need not be found out for each."""

from __future__ import annotations

import socket


def accepted_socket_class(listening: socket.socket) -> type[socket.socket]:
    """A socket class with ``family`` and ``type`` as plain numbers.

    socket.socket makes members of an enumeration of them at each look, and the event loop looks three times at each
    new connection: that took a tenth of the connection's CPU.
    """

    class AcceptedSocket(socket.socket):
        __slots__ = ()
        family = int(listening.family)  # type: ignore[assignment]  # which an AddressFamily is
        type = int(listening.type)  # type: ignore[assignment]  # which a SocketKind is

    return AcceptedSocket
