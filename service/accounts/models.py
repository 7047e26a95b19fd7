"""The accounts table."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from service.errors import AccountDisabled, PasswordChangeRequired
from service.store.postgres import Table

EMAIL_KEY = "accounts_email_key"
NICKNAME_KEY = "accounts_nickname_key_key"


class Account(Table):
    """A person whose address is proved: no row exists before that.

    `email` is in its canonical form (see `names.py`); `nickname_key` is the nickname as it is compared; `locale` is a
    BCP 47 tag. `password_changed_at` marks the credentials: whatever was decided under older ones is void. With
    `password_change_required` the password opens nothing until a mailed link has set another one.
    """

    __tablename__ = "accounts"
    __table_args__ = (
        Index("accounts_email_prefix_index", "email", postgresql_ops={"email": "text_pattern_ops"}),
        Index("accounts_nickname_prefix_index", "nickname_key", postgresql_ops={"nickname_key": "text_pattern_ops"}),
        Index(None, "created_at", "id"),
        Index("accounts_roles_index", "roles", postgresql_using="gin"),
        Index("accounts_disabled_index", "created_at", "id", postgresql_where=text("disabled_at IS NOT NULL")),
        Index(
            "accounts_password_change_required_index",
            "created_at",
            "id",
            postgresql_where=text("password_change_required"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    nickname: Mapped[str]
    nickname_key: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str | None]
    password_changed_at: Mapped[datetime]
    password_change_required: Mapped[bool] = mapped_column(default=False)
    locale: Mapped[str]
    avatar_url: Mapped[str | None]
    roles: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]

    def ensure_enabled(self) -> None:
        """Raises `AccountDisabled`."""
        if self.disabled_at is not None:
            raise AccountDisabled

    def ensure_may_enter(self) -> None:
        """Raises `AccountDisabled`, `PasswordChangeRequired`.

        Ask only after the password was right: it tells that the account exists.
        """
        self.ensure_enabled()
        if self.password_change_required:
            raise PasswordChangeRequired
