"""Images made for requests: PNG files of any size, a fixed function of the seed and their place, as data URLs.

A picture is drawn in squares of random colours: all different, as large to decode as a photograph of its size, and a
tenth of it to send. Nothing but zlib is needed.
"""

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.scenario.workload import Images
from harness.workload.draws import RandomSource, random_source
from harness.workload.lengths import Lengths, token_lengths

_SQUARE = 8  # pixels: some 10 KB for 640 x 480
_LEVEL = 1  # of compression: the fastest
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEW, _SHARED = 0, 1


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of pixels of shape (height, width, 3)."""
    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, true colour
    rows = np.zeros((height, 1 + width * 3), dtype=np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, width * 3)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), _LEVEL)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_part(name, data) for name, data in parts)


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The images of a workload's requests, by session, turn and place in the request."""

    counts: Lengths
    widths: Lengths
    heights: Lengths
    share: float
    pool: int
    chance: RandomSource
    colours: RandomSource

    def urls(self, session: int, turn: int = 0) -> tuple[str, ...]:
        """The images of a request as data URLs."""
        return tuple(self._url(session, turn, place) for place in range(self.counts.at(session, turn)))

    def _url(self, session: int, turn: int, place: int) -> str:
        if self.chance.fraction(_SHARED, session, turn, place) < self.share:
            number = self.chance.pick(self.pool, _NEW, session, turn, place)
            return self._drawn(self._size(number, 0), (_SHARED, number))
        return self._drawn(self._size(session, turn), (_NEW, session, turn, place))

    def _size(self, session: int, turn: int) -> tuple[int, int]:
        return self.widths.at(session, turn), self.heights.at(session, turn)

    def _drawn(self, size: tuple[int, int], place: tuple[int, ...]) -> str:
        width, height = size
        across, down = -(-width // _SQUARE), -(-height // _SQUARE)
        draws = self.colours.draws(across * down, *place)
        colours = np.stack([(draws >> np.uint64(shift)).astype(np.uint8) for shift in (0, 8, 16)], axis=-1)
        squares = colours.reshape(down, across, 3)
        pixels = squares.repeat(_SQUARE, axis=0).repeat(_SQUARE, axis=1)[:height, :width]
        return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def image_source(images: Images, seed: int) -> ImageSource:
    """The images that a scenario asks for."""
    width, height = images.size
    return ImageSource(
        token_lengths(images.count, seed, "images"),
        token_lengths(width, seed, "image_width"),
        token_lengths(height, seed, "image_height"),
        images.share,
        images.pool,
        random_source(seed, "image"),
        random_source(seed, "image_colours"),
    )
