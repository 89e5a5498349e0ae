"""A rank that is not the first, as a process of its own: its order comes as JSON on standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from perdure.learners.ranks.follower import follow
from perdure.learners.ranks.process_group import join, read_order
from perdure.learners.weights.base_models import resolve_model

if __name__ == "__main__":
    torch.set_num_threads(1)
    order = read_order(sys.stdin.buffer.read())
    group = join(order)
    follow(group, order.device, lambda name: resolve_model(name, Path(sys.argv[1]), print), lambda: False, print)
    group.close()
