"""Schemathesis sends what it thinks of, and collects what is wrong with the answers."""

import copy
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import hypothesis
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.generation.drivers import CoverageGenerator
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.generation.overrides import Override
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from tests.clients.server import Running

Case: TypeAlias = schemathesis.Case[Any]
Operation: TypeAlias = APIOperation[Any, Any, Any, Any]
BOTH = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
NOT_ASKED = [ignored_auth, positive_data_acceptance]
"""See `test_schemathesis.py` for the reasons."""
EXAMPLES = 8


@dataclass
class Findings:
    """What was answered, by operation, and what is wrong with it."""

    answered: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    complaints: dict[str, str] = field(default_factory=dict)

    def judge(self, case: Case, session: requests.Session) -> None:
        """One request and its answer; a complaint that was made before is not made again."""
        label = case.operation.label
        answer = case.call(session=session, allow_redirects=False)
        if case.method == case.operation.method.upper():
            self.answered[label].add(answer.status_code)
        try:
            case.validate_response(answer, excluded_checks=NOT_ASKED)
        except FailureGroup as group:
            for each in sorted(group.exceptions, key=lambda failure: failure.title):
                told = f"{each.message}\n{case.as_curl_command(headers={})}\n{answer.status_code} {answer.text[:200]}"
                self.complaints.setdefault(f"{label}: {each.title}", told)

    def assert_none(self) -> None:
        """Fails with everything that is wrong."""
        assert not self.complaints, "\n\n".join(f"{title}\n{told}" for title, told in self.complaints.items())

    def cover(self, operation: Operation, headers: dict[str, str]) -> None:
        """Every boundary of an operation's description, from inside and from outside."""
        cases = CoverageGenerator(
            operation=operation,
            generation_modes=BOTH,
            generation_config=operation.schema.config.generation_for(operation=operation, phase="coverage"),
            auth_storage=None,
            override=Override(),
            feedback=NO_FEEDBACK,
        )
        with requests.Session() as session:
            session.headers.update(headers)
            for case in cases:
                self.judge(case, session)

    def fuzz(self, operation: Operation) -> None:
        """A little of anything, without credentials; the same in each run."""

        @hypothesis.given(case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in BOTH]))
        @hypothesis.settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def examine(case: Case) -> None:
            self.judge(case, session)

        with requests.Session() as session:
            examine()


Known = dict[str, list[Any]]
"""Good values by the name of a field or of a part of a path, or by a path and such a name."""


def operations(at: Running, document: dict[str, Any]) -> list[Operation]:
    """Every operation, in the order of the description."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=at.issuer)
    found = list(schema.get_all_operations())
    assert all(isinstance(each, Ok) for each in found)
    return [each.ok() for each in found if isinstance(each, Ok)]


def informed(document: dict[str, Any], known: Known, without: Collection[str] = ()) -> dict[str, Any]:
    """The description with values that are known as the examples of requests; no word of an answer is touched. What
    it is to do without is no field of a form any more."""
    made = copy.deepcopy(document)
    for path, item in made["paths"].items():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    _exemplify(parameter["schema"], path, parameter["name"], known)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                content["schema"] = copy.deepcopy(made["components"]["schemas"].get(name, content["schema"]))
                fields = content["schema"].get("properties", {})
                for field_name in without:
                    fields.pop(field_name, None)
                for field_name, schema in fields.items():
                    _exemplify(schema, path, field_name, known)
    return made


def _exemplify(schema: dict[str, Any], path: str, name: str, known: Known) -> None:
    values = known.get(f"{path} {name}", known.get(name))
    if values is not None:
        schema["examples"] = values
