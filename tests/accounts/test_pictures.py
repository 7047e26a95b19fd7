"""Uploaded pictures are painted anew: nothing but their look survives, and nothing that is none gets through."""

import asyncio
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from service.accounts.pictures import MOST_WAITING, NotAPicture, Studio, reencoded
from service.errors import InvalidInput, Unavailable

PIXELS_ALONE = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH"}
"""The chunks of a WebP file that hold no metadata."""
SECRET = b"secret place 47.37N 8.54E"


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(picture: bytes) -> Image.Image:
    """The picture, after a look at its container: one of ours, whole, and without metadata."""
    assert PIXELS_ALONE.issuperset(chunks(picture))
    image = Image.open(io.BytesIO(picture), formats=["WEBP"])
    image.load()
    assert max(image.size) <= 512
    assert getattr(image, "n_frames", 1) == 1
    return image


def chunks(webp: bytes) -> list[bytes]:
    assert webp[:4] == b"RIFF"
    assert int.from_bytes(webp[4:8], "little") == len(webp) - 8
    names, at = [], 12
    while at < len(webp):
        size = int.from_bytes(webp[at + 4 : at + 8], "little")
        names.append(webp[at : at + 4])
        at += 8 + size + size % 2
    return names


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def declaring(width: int, height: int) -> bytes:
    """A small PNG that says it is huge."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def gradient(width: int = 90, height: int = 60) -> Image.Image:
    grey = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (grey, grey.transpose(Image.Transpose.ROTATE_180), grey))


def refused_because(raw: bytes) -> str:
    with pytest.raises(InvalidInput) as refusal:
        reencoded(raw)
    (wrong,) = refusal.value.fields
    assert wrong.field == "image"
    return wrong.code


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_keeps_its_look(kind: str) -> None:
    image = opened(reencoded(saved(Image.new("RGB", (90, 60), (200, 30, 60)), kind)))
    assert (image.size, image.mode) == ((90, 60), "RGB")
    pixel = image.getpixel((45, 30))
    assert isinstance(pixel, tuple)
    assert all(abs(got - sent) < 8 for got, sent in zip(pixel, (200, 30, 60), strict=True))


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((1, 1), (1, 1)), ((512, 512), (512, 512)), ((3000, 1500), (512, 256)), ((600, 1200), (256, 512)),
     ((9000, 1), (512, 1)), ((1, 5000), (1, 512)), ((513, 2), (512, 2))],
)  # fmt: skip
def test_a_picture_is_fitted_and_never_enlarged(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert opened(reencoded(saved(Image.new("RGB", size, "teal")))).size == fitted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation: int) -> None:
    upright = Image.new("RGB", (60, 40), "blue")
    upright.paste("red", (0, 0, 20, 20))
    stored = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = upright.transpose(stored) if stored is not None else upright
    for kind in ("JPEG", "PNG", "WEBP"):
        image = opened(reencoded(saved(turned, kind, exif=exif)))
        assert image.size == (60, 40)
        corner, opposite = image.getpixel((8, 8)), image.getpixel((52, 32))
        assert isinstance(corner, tuple)
        assert isinstance(opposite, tuple)
        assert corner[0] > 150 > opposite[0]
        assert opposite[2] > 150 > corner[2]


def _with_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = SECRET.decode()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (47.0, 22.0, 12.0)
    return exif


def _png_with_words() -> bytes:
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", SECRET.decode())
    words.add_itxt("XML:com.adobe.xmp", SECRET.decode(), zip=True)
    return saved(gradient(), pnginfo=words, exif=_with_exif(), icc_profile=SECRET) + SECRET


METADATA: list[Callable[[], bytes]] = [
    lambda: saved(gradient(), "JPEG", exif=_with_exif(), comment=SECRET, icc_profile=SECRET, xmp=SECRET) + SECRET,
    lambda: saved(gradient(), "WEBP", exif=_with_exif(), icc_profile=SECRET, xmp=SECRET),
    _png_with_words,
]


@pytest.mark.parametrize("make", METADATA)
def test_where_and_by_whom_a_photo_was_taken_is_gone(make: Callable[[], bytes]) -> None:
    raw = make()
    assert SECRET in raw
    picture = reencoded(raw)
    assert SECRET not in picture
    image = opened(picture)
    assert not image.getexif()
    assert {"exif", "xmp", "icc_profile", "comment"}.isdisjoint(image.info)


def test_alpha_survives() -> None:
    image = Image.new("RGBA", (40, 40), (0, 200, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 20, 40))
    painted = opened(reencoded(saved(image)))
    assert painted.mode == "RGBA"
    assert painted.getchannel("A").getpixel((5, 20)) == 255
    assert painted.getchannel("A").getpixel((35, 20)) == 0


@pytest.mark.parametrize("width", [40, 3000])
def test_a_palette_with_a_transparent_colour_survives(width: int) -> None:
    image = Image.new("P", (width, 40), 0)
    image.putpalette([255, 255, 255, 200, 0, 0])
    image.paste(1, (0, 0, width // 2, 40))
    painted = opened(reencoded(saved(image, transparency=0)))
    assert painted.mode == "RGBA"
    assert painted.getchannel("A").getpixel((painted.width - 1, 2)) == 0
    assert painted.getchannel("A").getpixel((0, 2)) == 255


@pytest.mark.parametrize(("value", "grey"), [(65535, 255), (32896, 128), (256, 1)])
def test_sixteen_bits_of_grey_become_eight(value: int, grey: int) -> None:
    painted = opened(reencoded(saved(Image.new("I;16", (30, 30), value))))
    pixel = painted.convert("L").getpixel((15, 15))
    assert isinstance(pixel, int)
    assert abs(pixel - grey) <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("side", [7, 700, 2500])
def test_every_kind_of_png_is_read(mode: str, side: int) -> None:
    opened(reencoded(saved(Image.new(mode, (side, side)))))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_read(mode: str, progressive: bool) -> None:
    assert opened(reencoded(saved(Image.new(mode, (1500, 900)), "JPEG", progressive=progressive))).size == (512, 307)


def test_a_phones_jpeg_with_two_pictures_in_it_is_its_first() -> None:
    first, second = Image.new("RGB", (80, 40), "red"), Image.new("RGB", (20, 20), "blue")
    assert opened(reencoded(saved(first, "MPO", save_all=True, append_images=[second]))).size == (80, 40)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (50, 50), colour) for colour in ("red", "blue", "green")]
    picture = opened(reencoded(saved(frames[0], kind, save_all=True, append_images=frames[1:])))
    pixel = picture.getpixel((25, 25))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 200


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (40_000_001, 1), (12_000, 9_000)])
def test_a_bomb_is_refused_by_what_it_declares(size: tuple[int, int]) -> None:
    assert refused_because(declaring(*size)) in {"too_many_pixels", "unreadable"}


def test_one_pixel_too_many_is_too_many() -> None:
    assert refused_because(declaring(40_000_001, 1)) == "too_many_pixels"
    assert refused_because(declaring(40_000_000, 1)) == "unreadable"  # allowed, but its pixels are missing


def test_forty_megapixels_are_read() -> None:
    assert opened(reencoded(saved(Image.new("L", (8000, 5000)), "JPEG"))).size == (512, 320)
    assert opened(reencoded(saved(Image.new("1", (8000, 5000))))).size == (512, 320)


def test_a_small_webp_that_unfolds_to_hundreds_of_megabytes_is_refused() -> None:
    bomb = saved(Image.new("RGB", (4000, 3000)), "WEBP", lossless=True, method=0)
    assert len(bomb) < 100
    assert refused_because(bomb) == "too_many_pixels"


def test_a_progressive_jpeg_may_not_hold_its_pixels_in_many_scans() -> None:
    assert refused_because(saved(Image.new("CMYK", (6000, 5000)), "JPEG", progressive=True)) == "too_many_pixels"
    raw = saved(gradient(), "JPEG", progressive=True)
    last = raw.rindex(b"\xff\xda")
    assert refused_because(raw[:-2] + raw[last:-2] * 200 + b"\xff\xd9") == "unreadable"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9])
def test_a_truncated_picture_is_broken(kind: str, part: float) -> None:
    raw = saved(Image.effect_noise((200, 200), 80).convert("RGB"), kind)
    assert refused_because(raw[: int(len(raw) * part)]) == "unreadable"


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP"])
def test_a_beginning_alone_is_broken(start: bytes) -> None:
    assert refused_because(start) == "unreadable"


NO_PICTURES = {
    "nothing": b"",
    "a GIF": saved(Image.new("P", (9, 9)), "GIF"),
    "a TIFF": saved(Image.new("RGB", (9, 9)), "TIFF"),
    "a BMP": saved(Image.new("RGB", (9, 9)), "BMP"),
    "an icon": saved(Image.new("RGB", (16, 16)), "ICO"),
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "a page": b"<!doctype html><script>alert(1)</script>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a program": b"MZ" + bytes(200),
    "a page before a PNG": b"<script>alert(1)</script>" + saved(Image.new("RGB", (9, 9))),
    "a sound": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40),
}


@pytest.mark.parametrize("what", NO_PICTURES)
def test_what_is_no_picture_is_refused_whatever_it_is_called(what: str) -> None:
    with pytest.raises(NotAPicture):
        reencoded(NO_PICTURES[what])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_page_or_program_behind_a_picture_is_gone(kind: str) -> None:
    payload = b"<script>alert(document.domain)</script>PK\x03\x04"
    picture = reencoded(saved(gradient(), kind) + payload)
    assert payload not in picture
    opened(picture)


def harmless(raw: bytes) -> None:
    """A refusal, or a picture; any other exception fails the test."""
    try:
        picture = reencoded(raw)
    except (InvalidInput, NotAPicture):
        return
    opened(picture)


STARTS = st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\xff\xff\x00\x00WEBPVP8X"])
VALID = [
    saved(gradient(), "JPEG", exif=_with_exif()),
    saved(gradient(), "JPEG", progressive=True),
    saved(gradient(), "PNG", exif=_with_exif()),
    saved(gradient().quantize(7), "PNG", transparency=0),
    saved(gradient(), "WEBP", exif=_with_exif()),
    saved(gradient(), "WEBP", lossless=True),
    saved(gradient(), "WEBP", save_all=True, append_images=[Image.new("RGB", (90, 60))]),
    saved(gradient(), "PNG", save_all=True, append_images=[Image.new("RGB", (90, 60))]),
]
MUTATIONS = st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=6), st.integers(0, 6)), max_size=8)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(start=STARTS, rest=st.binary(max_size=400))
def test_random_bytes_are_harmless(start: bytes, rest: bytes) -> None:
    harmless(start + rest)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(valid=st.sampled_from(range(len(VALID))), mutations=MUTATIONS)
def test_mutated_pictures_are_harmless(valid: int, mutations: list[tuple[int, bytes, int]]) -> None:
    raw = bytearray(VALID[valid])
    for at, new, gone in mutations:
        start = at % (len(raw) + 1)
        raw[start : start + gone] = new
    harmless(bytes(raw))


async def test_only_so_many_pictures_wait() -> None:
    studio = Studio()
    raw = saved(gradient(2000, 2000), "PNG")
    answers = await asyncio.gather(*(studio.reencoded(raw) for _ in range(MOST_WAITING + 4)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert len(refused) == 3
    assert sum(isinstance(answer, bytes) for answer in answers) == MOST_WAITING + 1
    opened(await studio.reencoded(raw))
    studio.close()
