"""`olla doctor`: whether everything that olla needs is there, and what would make it faster."""

from __future__ import annotations

from itertools import chain

import click

from olla.cli.cobra import CLIENT_ENVIRONMENT, command, exactly
from olla.cli.findings import (
    Finding,
    Health,
    find_disk,
    find_engine,
    find_hubs,
    find_olla,
    find_server,
    hints,
    hub_addresses,
    take_survey,
)
from olla.cli.terminal import waiting
from olla.settings import Settings

_ENVIRONMENT = (*CLIENT_ENVIRONMENT, "OLLA_MODELS", "OLLA_SOURCES")


@command("doctor", exactly(0), _ENVIRONMENT)
@click.pass_obj
def doctor(settings: Settings) -> None:
    """Check what olla needs.

    The devices, torch, memory, disk, server and hubs; then what would make replies faster. The
    exit code is 1 if something is broken. Nothing is changed, and no server is started.
    """
    with waiting():
        survey = take_survey()
        addresses = hub_addresses(settings.sources)
    found = chain(
        find_olla(settings),
        [survey] if isinstance(survey, Finding) else find_engine(survey),
        find_disk(settings.models),
        find_server(settings),
        find_hubs(addresses),
    )
    broken = []
    for finding in found:
        click.echo(f"{finding.health:<8}{finding.subject:<16}{finding.text}")
        if finding.health is Health.BROKEN:
            broken.append(finding.subject)
    if not isinstance(survey, Finding):
        for hint in hints(survey, settings):
            click.echo(f"{'faster':<8}{hint}")
    if broken:
        raise click.ClickException(f"not in order: {', '.join(broken)}")
