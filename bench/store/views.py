"""Views for people, in SQL that SQLite and PostgreSQL share; a writer makes them anew where a database has others.

Results of an older version (`stale`) are left out of `table1` and `leaderboard`, those of attacks that asked in
bfloat16 of `leaderboard`. Rates are in percent.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from bench.core.identity import content_id

PATIENCE = 10  # seconds that PostgreSQL waits for those who read the views (a dump, say)

STALE = """
SELECT 'run' AS kind, r.run_id AS id, r.run_id AS run_id, r.method AS name, 'method' AS part,
       r.method_version AS version, newest.version AS newest
FROM run r
JOIN (SELECT plugin, origin, MAX(method_version) AS version FROM run GROUP BY plugin, origin) newest
  ON newest.plugin = r.plugin AND newest.origin = r.origin
WHERE r.method_version < newest.version
UNION ALL
SELECT 'run', r.run_id, r.run_id, r.method, 'trainer', r.trainer_version, newest.version
FROM run r CROSS JOIN (SELECT MAX(trainer_version) AS version FROM run) newest
WHERE r.trainer_version < newest.version
UNION ALL
SELECT 'evaluation', e.evaluation_id, e.run_id, e.attack, 'attack', e.attack_version, newest.version
FROM evaluation e
JOIN attack a ON a.attack_key = e.attack_key
JOIN (SELECT a.plugin AS plugin, MAX(e.attack_version) AS version
      FROM evaluation e JOIN attack a ON a.attack_key = e.attack_key GROUP BY a.plugin) newest
  ON newest.plugin = a.plugin
WHERE e.attack_version < newest.version
UNION ALL
SELECT 'evaluation', e.evaluation_id, e.run_id, e.attack, 'evaluator', e.evaluator_version, newest.version
FROM evaluation e CROSS JOIN (SELECT MAX(evaluator_version) AS version FROM evaluation) newest
WHERE e.evaluator_version < newest.version
"""

_PERCENT = "100 * CAST(CASE WHEN e.kind = 'clean' THEN e.n_clean ELSE e.n_robust END AS DOUBLE PRECISION) / e.n"

# In the text of a record's settings, as both databases keep it: their functions for JSON differ.
_COARSE = """CAST(a.settings AS TEXT) LIKE '%"precision": "bfloat16"%'"""
_PRECISION = f"CASE WHEN {_COARSE} THEN 'bfloat16' ELSE 'float32' END"

# One row per table cell: current evaluations of one family under one protocol on the same images, over its seeds.
_CELLS = f"""
SELECT e.kind AS kind, r.dataset AS dataset, r.model AS model, r.recipe AS recipe,
       MIN(CAST(r.recipe_changes AS TEXT)) AS recipe_changes, r.training_limit AS training_limit,
       e.image_limit AS image_limit, MIN(r.method) AS method, r.members AS members, r.family_id AS family_id,
       MIN(e.attack) AS attack, {_PRECISION} AS precision,
       a.budget_name AS budget_name, a.budget AS budget, a.stop AS stop,
       COUNT(DISTINCT r.seed) AS seeds, MAX(e.n) AS n,
       AVG({_PERCENT}) AS mean,
       MIN({_PERCENT}) AS lowest,
       MAX({_PERCENT}) AS highest
FROM evaluation e
JOIN run r ON r.run_id = e.run_id
JOIN attack a ON a.attack_key = e.attack_key
WHERE e.kind IN ('clean', 'attack')
  AND e.n > 0
  AND e.run_id NOT IN (SELECT id FROM stale WHERE kind = 'run')
  AND e.evaluation_id NOT IN (SELECT id FROM stale WHERE kind = 'evaluation')
GROUP BY e.kind, r.dataset, r.model, r.recipe, r.training_limit, e.image_limit, r.members, r.family_id,
         a.protocol_id, {_PRECISION}, a.budget_name, a.budget, a.stop, e.images_digest
"""

TABLE1 = f"""
SELECT dataset, method, attack, precision, budget_name, budget, stop, mean AS robust_percent, lowest AS lowest_percent,
       highest AS highest_percent, seeds, n, model, members, recipe, recipe_changes,
       training_limit, image_limit, family_id
