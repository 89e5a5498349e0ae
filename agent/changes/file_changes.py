"""Changes of files in the home, which no transaction can hold together with their row."""

from __future__ import annotations

from perdure.memory.changes import Who, perform
from perdure.memory.json_value import Document
from perdure.memory.store import Store


def note(store: Store, by: Who, what: str, subject: str, arguments: Document) -> None:
    """Write a change of files down, before it is made if it removes something: then there is no loss without a row."""
    perform(store, lambda: (subject, Document()), by=by, what=what, arguments=arguments)
