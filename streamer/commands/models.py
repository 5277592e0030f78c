"""`streamer models`: what is known, fetch it, look into files, bring them into our form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.commands.clearly import fails_clearly, size_text
from streamer.errors import ConfigError, StreamerError, WeightsError

if TYPE_CHECKING:
    from streamer.commands.shelf import ShelfEntry
    from streamer.models.checkpoints import Recognised

GIB = 1 << 30


@click.group()
def models() -> None:
    """List, fetch, inspect and convert models."""


@models.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@fails_clearly
def list_command(as_json: bool) -> None:
    """What can be run, what it needs, and what of it is on disk."""
    from streamer.commands.shelf import shelf
    from streamer.config import models_dir

    entries = shelf()
    if as_json:
        click.echo(json.dumps([_entry_tree(entry) for entry in entries], indent=2))
        return
    head = f"{'name':<31} {'size':>7} {'steps':>5} {'window':>6} {'memory':>8}  "
    click.echo(f"{head}{'on disk':<8} licence")
    for entry in entries:
        about = _entry_tree(entry)
        click.echo(
            f"{about['name']:<31} {about['size']:>7} {about['steps']:>5} {about['window']:>6} "
            f"{entry.needs.device / GIB:>4.1f} GiB  {about['on_disk']:<8} {about['licence']}"
        )
    click.echo(f"\nfiles: {models_dir()}\nfetch one: streamer models pull NAME")


@models.command(name="pull")
@click.argument("name", metavar="NAME")
@click.option("--revision", help="Another revision than the one that is known to work.")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="[default: the models folder]"
)
@fails_clearly
def pull_command(name: str, revision: str | None, folder: Path | None) -> None:
    """Fetch a model's files from the Hugging Face hub; goes on where an earlier try stopped."""
    from streamer.commands.pull import pull
    from streamer.config import load_config, models_dir

    place = folder or models_dir()
    files = pull(load_config(name), place, revision=revision, say=click.echo)
    click.echo(f"{len(files)} files in {place}; try: streamer serve --config {name}")


@models.command(name="inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@fails_clearly
def inspect_command(path: Path, as_json: bool) -> None:
    """What a file or folder of weights is, and which configuration fits."""
    from streamer.models.checkpoints import recognise, recognise_folder

    if path.is_dir():
        found, faults = recognise_folder(path)
        if not found and faults:
            raise faults[0]
        if not found:
            raise WeightsError(f"{path}: there are no weights in this folder, nor one below it")
    else:
        found, faults = [recognise([path])], []
    if as_json:
        click.echo(json.dumps([_found_tree(each) for each in found], indent=2))
        return
    for each in found:
        _print_found(each)
    for fault in faults:
        click.echo(f"not read: {fault}", err=True)


@models.command(name="convert")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--config", "source", metavar="NAME|FILE", help="Goes into the file's header.")
@click.option(
    "--dtype",
    type=click.Choice(["keep", "bfloat16", "float16", "float32"]),
    default="keep",
    show_default=True,
)
@click.option(
    "--lora",
    "loras",
    type=(click.Path(path_type=Path), float),
    multiple=True,
    metavar="FILE SCALE",
    help="Merge a LoRA; may be given several times.",
)
@click.option("--part", default="transformer", help="Which network of a folder.", show_default=True)
@click.option("--nest", default="", help="Which network of a training save, such as generator.")
@click.option("--assume-causal", is_flag=True, help="Take a transformer that says it is a teacher.")
@fails_clearly
def convert_command(
    path: Path,
    out: Path,
    source: str | None,
    dtype: str,
    loras: tuple[tuple[Path, float], ...],
    part: str,
    nest: str,
    assume_causal: bool,
) -> None:
    """Write weights in any known layout as one safetensors file in our names."""
    import torch

    from streamer.config import load_config
    from streamer.models.checkpoints import LoraFile, locate, recognise, require_stream_model
    from streamer.models.checkpoints.convert import convert
    from streamer.models.checkpoints.recognise import Kind

    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: the file to write ends in .safetensors")
    kinds: tuple[Kind, ...] = ("transformer", "vae", "text", "taehv")
    kind = next((kind for kind in kinds if kind == part), None)
    if kind is None:
        raise ConfigError(f"--part is {part!r}; known: {', '.join(kinds)}")
    if path.is_dir():
        found = locate([path], kind, assume_causal=assume_causal)
    else:
        found = recognise([path], nest)
    if found.kind == "transformer":
        require_stream_model(found, assume_causal=assume_causal)
    config = load_config(source).model_dump_json() if source else ""
    with bar("converting") as report:
        written = convert(
            found,
            out,
            dtype=None if dtype == "keep" else getattr(torch, dtype),
            loras=[LoraFile(file, scale) for file, scale in loras],
            config=config,
            on_progress=report,
        )
    click.echo(f"{out}: {found.title}, {size_text(written)}")


@contextmanager
def bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr for what takes minutes; yields what to call with the share done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda share, _: progress.update(task, completed=share)


def _entry_tree(entry: ShelfEntry) -> dict[str, Any]:
    config = entry.config
    assert config.model is not None
    needs, source = entry.needs, config.source
    return {
        "name": config.name,
        "title": config.title,
        "size": f"{config.stream.width}x{config.stream.height}",
        "steps": len(config.model.sampler.denoising_step_list),
        "window": config.stream.window,
        "sink": config.stream.sink,
        "licence": source.licence if source else "Apache-2.0",
        "page": source.page if source else "",
        "device_bytes": needs.device,
        "device_bytes_with_parked_text": needs.device_with_parked_text,
        "download_bytes": entry.download_bytes,
        "on_disk": entry.presence,
        "missing": [str(path) for path in entry.missing],
    }


def _found_tree(found: Recognised) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "is": found.title,
        "kind": found.kind,
        "role": found.role,
        "why": found.why,
        "layout": found.layout,
        "networks": list(found.tensors.nests),
        "network": found.tensors.nest,
        "tensors": len(found.tensors.entries),
        "parameters": found.num_parameters,
        "bytes": found.num_bytes,
        "dtypes": found.dtypes,
        "sizes": dict(found.sizes),
        "fits": fitting(found),
        "refused": _refusal(found),
    }


