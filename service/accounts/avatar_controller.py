"""Avatars over HTTP: uploaded by their owner, shown to anybody."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from litestar import Controller, HttpMethod, Request, Response, delete, put, route
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from service.accounts.avatars import MOST_BYTES, Avatars, AvatarsNotOffered
from service.accounts.pictures import FIELD, NotAPicture
from service.errors import CrossSiteRefused, FieldError, InvalidInput, MalformedRequest, NotFound
from service.problems import NO_STORE, BodyTooLarge, refusals
from service.tokens.principal import BEARER, PUBLIC, Principal

MULTIPART = "multipart/form-data"
FRAMING = 16 * 1024
"""Bytes for the boundaries and part headers around the picture."""
PICTURE = "image/webp"
PICTURE_HEADERS = {
    "Cache-Control": "public, max-age=86400, immutable",
    "Content-Disposition": 'inline; filename="avatar.webp"',
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}
"""A picture may stand on any site and is nothing but a picture, even to a browser that is led to it."""


class AvatarKept(msgspec.Struct, frozen=True):
    """Where the avatar is from now on; each upload gets a new address."""

    avatar_url: str


@dataclass
class UploadOperation(Operation):
    """Describes the form, which the handler reads by itself.

    Litestar would write an upload over 1 MiB to a temporary file, and crash on a text part that is not UTF-8.
    """

    def __post_init__(self) -> None:
        picture = Schema(
            type=OpenAPIType.STRING,
            format=OpenAPIFormat.BINARY,
            description="One PNG, JPEG or WebP file of at most 2 MiB.",
        )
        form = Schema(type=OpenAPIType.OBJECT, required=[FIELD], properties={FIELD: picture})
        self.request_body = RequestBody(content={MULTIPART: OpenAPIMediaType(schema=form)}, required=True)


class AvatarController(Controller):
    """A person's picture."""

    tags = ("Account",)

    @put(
        "/me/avatar",
        operation_id="setAvatar",
        summary="Set your avatar",
        operation_class=UploadOperation,
        request_max_body_size=MOST_BYTES + FRAMING,
        responses=refusals(
            *BEARER,
            CrossSiteRefused,
            AvatarsNotOffered,
            MalformedRequest,
            InvalidInput,
            BodyTooLarge,
            NotAPicture,
            body=False,
        ),
    )
    async def replace(
        self,
        request: Request[Any, Any, Any],
        principal: NamedDependency[Principal],
        avatars: NamedDependency[Avatars],
    ) -> Response[AvatarKept]:
        """Fits the picture into 512 x 512, drops all metadata and keeps it as WebP."""
        url = await avatars.replace(principal.account, await _uploaded(request))
        return Response(AvatarKept(url), headers=NO_STORE)

    @delete(
        "/me/avatar",
        status_code=204,
        operation_id="removeAvatar",
        summary="Remove your avatar",
        responses=refusals(*BEARER, CrossSiteRefused, body=False),
    )
    async def remove(self, principal: NamedDependency[Principal], avatars: NamedDependency[Avatars]) -> None:
        """Removes the picture, if there is one. Caches may show it for up to a day."""
        await avatars.remove(principal.account)

    @route(
        "/avatars/{account_id:uuid}/{name:str}",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        media_type=PICTURE,
        summary="An avatar",
        opt={PUBLIC: True},
        security=[{}],
        responses={
            200: ResponseSpec(bytes, description="The picture.", media_type=PICTURE, generate_examples=False),
            304: ResponseSpec(None, description="Still the same.", generate_examples=False),
            **refusals(MalformedRequest, NotFound, AvatarsNotOffered, body=False),
        },
    )
    async def show(
        self,
        request: Request[Any, Any, Any],
        account_id: FromPath[UUID],
        name: FromPath[str],
        avatars: NamedDependency[Avatars],
    ) -> Response[bytes]:
        """The picture of an `avatar_url`."""
        picture = await avatars.read(account_id, name)
        tag = f'"{name.removesuffix(".webp")}"'
        headers = {**PICTURE_HEADERS, "ETag": tag}
        if _knows(request, tag):
            return Response(b"", status_code=304, headers=headers, media_type=PICTURE)
        return Response(picture, headers=headers, media_type=PICTURE)


async def _uploaded(request: Request[Any, Any, Any]) -> bytes:
    """The file of the form, wholly in memory: at most 2 MiB. Raises what the route's `responses` name."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != MULTIPART:
        raise NotAPicture("not multipart/form-data")
    parts: list[MultipartSegment] = []
    picture = bytearray()
    try:
        with PushMultipartParser(options.get("boundary", "")) as parser:
            async for chunk in request.stream():
                for event in parser.parse(chunk) if chunk and not parser.closed else ():
                    if isinstance(event, MultipartSegment):
                        parts.append(event)
                        _ensure_alone(parts)
                    elif event is not None:
                        picture += event
                        _ensure_short(picture)
    except MultipartError as error:
        raise MalformedRequest(f"unreadable form: {type(error).__name__}") from None
    if not parts or not picture:
        raise _refusal("missing", "Send a picture as a file in this field.")
    return bytes(picture)


def _ensure_alone(parts: list[MultipartSegment]) -> None:
    if len(parts) > 1:
        raise _refusal("unexpected", "Send one file and nothing else.")
    if parts[0].filename is None:
        raise _refusal("missing", "Send a picture as a file in this field.")


def _ensure_short(picture: bytearray) -> None:
    if len(picture) > MOST_BYTES:
        raise BodyTooLarge("a picture over 2 MiB")


def _refusal(code: str, detail: str) -> InvalidInput:
    return InvalidInput(f"upload: {code}", fields=[FieldError(FIELD, code, detail)])


def _knows(request: Request[Any, Any, Any], tag: str) -> bool:
    """Whether the caller has the picture already (RFC 9110 section 13.1.2: weak comparison)."""
    given = [tag.strip().removeprefix("W/") for tag in ",".join(request.headers.getall("if-none-match", [])).split(",")]
    return tag in given or "*" in given
