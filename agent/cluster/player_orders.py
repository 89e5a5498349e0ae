"""What a player is told when it is placed: where the journal is, its token, and the settings that make it the same player as the head's.

JSON, as an order names no code. What a player reads of it is `playing/`.
"""

from __future__ import annotations

import json
from pathlib import Path

from perdure.agent.cluster.cluster_token import cluster_token
from perdure.agent.config_file import LoadedConfig


def player_order(home: Path, loaded: LoadedConfig, name: str) -> bytes:
    """The order of the player of this name. Raises as `cluster_token` does."""
    cluster = loaded.config.cluster
    host = f"[{cluster.listen}]" if ":" in cluster.listen else cluster.listen
    folder = Path(loaded.config.model).expanduser()
    model = str(folder.resolve()) if folder.is_dir() else loaded.config.model  # a player has another working folder
    device = "cuda" if cluster.player_gpus else loaded.config.device  # a head without a card may have players with one
    settings = loaded.config.model_copy(update={"model": model, "device": device})
    order = {
        "name": name,
        "journal": f"http://{host}:{cluster.journal_port}",
        "token": cluster_token(home, cluster),
        "settings": json.loads(settings.model_dump_json(exclude={"cluster", "notify", "telemetry", "web"})),
    }
    return json.dumps(order).encode()
