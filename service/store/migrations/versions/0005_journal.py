"""What a lost or old Redis is healed from: what a session was granted, when it was used, and a log of revocations."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True),
        sa.Column("at", MOMENT, nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("session_id", sa.Uuid()),
        sa.Column("jti", sa.String()),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("ends_at", MOMENT, nullable=False),
    )
    op.create_index("revocations_at_index", "revocations", ["at"])
    op.create_index("revocations_ends_at_index", "revocations", ["ends_at"])
    op.create_index("revocations_jti_index", "revocations", ["jti"], postgresql_where=sa.text("jti IS NOT NULL"))
    # Null in the rows that the release before this one writes: the first token's scope, the moment it was opened.
    op.add_column("sessions", sa.Column("granted", sa.String()))
    op.add_column("sessions", sa.Column("authenticated_at", MOMENT))
    op.add_column("sessions", sa.Column("used_at", MOMENT))
    op.add_column("sessions", sa.Column("generation", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    for column in ("granted", "authenticated_at", "used_at", "generation"):
        op.drop_column("sessions", column)
    op.drop_table("revocations")
