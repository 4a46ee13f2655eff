"""Views for people, in SQL that SQLite and PostgreSQL share; a writer makes them anew where a database has others.

They read what `bench.store.derived` wrote: what is not current (`stale`) is left out of `table1`, `leaderboard` holds
the scores under declared protocols. Rates are in percent.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from bench.core.identity import content_id

PATIENCE = 10  # seconds that PostgreSQL waits for those who read the views (a dump, say)

STALE = """
SELECT w.kind AS kind, w.id AS id, w.run_id AS run_id,
       CASE WHEN w.kind = 'run' THEN r.method ELSE e.attack END AS name, w.state AS state, w.why AS why
FROM standing w
JOIN run r ON r.run_id = w.run_id
LEFT JOIN evaluation e ON e.evaluation_id = w.id
"""

_PERCENT = "100 * CAST(CASE WHEN e.kind = 'clean' THEN e.n_clean ELSE e.n_robust END AS DOUBLE PRECISION) / e.n"

TABLE1 = f"""
SELECT r.dataset AS dataset, MIN(r.method) AS method, MIN(e.attack) AS attack, a.precision AS precision,
       a.targets AS targets, a.budget_name AS budget_name, a.budget AS budget, a.stop AS stop,
       AVG({_PERCENT}) AS robust_percent, MIN({_PERCENT}) AS lowest_percent, MAX({_PERCENT}) AS highest_percent,
       COUNT(DISTINCT r.seed) AS seeds, MAX(e.n) AS n, r.model AS model, r.members AS members, r.recipe AS recipe,
       MIN(CAST(r.recipe_changes AS TEXT)) AS recipe_changes, r.training_limit AS training_limit,
       e.image_limit AS image_limit, r.family_id AS family_id
FROM evaluation e
JOIN run r ON r.run_id = e.run_id
JOIN attack a ON a.attack_key = e.attack_key
WHERE e.kind = 'attack' AND e.split = 'test' AND e.n > 0
  AND NOT EXISTS (SELECT 1 FROM standing w WHERE w.id = e.evaluation_id)
GROUP BY r.dataset, r.model, r.recipe, r.training_limit, e.image_limit, r.members, r.family_id,
         a.setting_id, a.precision, a.targets, a.budget_name, a.budget, a.stop, e.images_digest
"""

_SHARE = "100 * CAST({} AS DOUBLE PRECISION) / one.n"

# Of several runs of a seed the one with most parts; of a family its complete seeds, or where there is none all.
LEADERBOARD = f"""
SELECT one.protocol AS protocol, one.version AS version, one.eps AS eps, one.recipes AS recipes,
       MIN(one.dataset) AS dataset,
       CASE WHEN MAX(one.n_lacking) = 0 AND COUNT(*) >= MAX(one.seeds_demanded)
            THEN RANK() OVER (PARTITION BY one.protocol, one.version, one.eps, one.recipes,
                                           CASE WHEN MAX(one.n_lacking) = 0 AND COUNT(*) >= MAX(one.seeds_demanded)
                                                THEN 1 ELSE 0 END
                              ORDER BY ROUND(CAST(AVG({_SHARE.format("one.n_robust")}) AS NUMERIC), 9) DESC)
       END AS rank,
       MIN(one.method) AS method,
       AVG({_SHARE.format("one.n_robust")}) AS robust_percent,
       AVG({_SHARE.format("one.n_clean")}) AS clean_percent,
       AVG({_SHARE.format("one.n_lowest")}) AS lowest_known_percent,
       CASE WHEN MAX(one.n_lacking) = 0 AND COUNT(*) >= MAX(one.seeds_demanded) THEN 0 ELSE 1 END AS provisional,
       COUNT(*) AS seeds, MAX(one.n) AS n, MIN(one.model) AS model, MIN(one.members) AS members,
       MIN(one.recipe) AS recipe, MIN(one.recipe_changes) AS recipe_changes, one.family_id AS family_id
FROM (
  SELECT s.*, r.dataset AS dataset, r.method AS method, r.model AS model, r.members AS members, r.recipe AS recipe,
         CAST(r.recipe_changes AS TEXT) AS recipe_changes, r.family_id AS family_id,
         MIN(s.n_lacking) OVER (PARTITION BY s.protocol, s.version, s.eps, s.recipes, r.family_id) AS fewest,
         ROW_NUMBER() OVER (PARTITION BY s.protocol, s.version, s.eps, s.recipes, r.family_id, r.seed
                            ORDER BY s.n_lacking, r.started DESC, r.run_id DESC) AS place
  FROM score s
  JOIN run r ON r.run_id = s.run_id
) one
WHERE one.place = 1 AND (one.n_lacking = 0 OR one.fewest > 0)
GROUP BY one.protocol, one.version, one.eps, one.recipes, one.family_id
"""

TRANSFER_RATE = """
SELECT t.evaluation_id AS evaluation_id, r.run_id AS run_id, r.dataset AS dataset, r.method AS method, r.seed AS seed,
       e.attack AS attack, a.precision AS precision, a.targets AS targets, a.budget_name AS budget_name,
       a.budget AS budget, COALESCE(w.state, 'current') AS state,
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
LEFT JOIN standing w ON w.id = t.evaluation_id
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
