"""Somebody who may administer."""

import pytest
from litestar import Litestar

from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.admin.acting import Caller, caller


@pytest.fixture
async def operator(services: Services, app: Litestar) -> Caller:
    """A person with the role, signed in just now."""
    return await caller(services, app, ADMIN)
