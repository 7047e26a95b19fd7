"""The outbox, one-time tokens, and what an account and a session know besides."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    # The defaults stay: pods of the version before insert rows beside us during a rollout.
    now = sa.func.now()
    op.add_column("accounts", sa.Column("password_changed_at", MOMENT, nullable=False, server_default=now))
    op.execute("UPDATE accounts SET password_changed_at = created_at")
    op.add_column("accounts", sa.Column("locale", sa.String(), nullable=False, server_default="en"))
    op.add_column("accounts", sa.Column("avatar_url", sa.String()))
    op.add_column("sessions", sa.Column("place", sa.String(), nullable=False, server_default=""))
    op.create_index("sessions_over_index", "sessions", [sa.text("coalesce(ended_at, expires_at)")])
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("lane", sa.String(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("account_id", sa.Uuid()),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("next_try_at", MOMENT, nullable=False),
        sa.Column("leased_until", MOMENT),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("dead_at", MOMENT),
        sa.Column("reason", sa.String()),
    )
    waits = sa.text("dead_at IS NULL")
    op.create_index("outbox_account_id_index", "outbox", ["account_id"])
    op.create_index("outbox_lane_id_index", "outbox", ["lane", "id"], postgresql_where=waits)
    op.create_index("outbox_next_try_at_id_index", "outbox", ["next_try_at", "id"], postgresql_where=waits)
    op.create_table(
        "one_time_tokens",
        sa.Column("account_id", sa.Uuid(), primary_key=True),
        sa.Column("purpose", sa.String(), primary_key=True),
        sa.Column("slot", sa.String(), primary_key=True),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("email", sa.String()),
        sa.Column("password_changed_at", MOMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
    )
    op.create_index("one_time_tokens_expires_at_index", "one_time_tokens", ["expires_at"])
    op.create_index("audit_events_at_index", "audit_events", ["at"], postgresql_using="brin")


def downgrade() -> None:
    op.drop_index("audit_events_at_index", "audit_events")
    op.drop_table("one_time_tokens")
    op.drop_table("outbox")
    op.drop_index("sessions_over_index", "sessions")
    op.drop_column("sessions", "place")
    for column in ("avatar_url", "locale", "password_changed_at"):
        op.drop_column("accounts", column)
