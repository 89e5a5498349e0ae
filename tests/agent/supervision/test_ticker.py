from __future__ import annotations

import time

from perdure.agent.supervision.ticker import Tick, start_ticker


def test_ticker_calls_and_stops() -> None:
    heard: list[Tick] = []
    ticker = start_ticker(heard.append)
    deadline = time.monotonic() + 60
    while "stream" not in heard and time.monotonic() < deadline:
        time.sleep(0.05)
    ticker.shutdown()
    assert "stream" in heard
    said = len(heard)
    time.sleep(0.7)
    assert len(heard) == said
