"""`just faults`: injects the faults one after the other and prints the table; 1 when a promise is broken."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import click

from deploy.faults import catalogue
from deploy.faults.table import Fault, Finding, NotHere, Row, as_json, printed
from deploy.faults.world import World
from service import logs


@click.command()
@click.option("--only", default="", help="Numbers, separated by commas.")
@click.option("--list", "is_list", is_flag=True, help="Show what there is, inject nothing.")
@click.option("--json", "is_json", is_flag=True, help="The table for machines.")
def main(only: str, is_list: bool, is_json: bool) -> None:
    """Inject faults into real processes and print what each promises and what was seen."""
    wanted = {int(number) for number in only.split(",") if number.strip()}
    faults = [fault for fault in catalogue.FAULTS if not wanted or fault.number in wanted]
    if is_list:
        for fault in faults:
            click.echo(f"{fault.number:>3}  {fault.name:<22}  {fault.injection or fault.elsewhere}")
        return
    logs.configure(readable=True, level="error")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # small disks must be unmounted whatever ends us
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        click.echo("this machine is busy with something else: what is said about time means little", err=True)
    rows = run(faults)
    click.echo(as_json(rows) if is_json else printed(rows))
    is_open = [row.fault.number for row in rows if row.verdict == "OPEN"]
    click.echo(f"open: {', '.join(map(str, is_open)) or 'none'}", err=is_json)
    sys.exit(bool(is_open))


def run(faults: list[Fault]) -> list[Row]:
    """Every one of them; the world is made when the first is injected."""
    if not any(fault.inject for fault in faults):
        return [outcome(fault, None) for fault in faults]
    with tempfile.TemporaryDirectory(prefix="vestibule-faults-") as home, World(Path(home)) as world:
        return [outcome(fault, world) for fault in faults]


def outcome(fault: Fault, world: World | None) -> Row:
    """Injects one, or looks where it is held. Whatever goes wrong is an open fault, and the others go on."""
    click.echo(f"{fault.number:>3}  {fault.name} … ", err=True, nl=False)
    started = time.monotonic()
    try:
        finding = fault.inject(world) if fault.inject and world else held_elsewhere(fault)
        row = Row(fault, "OPEN" if finding.broken else "held", _told(finding), time.monotonic() - started)
    except NotHere as reason:
        row = Row(fault, "not here", str(reason), time.monotonic() - started)
    except Exception as error:  # noqa: BLE001  a judge that breaks is no proof
        row = Row(fault, "OPEN", f"{type(error).__name__}: {str(error)[:300]}", time.monotonic() - started)
    click.echo(f"{row.verdict} ({row.seconds:.1f} s){': ' + row.seen if row.verdict == 'OPEN' else ''}", err=True)
    return row


def held_elsewhere(fault: Fault) -> Finding:
    """A row whose tests exist. Raises `NotHere` for one that has none."""
    if not fault.tests:
        raise NotHere(fault.elsewhere)
    finding = Finding([f"by {len(fault.tests)} tests: {', '.join(name.rpartition('/')[2] for name in fault.tests)}"])
    for name in fault.tests:
        finding.expect(catalogue.has_test(name), f"there is no {name}")
    return finding


def _told(finding: Finding) -> str:
    broken = f"BROKEN: {'; '.join(finding.broken)} | " if finding.broken else ""
    return broken + "; ".join(finding.seen)


if __name__ == "__main__":
    main()
