"""The targets of a job on imported traces that names none."""

from __future__ import annotations

import json
from pathlib import Path

from perdure.agent.planning.import_targets import import_targets
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.store import create_store


def test_what_the_import_names_of_the_stream_is_the_target_else_its_first(tmp_path: Path) -> None:
    rows = [{"environment": name, "turns": [{"observation": "a", "action": "b"}]} for name in ("x:b", "x:c", "elsewhere")]
    (tmp_path / "t").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "u").write_text(json.dumps({**rows[2], "seed": 1}))
    with create_store(tmp_path / "home") as store:
        import_file(store, tmp_path / "t", "desk")
        import_file(store, tmp_path / "u", "others")
        stream = ["x:a", "x:b", "x:c"]
        assert import_targets(store, stream, "import:desk") == ["x:b", "x:c"]
        assert import_targets(store, stream, "import:others") == ["x:a"]
        assert import_targets(store, [], "import:others") == []
        assert import_targets(store, stream, "stream") == []
