"""The socket on which the journal listens. Loads no web server."""

from __future__ import annotations

import errno
import socket

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.web_conditions import BACKLOG
from perdure.memory.errors import InputError, Unavailable


def listen_for_players(settings: ClusterSection) -> socket.socket:
    """A socket that listens there. Raises `Unavailable` if the port is taken, and `InputError` if this machine has no such address."""
    family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
    place = f"{settings.listen}:{settings.journal_port}"
    try:
        return socket.create_server((settings.listen, settings.journal_port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # perhaps by one that is about to end
            raise Unavailable(f"{place} is in use by another program: choose another port with cluster.journal_port") from error
        why = (error.strerror or str(error)).partition(" (while ")[0]  # Python says the address once more
        raise InputError(f"cannot listen on {place}: {why}; choose others with cluster.listen, cluster.journal_port") from error
