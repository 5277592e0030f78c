"""The casts of the storybook world: one sheet of sprites for each edition, built and committed.

The pictures are Microsoft's Fluent Emoji in their 3-D style (MIT), as packed by LobeHub in the npm
package `@lobehub/fluent-emoji-3d` 1.1.0.  To build the sheet again:

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz
    streamer distill atlas --edition full --package package

Names and synonyms of the full cast were taken from the Unicode CLDR annotations (by way of the npm
package `emojibase-data` 17.0.0) and went over by hand; they lie in cast.json beside its sheet.
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

MARGIN_PX = 2
ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Member:
    """One sprite: its name, its file in the package, and how it behaves on stage.

    facing: -1 looks left, 0 neither, 1 looks right.  size: longest side in picture heights.
    flies: whether it moves through the air rather than on the ground.
    """

    name: str
    code: str
    facing: int = 0
    size: float = 0.45
    flies: bool = False


CAST: tuple[Member, ...] = (
    Member("balloon", "1f388", size=0.48, flies=True),
    Member("dog", "1f415", -1),
    Member("cat", "1f408-200d-2b1b", -1),
    Member("rabbit", "1f407", -1, 0.43),
    Member("horse", "1f40e", -1, 0.50),
    Member("elephant", "1f418", -1, 0.53),
    Member("penguin", "1f427", size=0.43),
    Member("parrot", "1f99c", -1, 0.48, flies=True),
    Member("butterfly", "1f98b", flies=True),
    Member("fish", "1f420", -1),
    Member("whale", "1f433", -1, 0.55),
    Member("dinosaur", "1f995", -1, 0.55),
    Member("car", "1f697", -1, 0.53),
    Member("bus", "1f68c", -1, 0.58),
    Member("sailboat", "26f5", size=0.53),
    Member("rocket", "1f680", 1, 0.53, flies=True),
    Member("airplane", "2708-fe0f", 1, 0.53, flies=True),
    Member("ball", "26bd", size=0.38),
    Member("star", "2b50", size=0.45, flies=True),
    Member("robot", "1f916"),
)

_LICENCE = """The pictures in this folder are taken from Fluent Emoji, 3-D style, by way of the npm
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
_UNICODE = """
The names and synonyms in cast.json derive from the Unicode CLDR annotations, by way of the npm
package emojibase-data 17.0.0 (MIT, Copyright (c) Miles Johnson).  Unicode data is under the
Unicode License V3:

Copyright (c) 1991-2025 Unicode, Inc.

Permission is hereby granted, free of charge, to any person obtaining a copy of data files and any
associated documentation (the "Data Files") or software and any associated documentation (the
"Software") to deal in the Data Files or Software without restriction, including without limitation
the rights to use, copy, modify, merge, publish, distribute, and/or sell copies of the Data Files or
Software, and to permit persons to whom the Data Files or Software are furnished to do so, provided
that either (a) this copyright and permission notice appear with all copies of the Data Files or
Software, or (b) this copyright and permission notice appear in associated Documentation.

THE DATA FILES AND SOFTWARE ARE PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED,
INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT OF THIRD PARTY RIGHTS.

IN NO EVENT SHALL THE COPYRIGHT HOLDER OR HOLDERS INCLUDED IN THIS NOTICE BE LIABLE FOR ANY CLAIM,
OR ANY SPECIAL INDIRECT OR CONSEQUENTIAL DAMAGES, OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF
USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING
OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THE DATA FILES OR SOFTWARE.

Except as contained in this notice, the name of a copyright holder shall not be used in advertising
or otherwise to promote the sale, use or other dealings in these Data Files or Software without
prior written authorization of the copyright holder.
"""


@dataclass(frozen=True)
class AtlasPlan:
    """A sheet: where it lies, what it shows in which order, how it is laid out.

    names, codes: of the sprites; a code is a file name in the package.  The sheet is <stem>.webp.
    """

    folder: Path
    stem: str
    names: tuple[str, ...]
    codes: tuple[str, ...]
    cell_px: int
    columns: int
    quality: int
    notice: str


