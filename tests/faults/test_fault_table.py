"""The table of `just faults` is complete, what it points to exists, and its quick faults are held."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.faults.catalogue import FAULTS, has_test
from deploy.faults.table import Fault, Finding, Row, as_json, printed
from deploy.faults.world import World

QUICK = (9, 25)
"""Faults that look at no clock: what they show does not depend on how busy the machine is."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world")) as made:
        yield made


def test_every_fault_has_one_row() -> None:
    assert [fault.number for fault in FAULTS] == list(range(1, 56))


def test_every_row_says_what_is_promised_and_one_way_in_which_it_is_held() -> None:
    for fault in FAULTS:
        assert fault.name, fault.number
        assert fault.promise, fault.number
        assert [fault.inject is not None, bool(fault.tests), bool(fault.elsewhere)].count(True) == 1, fault.number


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.tests], ids=lambda fault: fault.name)
def test_the_tests_that_hold_a_fault_exist(fault: Fault) -> None:
    assert [name for name in fault.tests if not has_test(name)] == []


def test_a_test_that_is_not_there_is_missed() -> None:
    here = Path(__file__).relative_to(Path(__file__).parents[2])
    assert has_test(f"{here}::test_a_test_that_is_not_there_is_missed")
    assert not has_test(f"{here}::test_that_nobody_wrote")
    assert not has_test("tests/nowhere.py::test_a_test_that_is_not_there_is_missed")


def test_the_table_shows_every_word_of_a_row() -> None:
    fault = Fault(7, "a name", "how it comes", "a promise of more words than fit into one line of its column")
    row = Row(fault, "OPEN", "what was seen", 1.25)
    shown = " ".join(printed([row]).split())
    for word in (*fault.promise.split(), "name", "comes", "seen", "OPEN"):
        assert word in shown
    assert '"verdict": "OPEN"' in as_json([row])


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.number in QUICK], ids=lambda fault: fault.name)
def test_a_quick_fault_is_held(fault: Fault, world: World) -> None:
    finding = fault.inject(world) if fault.inject else Finding(broken=["is not injected"])
    assert finding.broken == []
    assert finding.seen
