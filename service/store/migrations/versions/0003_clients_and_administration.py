"""What clients are registered with, their secrets, APIs, revoked keys, and the ways operators look for accounts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TEXT

revision = "0003"
down_revision = "0002"

MOMENT = sa.DateTime(timezone=True)
LISTS = ("grants", "scopes", "audiences", "serves", "redirect_uris", "origins")
LIVES = ("access_token_life", "session_idle", "session_absolute")


def upgrade() -> None:
    # The defaults stay: pods of the version before insert rows beside us during a rollout. What they register is
    # shut until somebody says what it may.
    for name, column in (("email", "email"), ("nickname", "nickname_key")):
        ops = {column: "text_pattern_ops"}
        op.create_index(f"accounts_{name}_prefix_index", "accounts", [column], postgresql_ops=ops)
    op.create_index("accounts_created_at_id_index", "accounts", ["created_at", "id"])
    op.create_index("accounts_roles_index", "accounts", ["roles"], postgresql_using="gin")
    op.create_index(
        "accounts_disabled_index", "accounts", ["created_at", "id"], postgresql_where=sa.text("disabled_at IS NOT NULL")
    )
    op.create_index("audit_events_at_id_index", "audit_events", ["at", "id"])
    op.create_index("audit_events_client_id_at_index", "audit_events", ["client_id", "at"])
    op.add_column("signing_keys", sa.Column("revoked_at", MOMENT))
    for name in LISTS:
        op.add_column("clients", sa.Column(name, ARRAY(TEXT), nullable=False, server_default="{}"))
    methods = "{client_secret_basic,client_secret_post}"
    op.add_column("clients", sa.Column("auth_methods", ARRAY(TEXT), nullable=False, server_default=methods))
    op.add_column("clients", sa.Column("jwks", JSONB()))
    for name in LIVES:
        op.add_column("clients", sa.Column(name, sa.Integer()))
    op.create_table(
        "client_secrets",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("client_id", sa.String(), sa.ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("reminded", sa.Integer()),
    )
    op.create_index("client_secrets_client_id_index", "client_secrets", ["client_id"])
    op.create_table(
        "apis",
        sa.Column("identifier", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scopes", ARRAY(TEXT), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    op.execute(
        "INSERT INTO client_secrets (id, client_id, digest, created_at) "
        "SELECT gen_random_uuid(), id, secret_digest, created_at FROM clients WHERE secret_digest LIKE '%:%'"
    )
    op.execute("UPDATE clients SET grants = '{client_credentials}' WHERE secret_digest IS NOT NULL")
    op.execute(
        "UPDATE clients SET auth_methods = '{none}', grants = '{refresh_token}', "
        "scopes = CASE WHEN id = 'web' THEN '{account,admin}'::text[] ELSE '{account}'::text[] END "
        "WHERE secret_digest IS NULL"
    )
    # Last, since it keeps everybody from the table until the end; the indexes above let people sign in.
    op.add_column(
        "accounts", sa.Column("password_change_required", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_index(
        "accounts_password_change_required_index",
        "accounts",
        ["created_at", "id"],
        postgresql_where=sa.text("password_change_required"),
    )


def downgrade() -> None:
    op.drop_table("apis")
    op.drop_table("client_secrets")
    for name in (*LISTS, "auth_methods", "jwks", *LIVES):
        op.drop_column("clients", name)
    op.drop_column("signing_keys", "revoked_at")
    for name in ("client_id_at", "at_id"):
        op.drop_index(f"audit_events_{name}_index", "audit_events")
    for name in ("password_change_required", "disabled", "roles", "created_at_id", "nickname_prefix", "email_prefix"):
        op.drop_index(f"accounts_{name}_index", "accounts")
    op.drop_column("accounts", "password_change_required")
