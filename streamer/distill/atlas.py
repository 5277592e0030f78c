"""The cast of the storybook world: one sheet of sprites, built once and committed.

The pictures are Microsoft's Fluent Emoji in their 3-D style (MIT), as packed by LobeHub in the npm
package `@lobehub/fluent-emoji-3d` 1.1.0.  To build the sheet again:

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz
    streamer distill atlas --package package

Knows nothing of scenes, motions or captions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CELL_PX = 96
COLUMNS = 5
MARGIN_PX = 2
FOLDER = Path(__file__).resolve().parent.parent / "assets" / "atlas"


@dataclass(frozen=True)
class Member:
    """One sprite: its name, its file in the package, and how it behaves on stage.

    facing: -1 looks left, 0 neither, 1 looks right.  size: longest side in picture heights.
    flies: whether it moves through the air rather than on the ground.
    """

    name: str
    code: str
    facing: int = 0
    size: float = 0.36
    flies: bool = False


CAST: tuple[Member, ...] = (
    Member("balloon", "1f388", size=0.38, flies=True),
    Member("dog", "1f415", -1),
    Member("cat", "1f408-200d-2b1b", -1),
    Member("rabbit", "1f407", -1, 0.34),
    Member("horse", "1f40e", -1, 0.40),
    Member("elephant", "1f418", -1, 0.42),
    Member("penguin", "1f427", size=0.34),
    Member("parrot", "1f99c", -1, 0.38, flies=True),
    Member("butterfly", "1f98b", flies=True),
    Member("fish", "1f420", -1),
    Member("whale", "1f433", -1, 0.44),
    Member("dinosaur", "1f995", -1, 0.44),
    Member("car", "1f697", -1, 0.42),
    Member("bus", "1f68c", -1, 0.46),
    Member("sailboat", "26f5", size=0.42),
    Member("rocket", "1f680", 1, 0.42, flies=True),
    Member("airplane", "2708-fe0f", 1, 0.42, flies=True),
    Member("ball", "26bd", size=0.30),
    Member("star", "2b50", size=0.36, flies=True),
    Member("robot", "1f916"),
)

_LICENCE = """The pictures in atlas.webp are taken from Fluent Emoji, 3-D style, by way of the npm
package @lobehub/fluent-emoji-3d 1.1.0.  Both are under the MIT licence:

MIT License

Copyright (c) Microsoft Corporation.
Copyright (c) 2023 LobeHub

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


@dataclass(frozen=True)
class Atlas:
    """The sprites in memory.

    sprites: premultiplied RGBA in 0..1, float32 [S, 4, CELL_PX, CELL_PX], in the order of CAST.
    half_height: [S], from the middle of the cell to the sprite's lowest point, in cells.
    """

    sprites: Tensor
    half_height: Tensor


def shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an RGBA picture with its colours weighted by alpha, so that edges keep their hue.

    Porter and Duff 1984, "Compositing Digital Images": filters act on premultiplied colour.
    """
    straight = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255.0
    planes = [straight[..., i] * straight[..., 3] for i in range(3)] + [straight[..., 3]]
    small = np.stack(
        [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in planes], -1
    )
    colour = small[..., :3] / np.maximum(small[..., 3:], 1e-4)
    packed = np.concatenate([colour, small[..., 3:]], -1).clip(0, 1) * 255.0 + 0.5
    return Image.fromarray(packed.astype(np.uint8), "RGBA")


def build_atlas(package: Path, out: Path) -> None:
    """Write atlas.webp, atlas.json and NOTICE into `out` from the unpacked npm package.

    Every sprite is cropped to what is visible, scaled to fit its cell and centred in it.
    Raises FileNotFoundError when the package lacks a picture of the cast.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = -(-len(CAST) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL_PX, rows * CELL_PX))
    for index, member in enumerate(CAST):
        path = package / "assets" / f"{member.code}.webp"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such picture; is {package} the unpacked package?")
        image = Image.open(path).convert("RGBA")
        image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
        scale = (CELL_PX - 2 * MARGIN_PX) / max(image.size)
        width, height = round(image.width * scale), round(image.height * scale)
        left = index % COLUMNS * CELL_PX + (CELL_PX - width) // 2
        top = index // COLUMNS * CELL_PX + (CELL_PX - height) // 2
        sheet.paste(shrink(image, (width, height)), (left, top))
    sheet.save(out / "atlas.webp", quality=92, alpha_quality=100, method=6)
    entries = [
        {"name": m.name, "code": m.code, "facing": ("left", "none", "right")[m.facing + 1]}
        for m in CAST
    ]
    listing = {"cell_px": CELL_PX, "columns": COLUMNS, "sprites": entries}
    (out / "atlas.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    (out / "NOTICE").write_text(_LICENCE, encoding="utf-8")


def load_atlas(folder: Path = FOLDER) -> Atlas:
    """Read the committed sheet.

    Raises FileNotFoundError when it is missing, ValueError when it shows another cast.
    """
    listing = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
    names = [entry["name"] for entry in listing["sprites"]]
    if names != [member.name for member in CAST]:
        raise ValueError(
            f"{folder / 'atlas.json'}: shows {names}; build it again with `streamer distill atlas`"
        )
    sheet = np.asarray(Image.open(folder / "atlas.webp").convert("RGBA"), dtype=np.float32) / 255.0
    cells = []
    for index in range(len(CAST)):
        top, left = index // COLUMNS * CELL_PX, index % COLUMNS * CELL_PX
        cells.append(sheet[top : top + CELL_PX, left : left + CELL_PX])
    straight = torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2)
    sprites = torch.cat([straight[:, :3] * straight[:, 3:], straight[:, 3:]], 1).contiguous()
    filled = (sprites[:, 3] > 0.3).any(-1).float()
    lowest = (filled * torch.arange(1, CELL_PX + 1)).amax(-1)
    return Atlas(sprites, lowest / CELL_PX - 0.5)
