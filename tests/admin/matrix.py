"""`deploy/permissions.toml`, and the routes of the application that it speaks of."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

MATRIX = tomllib.loads((Path(__file__).parents[2] / "deploy" / "permissions.toml").read_text(encoding="utf-8"))
SECRETS = re.compile(
    r"\$argon2|password_hash|digest|private(?!_key_jwt)|sealed|salt|seed|(?-i:\bv[a-z]{2}_[A-Za-z0-9_-]{20})",
    re.IGNORECASE,
)
"""What no answer may hold: hashes, digests, private keys, tokens and client secrets."""
METHODS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True)
class Operation:
    """One operation of the file, and where it is served."""

    name: str
    method: str
    path: str
    described: dict[str, Any]

    @property
    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = MATRIX["operations"][self.name]
        return found

    @property
    def here(self) -> str:
        """Its path, with ids that nobody has."""
        return re.sub(r"\{\w+\}", lambda _: str(uuid4()), self.path)

    @property
    def reads(self) -> set[str] | None:
        """The members of a good answer; None where the file does not tell them."""
        return set(MATRIX["shapes"][self.entry["reads"]]) if "reads" in self.entry else None


async def description(http: httpx.AsyncClient) -> dict[str, Any]:
    """The API's own description."""
    answer = await http.get("/openapi.json")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def operations(document: dict[str, Any]) -> list[Operation]:
    """Every operation that is described; HEAD is what GET is."""
    return [
        Operation(operation["operationId"], method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema in the place of references to it."""
    while "$ref" in schema:
        target: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        schema = target
    return schema


def body_of(document: dict[str, Any], operation: Operation) -> dict[str, Any] | None:
    """The schema of a JSON body, None for an operation without."""
    content = operation.described.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return None
    schema = resolved(document, content["application/json"]["schema"])
    return schema


def answer_of(document: dict[str, Any], operation: Operation) -> dict[str, Any] | None:
    """The schema of a good JSON answer; of one entry where it is a list."""
    for status, response in operation.described["responses"].items():
        schema = response.get("content", {}).get("application/json", {}).get("schema")
        if status.startswith("2") and schema:
            schema = resolved(document, schema)
            if schema.get("type") == "array":
                return resolved(document, schema["items"])
            if "items" in schema.get("properties", {}):
                return resolved(document, schema["properties"]["items"]["items"])
            return schema
    return None


def assert_shown(name: str, answer: httpx.Response) -> Any:
    """Whether a good answer has the members of the file, and nothing in it is a secret; the document."""
    assert answer.status_code in {200, 201, 202}, answer.text
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    entry = MATRIX["operations"][name]
    shown = document["items"] if isinstance(document, dict) and entry.get("items") else document
    for each in shown if isinstance(shown, list) else [shown]:
        assert set(each) == set(MATRIX["shapes"][entry["reads"]]), name
    is_new = "client_secret" in MATRIX["shapes"][entry["reads"]]
    rest = re.sub(r'"(kid|x|y|n)":"[^"]+"', "", answer.text)  # of public keys: it may look like anything
    rest = re.sub(r'"client_secret":"[^"]+"', "", rest) if is_new else rest
    assert not SECRETS.search(rest), SECRETS.search(rest)
    return document
