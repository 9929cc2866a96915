"""The lines of a text file in UTF-8, plain or gzip, within bounds of memory."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from balora_jax.errors import BadInput, first_line

# Bytes of a line: of a row, or of a quoted cell.
LONGEST_LINE = 2**26
# Text is packed to a twentieth of its size; files of zeros that fill the memory, to a thousandth.
UNPACKED_RATIO = 100
UNPACKED_FREE = 2**26


def text_lines(path: Path, longest: int | None = None) -> Iterator[str]:
    r"""Read a file line by line.

    Args:
      path: a file; one that ends in .gz is unpacked.
      longest: the most bytes of a line; LONGEST_LINE by default.

    Yields:
      Lines with their ends (\n, \r or \r\n), without a byte order mark.

    Raises:
      BadInput: the file is not UTF-8 or not a whole gzip file, or is beyond the bounds.
    """
    number = 0
    try:
        for raw in _raw_lines(path, longest or LONGEST_LINE):
            pieces = raw.splitlines(keepends=True) if b"\r" in raw else [raw]
            for piece in pieces:
                number += 1
                yield piece.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not text in UTF-8 (line {number}: {error.reason} at byte "
            f"{error.start + 1}); accepted: text that is saved as UTF-8"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadInput(
            f"{path} is not a whole gzip file: {first_line(error)}; accepted: the file as "
            "gzip writes it"
        ) from error


def _raw_lines(path: Path, longest: int) -> Iterator[bytes]:
    """Yield lines that end in a line feed, and check the bounds."""
    packed = path.suffix == ".gz"
    largest = max(UNPACKED_FREE, UNPACKED_RATIO * path.stat().st_size)
    size = 0
    opened = gzip.open if packed else open
    with opened(path, mode="rb") as file:
        while raw := file.readline(longest + 1):
            if len(raw) > longest:
                raise BadInput(
                    f"{path} has a line of more than {longest:,} bytes; accepted: shorter lines"
                )
            if packed and size + len(raw) > largest:
                raise BadInput(
                    f"{path} unpacks to more than {largest:,} bytes; accepted: a file that "
                    f"unpacks to at most {UNPACKED_RATIO} times its size, or an unpacked one"
                )
            yield raw if size else raw.removeprefix(codecs.BOM_UTF8)
            size += len(raw)
