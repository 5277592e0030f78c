"""What commands say: failing clearly, and sizes for people."""

from __future__ import annotations

from streamer.clearly import fails_clearly as fails_clearly


def size_text(num_bytes: float) -> str:
    """Bytes for people: 5.7 GB, in powers of a thousand, as shops and hubs count."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"
