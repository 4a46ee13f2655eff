"""What stood among an attack's settings gets columns; what a result is worth, and its scores, tables.

- `attack`: `targets` and `precision`, which the harness decides, leave the settings; `protocol_id` is `setting_id`.
- `evaluation.split`, and `provenance` of runs and evaluations; `run.versions`, part by part.
- `blackbox.loss` held the name of an attack: `attack`.
- `standing` and `score` are derived; `pending` notes the runs whose are to be made anew.
"""

from __future__ import annotations

import uuid
from itertools import product
from typing import Any

import sqlalchemy as sa
from alembic import op

from bench.core.identity import content_id
from bench.store.standing import run_versions

revision = "0002"
down_revision = "0001"

JSON = sa.JSON(none_as_null=True)
HARNESS = {"targets": ("random", "least_likely"), "precision": ("bfloat16",)}


def upgrade() -> None:
    op.execute("ALTER TABLE attack RENAME COLUMN protocol_id TO setting_id")
    op.add_column("attack", sa.Column("targets", sa.Text(), nullable=True))
    op.add_column("attack", sa.Column("precision", sa.Text(), nullable=False, server_default="float32"))
    op.add_column("evaluation", sa.Column("split", sa.Text(), nullable=False, server_default="test"))
    op.add_column("evaluation", sa.Column("provenance", sa.Text(), nullable=False, server_default="measured"))
    op.add_column("run", sa.Column("provenance", sa.Text(), nullable=False, server_default="measured"))
    op.add_column("run", sa.Column("versions", JSON, nullable=False, server_default="{}"))
    op.execute("ALTER TABLE blackbox RENAME COLUMN loss TO attack")
    op.create_table(
        "standing",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", JSON, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.run_id"], name="fk_standing_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_standing"),
    )
    op.create_index("ix_standing_run_id", "standing", ["run_id"])
    op.create_table(
        "score",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("eps", sa.Float(), nullable=False),
        sa.Column("standard_id", sa.Text(), nullable=False),
        sa.Column("recipes", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("n_clean", sa.Integer(), nullable=False),
        sa.Column("n_robust", sa.Integer(), nullable=False),
        sa.Column("n_lowest", sa.Integer(), nullable=False),
        sa.Column("seeds_demanded", sa.Integer(), nullable=False),
        sa.Column("n_lacking", sa.Integer(), nullable=False),
        sa.Column("lacking", JSON, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.run_id"], name="fk_score_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "protocol", "version", "eps", name="pk_score"),
    )
    op.create_table(
        "pending",
        sa.Column("stamp", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("stamp", name="pk_pending"),
    )
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    metadata = sa.MetaData()
    metadata.reflect(connection, only=("attack", "evaluation", "run", "pending"))
    attack, evaluation, run, pending = (metadata.tables[name] for name in ("attack", "evaluation", "run", "pending"))
    for table, name in ((attack, "settings"), (run, "config"), (run, "versions")):
        table.c[name].type = JSON
    configs: dict[str, dict[str, Any]] = {}
    told = sa.select(run.c.run_id, run.c.config, run.c.trainer_version, run.c.method_version)
    for run_id, config, trainer, method in connection.execute(told).all():
        configs[run_id] = config
        found = _versions(config, trainer, method)
        connection.execute(sa.update(run).where(run.c.run_id == run_id).values(versions=found))
        connection.execute(sa.insert(pending), {"stamp": uuid.uuid4().hex, "run_id": run_id})
    for row in connection.execute(sa.select(attack)).mappings().all():
        example = connection.execute(
            sa.select(evaluation.c.kind, evaluation.c.image_limit, evaluation.c.run_id)
            .where(evaluation.c.attack_key == row["attack_key"])
            .limit(1)
        ).first()
        config = None if example is None else configs.get(example.run_id)
        if not isinstance(config, dict) or not isinstance(row["settings"], dict):
            continue
        settings, harness, split = _told_apart(dict(row), example, config)
        about = {"plugin": row["plugin"], "settings": settings, "budget_name": row["budget_name"],
                 "budget": row["budget"], "stop": row["stop"], **harness}  # fmt: skip
        values = {"targets": harness.get("targets"), "precision": harness.get("precision", "float32")}
        here = attack.c.attack_key == row["attack_key"]
        connection.execute(
            sa.update(attack).where(here).values(settings=settings, setting_id=content_id(about), **values)
        )
        if split != "test":
            here = evaluation.c.attack_key == row["attack_key"]
            connection.execute(sa.update(evaluation).where(here).values(split=split))


def _versions(config: Any, trainer: int, method: int) -> dict[str, int]:
    """Part → version; none of a row that is damaged, which readers set aside."""
    try:
        return run_versions(config, trainer, method)
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _told_apart(
    row: dict[str, Any], example: Any, config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str], str]:
    """The attack's own settings, what the harness decided, and the split: those that the attack's key is made of."""
    told = dict(row["settings"])
    names = [name for name, values in HARNESS.items() if told.get(name) in values]
    identity = {
        "kind": example.kind, "plugin": row["plugin"], "budget": [row["budget_name"], row["budget"]],
        "stop": row["stop"], "dataset": [config.get("dataset_plugin"), config.get("dataset_settings") or {}],
        "limit": example.image_limit,
    }  # fmt: skip
    for split in ("test", "validation"):
        for chosen in product((True, False), repeat=len(names)):
            harness = {name: told[name] for name, yes in zip(names, chosen, strict=True) if yes}
            own = {name: value for name, value in told.items() if name not in harness}
            if content_id({**identity, "settings": own, "split": split, **harness}) == row["attack_key"]:
                return own, harness, split
    harness = {name: told.pop(name) for name in names}
    return told, harness, "test"
