"""What belongs to no provider: the first page, pictures of people, and the place that redirects lead to."""

from functools import cache
from io import BytesIO
from typing import Any

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from PIL import Image

from service.fake_provider.backstage import Backstage
from service.fake_provider.faults import DISCOVERY_FAULTS, GROUPS
from service.fake_provider.pages import render
from service.fake_provider.people import PEOPLE
from service.fake_provider.reading import Misasked, read_form

PICTURE_SIZE = (128, 128)
COLOUR = "#3a6ea5"


class FrontController(Controller):
    """The rest."""

    @get("/")
    async def front(self, backstage: NamedDependency[Backstage]) -> Response[str]:
        """What this is, who is here and what can go wrong."""
        return render(
            "front.html",
            people=PEOPLE.values(),
            groups=GROUPS,
            discovery_faults=DISCOVERY_FAULTS,
            current=backstage.discovery_fault,
            issuer=f"{backstage.url}/openid",
        )

    @post("/")
    async def spoil(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[str]:
        """Sets what is wrong with discovery."""
        fault = (await read_form(request)).get("discovery_fault", "")
        try:
            backstage.discovery_fault = fault
        except ValueError:
            raise Misasked(f"Nothing called “{fault}” can be wrong with discovery.") from None
        return Response("", status_code=303, headers={"Location": "/"})

    @get("/pictures/{name:str}")
    async def picture(self, name: FromPath[str]) -> Response[bytes]:
        """Everybody looks the same."""
        return Response(_picture(), media_type="image/png")

    @get("/elsewhere/{ticket:str}")
    async def elsewhere(self, ticket: FromPath[str], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The answer that a fault has put here."""
        answer = backstage.found_elsewhere(ticket)
        if answer is None:
            raise NotFoundException
        return answer


@cache
def _picture() -> bytes:
    file = BytesIO()
    Image.new("RGB", PICTURE_SIZE, COLOUR).save(file, "PNG")
    return file.getvalue()
