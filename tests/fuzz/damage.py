"""Files of known kinds, damaged where their readers look."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any


def damage(content: bytes, draw: random.Random) -> bytes:
    """``content`` with one damage that fits its kind."""
    if draw.random() < 0.15:
        return damage_bytes(content, draw)
    if content[:2] == b"PK":
        return damage_archive(content, draw)
    if content[:1] in (b"{", b"["):
        return damage_json(content, draw)
    if content[8:9] == b"{":
        return damage_safetensors(content, draw)
    if content[:6] == b"\x93NUMPY":
        return damage_array(content, draw)
    return damage_bytes(content, draw)


def damage_bytes(content: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut out, put in, or all of them gone."""
    at, size = draw.randrange(len(content) + 1), draw.randrange(1, 64)
    ways: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[:at] + draw.randbytes(size) + content[at + size :],
        lambda: content[:at] + draw.randbytes(size) + content[at:],
        lambda: content[:at] + content[at + size :],
        lambda: b"",
        lambda: content + content[:size],
    ]
    return draw.choice(ways)()


def damage_archive(content: bytes, draw: random.Random) -> bytes:
    """A member damaged, dropped, renamed or there twice; the archive itself is whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    index = draw.randrange(len(members))
    name, inside = members[index]
    way = draw.randrange(6)
    if way == 0:
        del members[index]
    elif way == 1:
        other = draw.choice([name.upper(), f"../{name}", "a\0b", name * 200, f"/{name}"])
        members[index] = (other, inside)
    elif way == 2:
        members.append((name, damage(inside, draw) if inside else b"x"))
    else:
        members[index] = (name, damage(inside, draw) if inside else b"x")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, inside in members:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, inside)
    return made.getvalue()


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf"), 0.5, "",
    "../../etc/passwd", "a\0b", "\x1b[31m[/red]", "x" * 10_000, [], {}, [[]], {"": None}, ["x"],
)  # fmt: skip


def damage_json(content: bytes, draw: random.Random) -> bytes:
    """One value exchanged, dropped, repeated, wrapped or nested too deep."""
    lines = content.decode(errors="replace").splitlines()
    try:
        value = json.loads(content)
    except ValueError:
        if len(lines) < 2:
            return damage_bytes(content, draw)
        # A value a line.
        index = draw.randrange(len(lines))
        lines[index] = damage_json(lines[index].encode(), draw).decode(errors="replace")
        return "\n".join(lines).encode()
    places = list(places_in(value))
    if not places:
        return json.dumps(draw.choice(VALUES)).encode()
    holder, key = draw.choice(places)
    way = draw.randrange(6)
    if way == 0:
        del holder[key]
    elif way == 1:
        holder[key] = [holder[key]]
    elif way == 2:
        holder[key] = {"x": holder[key]}
    elif way == 3 and isinstance(holder, list):
        holder.extend(holder * 3)
    elif way == 4:
        return content.replace(b":", b": " + b"[" * 100_000, 1)
    else:
        holder[key] = draw.choice(VALUES)
    return json.dumps(value).encode()


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each value inside ``value``, as what holds it and its key there."""
    size = len(value) if isinstance(value, list) else 0
    for key in list(value) if isinstance(value, dict) else range(size):
        yield value, key
        yield from places_in(value[key])


def damage_safetensors(content: bytes, draw: random.Random) -> bytes:
    """A damaged header over the same data, or another length of it."""
    (size,) = struct.unpack("<Q", content[:8])
    header = damage_json(content[8 : 8 + size], draw)
    length = draw.choice([len(header), len(header), len(header), size, 2**63, 0])
    return struct.pack("<Q", length) + header + content[8 + size :]


def damage_array(content: bytes, draw: random.Random) -> bytes:
    """Another dtype, or a shape that does not fit or takes more memory than there is."""
    (size,) = struct.unpack("<H", content[8:10])
    header = content[10 : 10 + size]
    ways = [
        (b"'<f4'", draw.choice([b"'|O'", b"'<f8'", b"'<U9'", b"'<c8'", b"'|b1'", b"'<M8'"])),
        (b"(", draw.choice([b"(1000000000000,", b"(-1,", b"(0,", b"((", b"(1.5,", b"("])),
        (b"False", draw.choice([b"True", b"None", b"__import__('os')"])),
    ]
    old, new = draw.choice(ways)
    made = header.replace(old, new, 1)
    return content[:8] + struct.pack("<H", len(made)) + made + content[10 + size :]