FROM ({_CELLS}) cell
WHERE kind = 'attack'
"""

LEADERBOARD = f"""
SELECT dataset, MIN(method) AS method, AVG(CASE WHEN kind = 'clean' THEN mean END) AS clean_percent,
       AVG(CASE WHEN kind = 'attack' THEN mean END) AS robust_percent_mean,
       MIN(CASE WHEN kind = 'attack' THEN mean END) AS robust_percent_lowest,
       COUNT(CASE WHEN kind = 'attack' THEN 1 END) AS attacks, MIN(seeds) AS seeds, model, members, recipe,
       MIN(recipe_changes) AS recipe_changes, training_limit, image_limit, family_id
FROM ({_CELLS}) cell
WHERE precision = 'float32'
GROUP BY dataset, model, members, recipe, training_limit, image_limit, family_id
"""

TRANSFER_RATE = f"""
SELECT t.evaluation_id AS evaluation_id, r.run_id AS run_id, r.dataset AS dataset, r.method AS method, r.seed AS seed,
       e.attack AS attack, {_PRECISION} AS precision, a.budget_name AS budget_name, a.budget AS budget,
       t.source AS source, t.target AS target, e.n AS n, t.n_missed AS n_missed, t.n_correct_all AS n_correct_all,
       t.n_missed_correct_all AS n_missed_correct_all, t.n_correct_both AS n_correct_both,
       t.n_missed_correct_both AS n_missed_correct_both, t.n_definition6 AS n_definition6,
       100 * CAST(t.n_missed_correct_all AS DOUBLE PRECISION) / NULLIF(t.n_correct_all, 0) AS percent_correct_all,
       100 * CAST(t.n_missed_correct_both AS DOUBLE PRECISION) / NULLIF(t.n_correct_both, 0) AS percent_correct_both,
       100 * CAST(t.n_missed AS DOUBLE PRECISION) / NULLIF(e.n, 0) AS percent_all,
       100 * CAST(t.n_definition6 AS DOUBLE PRECISION) / NULLIF(e.n, 0) AS percent_definition6,
       100 * CAST(t.n_definition6 AS DOUBLE PRECISION) / NULLIF(t.n_correct_both, 0)
           AS percent_definition6_conditional
FROM transfer t
JOIN evaluation e ON e.evaluation_id = t.evaluation_id
JOIN run r ON r.run_id = e.run_id
JOIN attack a ON a.attack_key = e.attack_key
"""

# In the order in which they can be made: later ones read earlier ones.
VIEWS = {"stale": STALE, "table1": TABLE1, "leaderboard": LEADERBOARD, "transfer_rate": TRANSFER_RATE}


def are_current(connection: Connection) -> bool:
    """Whether the views of a database are those of today, by the digest that it keeps of them."""
    return connection.execute(text("SELECT value FROM meta WHERE key = 'views'")).scalar() == content_id(VIEWS)


def renew(connection: Connection) -> bool:
    """Make the views of today where the database has others, inside the caller's writing transaction.

    Returns:
        Whether it had others: another writer may have been here first.
    """
    if connection.dialect.name == "postgresql":  # SQLite's transactions that write are alone from their start
        connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE}s'"))
        connection.execute(text("LOCK TABLE meta IN SHARE ROW EXCLUSIVE MODE"))
    if are_current(connection):
        return False
    drop(connection)
    make(connection)
    return True


def drop(connection: Connection) -> None:
    """Drop those of the views that are there."""
    existing = set(inspect(connection).get_view_names())
    for name in reversed(VIEWS):
        if name in existing:
            connection.execute(text(f"DROP VIEW {name}"))


def make(connection: Connection) -> None:
    """Make the views, and keep their digest."""
    for name, query in VIEWS.items():
        connection.execute(text(f"CREATE VIEW {name} AS {query.strip()}"))
    connection.execute(text("DELETE FROM meta WHERE key = 'views'"))
    connection.execute(text("INSERT INTO meta (key, value) VALUES ('views', :digest)"), {"digest": content_id(VIEWS)})
