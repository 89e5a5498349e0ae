"""Who a person at the command line is. The web process knows its persons by themselves (`agent/web/`)."""

from __future__ import annotations

import os
import pwd

from perdure.memory.changes import MOST_NAME, Who
from perdure.memory.json_value import storable


def person_here() -> Who:
    """The user of this process, by the name that this machine knows, else by number. No variable can change it."""
    user = os.getuid()
    try:
        name = storable(pwd.getpwuid(user).pw_name)[:MOST_NAME]
    except KeyError:  # a number without a name, as in some containers
        name = ""
    return Who(name=name or f"user {user}", via="command")
