"""A module that starts a thread in every fork of its process, as torch does after `torch.set_num_threads` where it is imported."""

from __future__ import annotations

import os
import threading
import time

os.register_at_fork(after_in_child=lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start())


class Starts:
    """Any answer wins."""

    def reset(self, seed: int | None = None) -> str:
        return f"Say {seed}."

    def step(self, action: str) -> tuple[str, float, bool]:
        return "", 1.0, True
