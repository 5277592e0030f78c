"""to_i420: pictures from RGB to the planes that video encoders read.  Contract and reference.

BT.601 with limited range, which is what encoders and browsers assume of pictures of this size when
nothing is said.  Fixed point with 16 bits, so that every device gives the same bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

# ITU-R BT.601-7, section 2.5: luma weights 0.299, 0.587, 0.114 over 219 steps from 16, colour
# differences over 224 steps around 128; times 2^16.
LUMA = (16829, 33039, 6416)
BLUE = (-9714, -19071, 28785)
RED = (28785, -24103, -4682)


def to_i420(pictures: Tensor) -> Tensor:
    """uint8 RGB [T, H, W, 3] -> uint8 [T, H + H/2, W], the planes Y, U and V one after another.

    Y: H rows.  U and V: W/2 wide, the mean of two by two pixels, their rows lie two to a row of the
    result.  This is the layout of `av.VideoFrame.from_ndarray(..., format="yuv420p")`.
    Raises ValueError when H or W is odd or pixels are something else.
    """
    check_pictures(pictures)
    count, height, width, _ = pictures.shape
    wide = pictures.int()
    red, green, blue = wide.unbind(-1)
    luma = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + (16 << 16) + (1 << 15)) >> 16
    quads = torch.unflatten(torch.unflatten(wide, 2, (-1, 2)), 1, (-1, 2)).sum((2, 4))
    red, green, blue = quads.unbind(-1)
    planes = [luma]
    for weights in (BLUE, RED):
        # Four pixels summed: two more bits to shift away.
        mixed = weights[0] * red + weights[1] * green + weights[2] * blue
        planes.append((mixed + (128 << 18) + (1 << 17)) >> 18)
    flat = torch.cat([plane.flatten(1) for plane in planes], dim=1)
    return flat.to(torch.uint8).view(count, height * 3 // 2, width)


def check_pictures(pictures: Tensor) -> None:
    """Raises ValueError when `to_i420` cannot take these pictures."""
    if pictures.dim() != 4 or pictures.shape[-1] != 3 or pictures.dtype != torch.uint8:
        raise ValueError(
            f"pictures are {pictures.dtype} {tuple(pictures.shape)}, expected torch.uint8 "
            "[T, H, W, 3]"
        )
    if pictures.shape[1] % 2 or pictures.shape[2] % 2:
        raise ValueError(
            f"pictures are {pictures.shape[2]}x{pictures.shape[1]}; the colour planes of 4:2:0 "
            "halve both sizes, so both must be even"
        )
