"""Accounts, sessions, clients, signing keys, audit events."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("nickname", sa.String(), nullable=False),
        sa.Column("nickname_key", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String()),
        sa.Column("roles", ARRAY(sa.TEXT()), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("disabled_at", MOMENT),
        sa.UniqueConstraint("email", name="accounts_email_key"),
        sa.UniqueConstraint("nickname_key", name="accounts_nickname_key_key"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column(
            "account_id",
            sa.Uuid(),
            sa.ForeignKey("accounts.id", name="sessions_account_id_fkey", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("client_id", sa.String(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("amr", ARRAY(sa.TEXT()), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("user_agent", sa.String(), nullable=False),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.Column("ended_reason", sa.String()),
    )
    op.create_index("sessions_account_id_opened_at_index", "sessions", ["account_id", "opened_at"])
    op.create_table(
        "clients",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_digest", sa.String()),
        sa.Column("may_introspect", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("disabled_at", MOMENT),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(), primary_key=True),
        sa.Column("private_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("activates_at", MOMENT),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("account_id", sa.Uuid()),
        sa.Column("client_id", sa.String()),
        sa.Column("session_id", sa.String()),
        sa.Column("address", sa.String()),
        sa.Column("user_agent", sa.String()),
        sa.Column("request_id", sa.String()),
        sa.Column("detail", JSONB(), nullable=False),
    )
    op.create_index("audit_events_account_id_at_index", "audit_events", ["account_id", "at"])
    op.create_index("audit_events_event_at_index", "audit_events", ["event", "at"])


def downgrade() -> None:
    for table in ("audit_events", "signing_keys", "clients", "sessions", "accounts"):
        op.drop_table(table)
