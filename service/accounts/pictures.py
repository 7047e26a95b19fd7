"""Pictures from strangers: decoded within bounds and painted anew, so that nothing of the upload but its look is left.

A picture may be a bomb (34 bytes of WebP can unfold to 600 MB), carry the place where it was taken, or be a page or a
program at the same time. What leaves here was encoded by us, from plain pixels.
"""

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

from PIL import ExifTags, Image

from service import heap
from service.errors import FieldError, InvalidInput, Unavailable
from service.problems import UnsupportedMediaType

FIELD = "image"
SIDE = 512
"""Pixels of the longer side at most; smaller pictures keep their size."""
QUALITY = 85

MOST_PIXELS = 40_000_000
MOST_MEMORY = 160_000_000
"""Bytes that a decoder may hold: 40 megapixels of PNG or of a plain JPEG, 26 of a progressive one, 10 of WebP."""
HELD = {"PNG": 4, "WEBP": 16}
"""Bytes per pixel; WebP's decoder holds a picture four times. JPEG is decoded small, unless it comes in scans."""
MOST_SCANS = 30
"""Scans of a progressive JPEG, each of which is a pass over all its pixels for some fifty bytes; cameras write ten."""
COARSE = 2048
"""Beyond this side points are picked before pixels are averaged: a copy of 40 megapixels would cost 160 MB more."""

MOST_WAITING = 16
RETRY_AFTER = 2

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF; 1 and everything else is upright."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused by our own, lower bound


class NotAPicture(UnsupportedMediaType):
    detail = "The body must be multipart/form-data with one PNG, JPEG or WebP image."


def reencoded(raw: bytes) -> bytes:
    """The picture as WebP: its first frame, upright, within 512 x 512, without metadata.

    Takes up to a second and 180 MB: never on the event loop. Raises `NotAPicture` for what does not begin like one of
    the three kinds, and `InvalidInput` for what is too large, broken or cut off.
    """
    kind = _kind(raw)
    try:
        return _painted(raw, kind)
    except InvalidInput:
        raise
    except Exception as error:  # noqa: BLE001  decoders fed by strangers raise anything, even SyntaxError
        raise _refusal("unreadable", "The picture is broken.", type(error).__name__) from None


class Studio:
    """Re-encodes pictures in one thread of its own: each takes up to 180 MB, and sixteen may wait."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="picture")
        self._inside = 0

    async def reencoded(self, raw: bytes) -> bytes:
        """As `reencoded` does. Raises `Unavailable` when too many wait."""
        if self._inside > MOST_WAITING:
            raise Unavailable("too many pictures wait", retry_after=RETRY_AFTER)
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._reencoded, raw)
        finally:
            self._inside -= 1

    def _reencoded(self, raw: bytes) -> bytes:
        try:
            return reencoded(raw)
        finally:
            heap.give_back()

    def close(self) -> None:
        """Lets go of the thread; what waits is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _kind(raw: bytes) -> str:
    """Its format by its first bytes, whatever its name says."""
    if raw.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if raw.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
        return "WEBP"
    raise NotAPicture("not the beginning of a picture")


def _painted(raw: bytes, kind: str) -> bytes:
    source = BytesIO(raw)
    with Image.open(source, formats=[kind]) as image:
        more_scans = raw.count(b"\xff\xda", source.tell()) if kind == "JPEG" else 0
        _ensure_modest(image, kind, more_scans)
        image.draft(None, (2 * SIDE, 2 * SIDE))  # JPEG alone: decodes an eighth where that is enough
        image.load()
        orientation = _orientation(image)
        small = _small(image)
    if orientation in UPRIGHT:
        small = small.transpose(UPRIGHT[orientation])
    bare = Image.frombytes(small.mode, small.size, small.tobytes())
    painted = BytesIO()
    bare.save(painted, "WEBP", quality=QUALITY)
    return painted.getvalue()


def _ensure_modest(image: Image.Image, kind: str, more_scans: int) -> None:
    """Looks at the header alone: nothing is decoded yet. `more_scans` are those of a JPEG beyond its first."""
    pixels = image.width * image.height
    held = HELD.get(kind, 2 * len(image.getbands()) if more_scans else 0)
    if pixels > MOST_PIXELS or pixels * held > MOST_MEMORY:
        raise _refusal("too_many_pixels", "The picture has too many pixels.", f"{image.width}x{image.height} {kind}")
    if more_scans >= MOST_SCANS:
        raise _refusal("unreadable", "The picture is broken.", "more scans than any camera writes")


def _orientation(image: Image.Image) -> int:
    """How EXIF says that the camera was held; broken EXIF says nothing."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  as above
        return 1


def _small(image: Image.Image) -> Image.Image:
    """The picture in RGB or RGBA, no larger than 512 x 512."""
    if max(image.size) > COARSE:
        image = image.resize(_fitted(image.size, COARSE), Image.Resampling.NEAREST)
    if image.mode.startswith("I"):  # 16 bits of grey
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.resize(_fitted(image.size, SIDE), Image.Resampling.LANCZOS) if max(image.size) > SIDE else image


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _refusal(code: str, detail: str, reason: str) -> InvalidInput:
    return InvalidInput(reason, fields=[FieldError(FIELD, code, detail)])
