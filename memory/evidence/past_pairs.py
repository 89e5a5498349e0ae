"""What the pairs of closed gates say of references and environments.

Only gates that sampled their answers in the same way count, and in an environment that has changed only those since then.
"""

from __future__ import annotations

from perdure.memory.evidence.dev_scores import KnownScores
from perdure.memory.store import Store

SAMPLED_AT = "SELECT id FROM gate WHERE verdict IS NOT NULL AND coalesce(json_extract(evidence, '$.temperature'), 0.0) = :temperature"
"""The closed gates that sampled answers at a temperature."""


def squared_differences(store: Store, temperature: float, samples: int) -> dict[str, tuple[int, float]]:
    """Number and mean of the squared differences, by environment, in gates that sampled answers in this way.

    Only those of environments that were not trained then, over all gates that did not end with reject.
    """
    rows = store.rows(
        f"""
        WITH closed AS MATERIALIZED (
            {SAMPLED_AT} AND coalesce(json_extract(evidence, '$.samples'), 1) = :samples AND verdict IN ('promote', 'inconclusive')
        )
        SELECT p.environment, count(*) AS n, avg(p.difference * p.difference) AS q
        FROM closed c JOIN pair p ON p.gate = c.id JOIN environment e ON e.name = p.environment
        WHERE p.difference IS NOT NULL AND p.role = 'earlier' AND p.gate >= e.first_gate
          AND NOT EXISTS (SELECT 1 FROM pair t WHERE t.gate = p.gate AND t.environment = p.environment AND t.role = 'trained')
        GROUP BY p.environment
        """,
        {"temperature": temperature, "samples": samples},
    )
    return {row["environment"]: (int(row["n"]), float(row["q"])) for row in rows}


def scores_of_references(store: Store, temperature: float, before: int | None) -> dict[tuple[str, str], KnownScores]:
    """What references scored in closed gates at this temperature, by environment and version; with `before` in those before that gate."""
    rows = store.rows(
        f"""
        WITH closed AS MATERIALIZED ({SAMPLED_AT} AND id < :before)
        SELECT p.environment, p.reference, count(*) AS seeds, count(p.reference_score) AS scored, total(p.reference_score) AS total
        FROM closed c JOIN pair p ON p.gate = c.id JOIN environment e ON e.name = p.environment
        WHERE p.gate >= e.first_gate
        GROUP BY p.environment, p.reference
        """,
        {"temperature": temperature, "before": 2**62 if before is None else before},
    )
    return {
        (row["environment"], row["reference"]): KnownScores(seeds=row["seeds"], scored=row["scored"], total=row["total"]) for row in rows
    }
