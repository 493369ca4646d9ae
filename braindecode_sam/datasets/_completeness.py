"""Whether a file is as long as its header says, which MNE's readers do not check."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

BYTES = {".edf": 2, ".bdf": 3}  # of a sample
_TEXT = ("EDF Annotations", "BDF Annotations")  # no signals


class Header(NamedTuple):
    """What matters of the header of an EDF or BDF file."""

    n_bytes: int
    n_records: int  # -1 in an unfinished recording
    labels: list[str]  # of the signals
    lengths: list[int]  # of the signals, samples in a record


def read_header(path: Path) -> Header | None:
    """Read the header of EDF or BDF; None for other files, and for damaged ones."""
    if path.suffix.lower() not in BYTES:
        return None
    with path.open("rb") as file:
        first = file.read(256)
        try:
            n = int(first[252:])
            signals = file.read(256 * max(n, 0))
            labels = [signals[16 * i :][:16].decode("latin-1") for i in range(n)]
            lengths = [int(signals[n * 216 + 8 * i :][:8]) for i in range(n)]
            names = [label.strip() for label in labels]
            return Header(int(first[184:192]), int(first[236:244]), names, lengths)
        except ValueError:  # MNE's reader says what is wrong
            return None


def check_complete(path: Path, header: Header | None) -> None:
    """Raise if a file is shorter than its header says.

    The headers of EDF, BDF and, as an option, BrainVision have the length.
    """
    suffix, size = path.suffix.lower(), path.stat().st_size
    if header is not None:
        samples = sum(header.lengths) * header.n_records
        _compare(size, header.n_bytes + BYTES[suffix] * samples)
    if suffix == ".vhdr":
        text = path.read_text(encoding="latin-1")
        known = {
            name: found[1].strip()
            for name in ("DataFile", "NumberOfChannels", "DataPoints", "BinaryFormat")
            if (found := re.search(rf"^{name}\s*=(.*)$", text, re.M))
        }
        width = {"INT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}.get(
            known.get("BinaryFormat", "")
        )
        if "DataPoints" in known and width is not None:
            data = path.parent / known["DataFile"].replace("$b", path.stem)
            samples = int(known["NumberOfChannels"]) * int(known["DataPoints"])
            _compare(data.stat().st_size, width * samples)


def _compare(size: int, expected: int) -> None:
    if size < expected:
        raise ValueError(f"the file is truncated: it has {size} of {expected} bytes")


def has_several_rates(path: Path, header: Header | None) -> bool:
    """Return whether the signals of a file may have different sampling rates."""
    if header is None:
        return path.suffix.lower() == ".gdf"
    signals = zip(header.labels, header.lengths, strict=True)
    return len({length for label, length in signals if label not in _TEXT}) > 1
