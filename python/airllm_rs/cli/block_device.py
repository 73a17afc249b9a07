"""A block device, the layers it is made of and the disks at the bottom, as /sys tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A device below which so many others lie has a ring in what /sys says.
_DEEPEST = 16
_NETWORK_NAMES = ("nbd", "rbd", "drbd")
# iSCSI and Fibre Channel, NVMe over fabrics
_NETWORK_PATHS = ("session", "rport-", "nvme-fabrics")


@dataclass(frozen=True, slots=True)
class Disk:
    """What holds the bytes."""

    name: str
    model: str | None
    is_rotational: bool | None
    """Virtual disks say so without knowing it; theirs is None."""
    is_network: bool
    is_usb: bool
    usb_gbps: float | None
    """What the bus carries at most, in 10^9 bytes a second; None if it does not tell."""


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A device and what it is made of."""

    name: str
    layers: tuple[str, ...]
    """``LVM``, ``LUKS``, ``raid1``, …, from the top; none of a plain disk or partition."""
    disks: tuple[Disk, ...]


def block_device(path: Path) -> BlockDevice:
    """Return the device whose directory in /sys is ``path``."""
    layers: dict[str, None] = {}
    disks: dict[str, Disk] = {}
    _descend(path, layers, disks, _DEEPEST)
    return BlockDevice(path.name, tuple(layers), tuple(disks.values()))


def _descend(path: Path, layers: dict[str, None], disks: dict[str, Disk], left: int) -> None:
    whole = path.parent if (path / "partition").exists() else path
    layer = _layer(whole)
    if layer is not None:
        layers[layer] = None
    # of a partition, the members are those of its disk
    below = sorted((whole / "slaves").glob("*"))
    if below and left:
        for member in below:
            _descend(member.resolve(), layers, disks, left - 1)
    else:
        disks[whole.name] = _disk(whole)


def _layer(path: Path) -> str | None:
    if (path / "dm").is_dir():
        kind = text_of(path / "dm/uuid").partition("-")[0]
        return {"CRYPT": "LUKS", "LVM": "LVM"}.get(kind, "device mapper")
    if (path / "md").is_dir():
        return text_of(path / "md/level").strip() or "md"
    if (path / "loop").is_dir():
        return "loop"
    return None


def _disk(path: Path) -> Disk:
    parts = path.parts
    is_virtual = any(part.startswith("virtio") for part in parts)
    rotational = "" if is_virtual else text_of(path / "queue/rotational").strip()
    is_usb = any(part.startswith("usb") for part in parts)
    return Disk(
        path.name,
        text_of(path / "device/model").strip() or None,
        rotational == "1" if rotational else None,
        path.name.startswith(_NETWORK_NAMES)
        or any(part.startswith(_NETWORK_PATHS) for part in parts),
        is_usb,
        _usb_gbps(path) if is_usb else None,
    )


def _usb_gbps(path: Path) -> float | None:
    """Return the speed of the USB device that a disk belongs to."""
    for parent in path.parents:
        if parent.name.startswith("usb"):  # the bus itself, which may be faster
            return None
        speed = text_of(parent / "speed").strip()
        try:
            # 10 bits on the wire carry a byte, or nearly
            return float(speed) / 10_000
        except ValueError:
            continue
    return None


def text_of(path: Path) -> str:
    """Return what a file of /proc or /sys says, nothing if it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