@dataclass(frozen=True)
class Atlas:
    """The sprites in memory.

    sprites: premultiplied RGBA in 0..1, float32 [S, 4, cell_px, cell_px], in the plan's order.
    half_height: [S], from the middle of the cell to the sprite's lowest point, in cells.
    """

    sprites: Tensor
    half_height: Tensor


SMALL_PLAN = AtlasPlan(
    folder=ASSETS / "atlas",
    stem="atlas",
    names=tuple(member.name for member in CAST),
    codes=tuple(member.code for member in CAST),
    cell_px=96,
    columns=5,
    quality=92,
    notice=_LICENCE,
)


def find_atlas(edition: str) -> AtlasPlan:
    """The plan of an edition's sheet."""
    if edition == "small":
        return SMALL_PLAN
    from streamer.distill.full.cast import PROPS, load_members

    members = load_members()
    return AtlasPlan(
        folder=ASSETS / "cast",
        stem="cast",
        names=(*(member.name for member in members), *PROPS),
        codes=(*(member.code for member in members), *PROPS.values()),
        cell_px=128,
        columns=22,
        quality=92,
        notice=_LICENCE + _UNICODE,
    )


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


def build_atlas(plan: AtlasPlan, package: Path, out: Path) -> None:
    """Write a sheet, its listing and its NOTICE from the unpacked npm package.

    Every sprite is cropped to what is visible, scaled to fit its cell and centred in it.
    Raises FileNotFoundError when the package lacks a picture of the cast.
    """
    out.mkdir(parents=True, exist_ok=True)
    cell = plan.cell_px
    rows = -(-len(plan.codes) // plan.columns)
    sheet = Image.new("RGBA", (plan.columns * cell, rows * cell))
    for index, code in enumerate(plan.codes):
        path = package / "assets" / f"{code}.webp"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such picture; is {package} the unpacked package?")
        image = Image.open(path).convert("RGBA")
        image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
        scale = (cell - 2 * MARGIN_PX) / max(image.size)
        width, height = round(image.width * scale), round(image.height * scale)
        left = index % plan.columns * cell + (cell - width) // 2
        top = index // plan.columns * cell + (cell - height) // 2
        sheet.paste(shrink(image, (width, height)), (left, top))
    sheet.save(out / f"{plan.stem}.webp", quality=plan.quality, alpha_quality=100, method=6)
    (out / "atlas.json").write_text(_describe(plan), encoding="utf-8")
    (out / "NOTICE").write_text(plan.notice, encoding="utf-8")


def _describe(plan: AtlasPlan) -> str:
    """What the sheet shows, as JSON."""
    sprites = [{"name": n, "code": c} for n, c in zip(plan.names, plan.codes, strict=True)]
    listing = {"cell_px": plan.cell_px, "columns": plan.columns, "sprites": sprites}
    return json.dumps(listing, indent=1) + "\n"


def load_atlas(plan: AtlasPlan, folder: Path | None = None) -> Atlas:
    """Read the committed sheet, or the one in another folder.

    Raises FileNotFoundError when it is missing, ValueError when it shows another cast.
    """
    folder = folder or plan.folder
    listing = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
    names = [entry["name"] for entry in listing["sprites"]]
    if names != list(plan.names):
        odd = sorted(set(names) ^ set(plan.names))
        raise ValueError(
            f"{folder / 'atlas.json'}: shows another cast ({', '.join(odd[:5]) or 'other order'}); "
            "build it again with `streamer distill atlas`"
        )
    sheet = np.asarray(Image.open(folder / f"{plan.stem}.webp").convert("RGBA"))
    cell = plan.cell_px
    cells = []
    for index in range(len(plan.names)):
        top, left = index // plan.columns * cell, index % plan.columns * cell
        cells.append(sheet[top : top + cell, left : left + cell])
    straight = torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2).float().div_(255)
    straight[:, :3] *= straight[:, 3:]
    filled = (straight[:, 3] > 0.3).any(-1).float()
    lowest = (filled * torch.arange(1, cell + 1)).amax(-1)
    return Atlas(straight.contiguous(), lowest / cell - 0.5)
