"""Errors that a person can act on. Each says what was wrong, with the value, and what to do next.

PerdureError
├── InputError (ValueError)       bad input or wrong use                    exit code 2
│   ├── UnknownError (LookupError)  no environment, version, ... of that name  exit code 2
│   └── Conflict                  it was right once, but another change came first  exit code 2
└── RuntimeFailure (RuntimeError) the machine or the home prevents it        exit code 3
    ├── LeaseLost                 another process has taken over this work
    ├── Diverged                  weights or gradients are not finite: learn with a smaller lr
    ├── NeedsMigration            the store has an older schema: the next `perdure run` migrates it
    ├── ShardLost                 a file of the history is missing, or is not as it was written
    └── Unavailable               the disk is full or the store is locked: it may work later
"""

from __future__ import annotations


class PerdureError(Exception):
    """Base of all errors that are shown as one line, without a traceback."""


class InputError(PerdureError, ValueError):
    """The input is wrong: it cannot be done as asked."""


class UnknownError(InputError, LookupError):
    """Nothing has that name."""


class Conflict(InputError):
    """Another change came first, or a key stands for another change: look again before you change anything."""


class RuntimeFailure(PerdureError, RuntimeError):
    """The input is right, but it failed."""


class LeaseLost(RuntimeFailure):
    """The lease for a write is no longer held: nothing was written."""


class Diverged(RuntimeFailure):
    """Learning has left weights, gradients or logits that are not finite. An earlier step may still be good."""


class NeedsMigration(RuntimeFailure):
    """The store has an older schema, which the next `perdure run` migrates."""


class ShardLost(RuntimeFailure):
    """The turns of an episode cannot be read, because the file that has them is missing or is not as it was written."""


class Unavailable(RuntimeFailure):
    """The disk or the store cannot take this now. The work itself has not failed and may be tried again."""