def _print_found(found: Recognised) -> None:
    about = _found_tree(found)
    click.echo(f"{about['path']}\n  {about['is']}")
    if about["why"]:
        click.echo(f"  because {about['why']}")
    nest = f", under {about['network']!r} of {about['networks']}" if about["network"] else ""
    click.echo(
        f"  {about['layout']} names{nest}, {about['tensors']} tensors, "
        f"{about['parameters'] / 1e9:.2f} billion numbers, {about['dtypes']}, "
        f"{size_text(about['bytes'])}"
    )
    if about["refused"]:
        click.echo(f"  makes no stream: {about['refused']}")
    elif about["fits"]:
        click.echo(f"  fits: {', '.join(about['fits'])}")
    elif found.kind == "transformer":
        sizes = ", ".join(f"{key} {value}" for key, value in about["sizes"].items())
        click.echo(f"  fits no shipped configuration; write one with {sizes}")


def fitting(found: Recognised) -> list[str]:
    """Names of shipped configurations whose network has these sizes; by file name first."""
    from streamer.commands.shelf import files_of, shelf

    configs = [entry.config for entry in shelf()]
    if found.kind == "transformer":
        configs = [
            config
            for config in configs
            if config.model is not None
            and all(
                getattr(config.model.transformer, key) == value
                for key, value in found.sizes.items()
                if key != "num_heads"
            )
        ]
        named = {file.name for file in (found.path, found.path.parent)}
        return [
            config.name
            for config in sorted(
                configs, key=lambda each: not named & {file.name for file in files_of(each)}
            )
        ]
    decoders = {"vae": "wan" if found.sizes.get("width") == 96 else "lightvae", "taehv": "taehv"}
    decoder, text = decoders.get(found.kind), "umt5" if found.kind == "text" else None
    return [
        config.name
        for config in configs
        if (model := config.model) is not None
        and (
            model.text.kind == text
            or decoder in [each.kind for each in (model.decoder, model.small_decoder) if each]
        )
    ]


def _refusal(found: Recognised) -> str:
    """Why a transformer makes no stream; empty when it does, or is another network."""
    from streamer.models.checkpoints import require_stream_model

    if found.kind != "transformer":
        return ""
    try:
        require_stream_model(found)
    except StreamerError as error:
        return str(error)
    return ""
