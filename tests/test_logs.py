"""What the log looks like to whoever collects it."""

import json
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

LINES = """
import logging, structlog
from service import logs
logs.configure(readable=False)
structlog.contextvars.bind_contextvars(request_id="abcdef0123456789", address="192.0.2.1")
structlog.get_logger("vestibule.audit").info("login", outcome="refused\\r\\n{\\"forged\\": true}\\x1b[31m")
logging.getLogger("sqlalchemy.pool").error("the pool\\nis empty")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("vestibule.app").exception("a request crashed")
print([type(handler).__name__ for handler in logging.getLogger().handlers], [
    name for name, found in logging.root.manager.loggerDict.items()
    if isinstance(found, logging.Logger) and found.handlers
])
"""


@pytest.fixture(scope="module")
def lines() -> list[str]:
    ran = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stderr == ""
    return sorted(ran.stdout.splitlines(), key=lambda line: not line.startswith("{"))  # the log is a moment behind


@pytest.mark.standard("LO-02", "LO-05", "LO-11")
def test_each_entry_is_one_line_of_json_whatever_it_holds(lines: list[str]) -> None:
    entries = [json.loads(line) for line in lines[:-1]]
    assert [entry["event"] for entry in entries] == ["login", "the pool\nis empty", "a request crashed"]
    assert entries[0]["outcome"] == 'refused\r\n{"forged": true}\x1b[31m'
    assert all("\x1b" not in line for line in lines)
    assert all(entry["request_id"] == "abcdef0123456789" for entry in entries)
    assert "ZeroDivisionError" in entries[2]["exception"]


@pytest.mark.standard("LO-03")
def test_times_are_utc_and_say_so(lines: list[str]) -> None:
    for line in lines[:-1]:
        stamp = json.loads(line)["timestamp"]
        assert stamp.endswith("Z")
        assert datetime.fromisoformat(stamp).utcoffset() == timedelta(0)


@pytest.mark.standard("LO-04", "LO-13")
def test_everything_goes_to_standard_output_and_nowhere_else(lines: list[str]) -> None:
    assert lines[-1] == "['StreamHandler'] []"
