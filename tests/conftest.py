"""What holds for all tests."""

from __future__ import annotations

import os

# Before torch is loaded, here and in every process that a test starts. Products of 32 by 32 are slower on several threads, and much slower
# where other programs keep the cores busy: the other half of the tests does.
os.environ["OMP_NUM_THREADS"] = "1"
