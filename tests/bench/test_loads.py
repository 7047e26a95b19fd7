"""The load generators, on the yardstick: they count what comes back, and take no wrong answer for a right one."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.bench.load import BenchError, Load, post, run, write
from deploy.bench.loader import Source, read
from deploy.bench.servers import yardstick
from deploy.bench.steps import FORM

SHORT = 0.9
"""Seconds; wrk counts whole ones, so that this is for the generator of our own."""
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
GENERATORS = [pytest.param(SHORT, id="ours"), pytest.param(1.0, id="wrk", marks=needs_wrk)]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """A handful of forms for R0."""
    folder = tmp_path_factory.mktemp("yardstick")
    file = write(folder / "requests", [post("/", b"token=%d" % number, FORM) for number in range(5)])
    with yardstick(folder) as program:
        program.wait()
        yield Load(program.port, file, '"active":true', connections=2)


@pytest.mark.parametrize("seconds", GENERATORS)
def test_what_comes_back_is_counted(load: Load, seconds: float) -> None:
    answers = run(load, seconds, check=True)
    assert answers.requests > 5
    assert answers.seconds == pytest.approx(seconds, rel=0.9)
    assert 0 < answers.p50 <= answers.p99
    assert answers.size > len('{"active":true}')


@pytest.mark.parametrize("seconds", GENERATORS)
def test_an_answer_that_says_something_else_is_no_answer(load: Load, seconds: float) -> None:
    with pytest.raises(BenchError, match="not what was asked for"):
        run(replace(load, expect='"active":false'), seconds, check=True)


@pytest.mark.parametrize("seconds", GENERATORS)
def test_a_refusal_is_no_answer_even_unread(load: Load, seconds: float, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "requests", [post("/nowhere", b"token=1", FORM)])
    with pytest.raises(BenchError, match="not what was asked for"):
        run(replace(load, requests=elsewhere), seconds)


@pytest.mark.parametrize("seconds", GENERATORS)
def test_a_request_that_should_be_new_is_not_sent_twice_unnoticed(load: Load, seconds: float) -> None:
    with pytest.raises(BenchError, match="not what was asked for"):
        run(replace(load, order="once"), seconds)


@pytest.mark.parametrize("seconds", GENERATORS)
def test_an_unhurried_load_waits_after_each_answer(load: Load, seconds: float) -> None:
    assert run(replace(load, pause=50), seconds).requests <= 2 * (seconds / 0.05 + 2)


def test_a_chain_sends_the_token_of_the_answer_next_and_no_token_twice() -> None:
    source = Source([b'{"refresh_token":"vrt_1"}', b'{"refresh_token":"vrt_2"}'], "chain")
    sent = [source.next(), source.next()]
    assert source.heard(b'{"access_token":"x","refresh_token":"vrt_3"}')
    assert not source.heard(b'{"code":"session_expired"}')
    assert [*sent, source.next()] == [b'{"refresh_token":"vrt_%d"}' % number for number in (1, 2, 3)]
    assert source.repeated == 0
    source.next()
    assert source.repeated == 1


def test_the_file_of_a_load_keeps_every_byte(tmp_path: Path) -> None:
    requests = [post("/", b"line\nbreak\r\n", FORM), b"\x00\xff\n", b"GET / HTTP/1.1\r\n\r\n"]
    assert read(write(tmp_path / "requests", requests)) == requests
