"""Rules that hold for the whole code: read from its syntax tree, so that the next line keeps them too."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECRET = re.compile(r"secret|digest|mac$|signature|password|salt", re.IGNORECASE)
PUBLIC = {
    *("secret_digest", "password_hash"),  # compared with None and by PostgreSQL, never with what somebody sent
    "password_changed_at",  # a moment
}
IN_A_STATEMENT = {"OneTimeToken.digest", "ClientSecret.digest"}
"""Columns that PostgreSQL looks up: a keyed digest, of which nobody can choose the first bytes."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in (ROOT / "service").rglob("*.py"):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def calls() -> Iterator[tuple[str, str]]:
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield path, ast.unparse(node.func)


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.standard("KY-08")
def test_secrets_are_compared_in_constant_time() -> None:
    suspicious = [
        f"{path}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and ast.unparse(node.left) not in IN_A_STATEMENT
        and any(SECRET.search(name) and name not in PUBLIC for name in map(name_of, [node.left, *node.comparators]))
    ]
    assert suspicious == []


@pytest.mark.standard("CL-03", "CL-11", "KY-16")
def test_randomness_comes_from_the_system_and_no_uuid_is_a_secret() -> None:
    assert [c for c in calls() if re.match(r"random\.|uuid4|uuid\.uuid4|time\.time$", c[1])] == []


@pytest.mark.standard("KY-14", "KY-10")
def test_no_broken_hash_and_no_broken_cipher_but_where_a_protocol_fixes_it() -> None:
    broken = re.compile(r"\b(md5|sha1|SHA1|MD5|ECB|PKCS1v15|TripleDES)$")
    used = {(path, call) for path, call in calls() if broken.search(call)}
    assert used == {("service/accounts/breaches.py", "sha1"), ("service/store/redis.py", "sha1")}


@pytest.mark.standard("KY-15")
def test_integrity_rests_on_256_bits() -> None:
    assert {call for _, call in calls() if re.search(r"\bsha(224|384|512)$|blake", call)} == set()
    assert any(call == "sha256" for _, call in calls())


@pytest.mark.standard("PW-27")
def test_no_key_is_made_of_a_passphrase() -> None:
    """Keys derive from 32 random bytes by HKDF; the only thing people type goes into argon2id."""
    derivations = {(path, call) for path, call in calls() if re.search(r"HKDF|PBKDF2|Scrypt|hash_secret", call)}
    assert derivations == {("service/crypto/roots.py", "HKDF")}


@pytest.mark.standard("PF-13", "PF-14", "PF-15", "PF-17")
def test_nothing_is_evaluated_and_no_shell_is_asked() -> None:
    assert [c for c in calls() if c[1] in {"eval", "exec", "os.system", "pickle.loads", "yaml.load"}] == []
    shells = [
        f"{path}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "shell"
    ]
    assert shells == []


@pytest.mark.standard("KY-16")
def test_processes_that_fork_do_not_repeat_each_others_tokens() -> None:
    script = (
        "import os, sys\n"
        "from service.crypto.opaque import mint\n"
        "mint('vrg')\n"
        "children = []\n"
        "for _ in range(4):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        sys.stdout.write(''.join(mint('vrg') + '\\n' for _ in range(2000)))\n"
        "        sys.stdout.flush()\n"
        "        os._exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children:\n"
        "    os.waitpid(pid, 0)\n"
    )
    tokens = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    ).stdout.split()
    assert len(tokens) == len(set(tokens)) == 8000
