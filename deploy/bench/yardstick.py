"""R0, the yardstick: an empty Litestar route that takes a form and answers a fixed struct, on the service's uvicorn.

Its options are those of the service, and stay as they are when the service is tuned: a yardstick does not grow.
"""

import sys
from typing import Annotated

import uvicorn
from litestar import Litestar, post
from litestar.enums import RequestEncodingType
from litestar.params import Body
from msgspec import Struct

SUBJECT = "01890a5d-ac96-774b-bcce-b302099a8057"


class Form(Struct):
    """What is posted: the same as for an introspection."""

    token: str


class Answer(Struct):
    """As much as an introspection says, without looking anything up."""

    active: bool = True
    iss: str = "http://127.0.0.1:8000"
    sub: str = SUBJECT
    aud: str = "http://127.0.0.1:8000"
    client_id: str = "web"
    scope: str = "account"
    token_type: str = "Bearer"
    exp: int = 1_800_000_600
    iat: int = 1_800_000_000
    jti: str = "0.JqcYbSm3Nnq8sY5s3Yh5Gw"
    sid: str = "wX0mYgmqV3Mn3kOKRj1Yqg"


@post("/", status_code=200)
async def take(data: Annotated[Form, Body(media_type=RequestEncodingType.URL_ENCODED)]) -> Answer:
    """Reads the form and answers."""
    return Answer()


def main(port: int) -> None:
    """Serves on loopback, in one process."""
    app = Litestar([take], openapi_config=None, logging_config=None)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        backlog=2048,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
