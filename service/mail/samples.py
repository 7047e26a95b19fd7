"""What the messages look like filled in: for the preview, and for the tests."""

from collections.abc import Mapping

EVERYWHERE: Mapping[str, object] = {"service": "Harbour", "nickname": "ann"}
SEEN: Mapping[str, object] = {"at": "2026-11-20 16:32 UTC", "device": "Firefox, Linux", "place": "KR"}
URL = "https://id.example.com/auth/confirm"
TOKEN = "3q2-7wAxUu0oHsjVX8rZcQ5mYtKfLb1nGdPaEi94TOw"  # noqa: S105  nobody's

SAMPLES: Mapping[str, Mapping[str, object]] = {
    "verify": {
        **EVERYWHERE,
        "code": "012345",
        "minutes": 10,
        "until": "2026-11-20 16:42 UTC",
        "link": f"{URL}#verify={TOKEN}",
        "link_minutes": 60,
    },
    "already_registered": EVERYWHERE,
    "reset": {**EVERYWHERE, "link": f"{URL}#reset={TOKEN}", "minutes": 30, "until": "2026-11-20 17:02 UTC"},
    "password_changed": {**EVERYWHERE, **SEEN, "cause": "changed"},
    "password_locked": {**EVERYWHERE, "at": "2026-11-20 16:32 UTC", "failures": 100},
    "email_change": {**EVERYWHERE, "link": f"{URL}#email={TOKEN}", "minutes": 60, "until": "2026-11-20 17:32 UTC"},
    "email_change_requested": {**EVERYWHERE, **SEEN, "new_email": "ann@new.example"},
    "email_in_use": EVERYWHERE,
    "email_changed": {
        **EVERYWHERE,
        **SEEN,
        "new_email": "ann@new.example",
        "link": f"{URL}#undo={TOKEN}",
        "hours": 24,
    },
    "email_undone": {**EVERYWHERE, **SEEN},
    "nickname_changed": {**EVERYWHERE, **SEEN, "nickname": "anna", "old_nickname": "ann", "new_nickname": "anna"},
    "new_device": {**EVERYWHERE, **SEEN, "failures": 3},
    "session_reused": {**EVERYWHERE, **SEEN},
    "identity_linked": {**EVERYWHERE, **SEEN, "provider": "Discord"},
    "identity_unlinked": {**EVERYWHERE, **SEEN, "provider": "Discord"},
    "secret_expires": {**EVERYWHERE, "client": "orders", "days": 7, "until": "2026-11-27 16:32 UTC"},
    "account_closed": {**EVERYWHERE, "at": "2026-11-20 16:32 UTC"},
}
