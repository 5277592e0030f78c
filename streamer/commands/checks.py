"""The checks of `streamer doctor`: each looks at one thing and says ok, warn or fail.

A check never raises: what goes wrong in it is what it reports, with the way out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamer.commands.clearly import size_text
from streamer.commands.shelf import entry_of
from streamer.config import Config, TransformerSection, models_dir, weights_path
from streamer.errors import StreamerError
from streamer.models.needs import needs

if TYPE_CHECKING:
    import torch

Status = Literal["ok", "warn", "fail"]

PYTHON = (3, 11)
TORCH_FROM, TORCH_TO = (2, 11), (2, 13)
GIB = 1 << 30
ROOM = 1.1
"""Free memory wanted, as a multiple of what is computed: allocators and other programs."""

STUN_WAIT_S = 2.0
STUN_PORT = 3478
ATTENTION_ERROR = {"float32": 2e-5, "bfloat16": 3e-2}
"""Largest difference from attention in float64 that rounding explains, for numbers around one."""


@dataclass(frozen=True)
class Check:
    """What one look found.  way_out: what to do, empty when nothing has to be done."""

    name: str
    status: Status
    found: str
    way_out: str = ""


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """The interpreter's version."""
    text = ".".join(map(str, version))
    if version < PYTHON:
        return Check("python", "fail", text, f"install Python {PYTHON[0]}.{PYTHON[1]} or newer")
    return Check("python", "ok", f"{text} on {platform.system()} {platform.machine()}")


def check_torch(version: str | None = None) -> Check:
    """PyTorch's version."""
    try:
        if version is None:
            import torch

            version = torch.__version__
        number = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    except (ImportError, OSError, ValueError) as error:
        return Check("torch", "fail", f"cannot be used: {error}", "run `make setup` again")
    wanted = f"{TORCH_FROM[0]}.{TORCH_FROM[1]} to {TORCH_TO[0]}.{TORCH_TO[1]}"
    if number < TORCH_FROM:
        return Check("torch", "fail", version, f"install PyTorch {wanted}")
    if number > TORCH_TO:
        return Check("torch", "warn", version, f"tested with {wanted}")
    return Check("torch", "ok", version)


def check_cuda(config: Config) -> Check:
    """The device, and whether the model can do without one."""
    import torch

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found = f"{about.name}, {about.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
        if about.major < 8:
            return Check("device", "warn", found, "bfloat16 is fast from compute capability 8.0 on")
        return Check("device", "ok", found)
    is_large = config.model is not None and config.model.transformer.width >= 1024
    if not is_large:
        return Check("device", "ok", "no CUDA device; this model runs on the CPU")
    way_out = "use a machine with an NVIDIA GPU and a CUDA build of PyTorch, or --config storybook"
    return Check("device", "warn", f"no CUDA device; {config.name} will be far too slow", way_out)


def check_triton() -> Check:
    """Triton, which the faster kernels are written in."""
    import torch

    try:
        import triton

        return Check("triton", "ok", str(triton.__version__))
    except ImportError:
        if not torch.cuda.is_available():
            return Check("triton", "ok", "not installed, and not needed without a GPU")
        return Check("triton", "warn", "not installed", "pip install 'streamer[gpu]'")


def check_memory(config: Config, free_bytes: int | None = None) -> Check:
    """Whether one stream of the model fits into the memory that is free now."""
    need = needs(config)
    on_device, free = _free_memory() if free_bytes is None else ("device", free_bytes)
    wanted = need.device
    found = (
        f"{wanted / GIB:.1f} GiB needed (weights {need.transformer / GIB:.1f}, text "
        f"{need.text / GIB:.1f}, window {need.cache / GIB:.1f}), {free / GIB:.1f} GiB free on the "
        f"{on_device}"
    )
    if free >= wanted * ROOM:
        return Check("memory", "ok", found)
    if free >= need.device_with_parked_text * ROOM:
        return Check(
            "memory",
            "warn",
            found,
            "set model.text.parked to true: the text encoder then waits on the host",
        )
    way_out = "set a smaller stream.window, or a smaller picture, or take a smaller model"
    return Check("memory", "fail", found, f"{way_out} (`streamer models list`)")


def check_weights(config: Config) -> Check:
    """Whether the weights are there, are what they should be, and fit the configuration."""
    if config.model is None:
        return Check("weights", "ok", "none needed")
    entry = entry_of(config)
    if entry.missing:
        first = entry.missing[0]
        more = f" and {len(entry.missing) - 1} more" if len(entry.missing) > 1 else ""
        free = shutil.disk_usage(_existing(models_dir())).free
        has_page = config.source is not None and bool(config.source.downloads)
        room = f" ({size_text(entry.download_bytes)}, {size_text(free)} free)" if has_page else ""
        return Check(
            "weights",
            "fail",
            f"{first}{more}: not there",
            f"`streamer models pull {config.name}`{room}" if has_page else "see model.*.weights",
        )
    try:
        found = _fitting_transformer(config)
    except StreamerError as error:
        return Check("weights", "fail", str(error), "see the sentence")
    return Check("weights", "ok", found)


def check_codecs() -> Iterator[Check]:
    """Whether a picture can be encoded, with each encoder."""
    for title, codec, way_out, is_needed in (
        (
            "H.264",
            "libx264",
            "install an FFmpeg build of PyAV with libx264 (the wheels have it)",
            1,
        ),
        ("VP8", "libvpx", "install an FFmpeg build of PyAV with libvpx (the wheels have it)", 1),
        ("H.264 on the GPU", "h264_nvenc", "the processor encodes instead", 0),
    ):
        problem = _encodes(codec)
        if not problem:
            yield Check(f"codec {title}", "ok", codec)
        elif is_needed:
            yield Check(f"codec {title}", "fail", f"{codec}: {problem}", way_out)
        else:
            yield Check(f"codec {title}", "ok", f"{codec} is not there; {way_out}")


def check_port(config: Config) -> Check:
    """Whether the server's address can be bound."""
    host, port = config.server.host, config.server.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return Check(
            "port", "fail", f"{host}:{port}: {error.strerror}", "choose another one with --port"
        )
    return Check("port", "ok", f"{host}:{port} is free")


def check_ice(config: Config, wait_s: float = STUN_WAIT_S) -> Iterator[Check]:
    """Whether UDP works, and whether each ICE server answers."""
    yield _udp_loopback()
    if not config.server.ice_servers:
        reach = "this machine" if config.server.host.startswith(("127.", "localhost")) else "a LAN"
        yield Check("ice", "ok", f"no ICE server: viewers within {reach}")
    for url in config.server.ice_servers:
        scheme, _, rest = url.partition(":")
        host, port = _host_and_port(rest)
        if scheme not in ("stun", "turn"):
            yield Check(f"ice {url}", "warn", f"{scheme} is not tried here", "")
            continue
        problem = _stun_problem(host, port, wait_s)
        if problem:
            way_out = "check the address and the firewall (UDP), or name another server"
            yield Check(f"ice {url}", "fail", problem, way_out)
        else:
            yield Check(f"ice {url}", "ok", "answers")


def check_attention(
    attend: Callable[..., torch.Tensor] | None = None, device: str | None = None
) -> Check:
    """Whether attention over a ring gives what float64 gives.

    attend: the kernel; None: the one that a stream would use on this device.
    """
    import torch
    from streamer_kernels import load_ops

    on = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if on == "cuda" else torch.float32
    kernels: dict[str, Callable[..., torch.Tensor]] = {}
    if attend is not None:
        kernels["given"] = attend
    else:
        kernels["torch"] = load_ops("torch").attend
        if on == "cuda":
            with contextlib.suppress(ImportError):
                kernels["triton"] = load_ops("triton").attend
    torch.manual_seed(0)
    slots, valid = 96, 70
    q, k, v = (torch.randn(1, n, 2, 64, device=on, dtype=dtype) for n in (24, slots, slots))
    wanted = _attention_in_float64(q, k[:, :valid], v[:, :valid])
    found = []
    for name, kernel in kernels.items():
        try:
            got = kernel(q, k, v, valid).double()
        except Exception as error:  # whatever a kernel may fail with is the finding
            return Check("attention", "fail", f"{name}: {error}", "update the driver and Triton")
        off = float((got - wanted).abs().max())
        found.append(f"{name} differs by {off:.1e}")
        if not off <= ATTENTION_ERROR[str(dtype).removeprefix("torch.")]:
            return Check(
                "attention",
                "fail",
                f"{found[-1]} from float64",
                "this kernel draws garbage: do not use it",
            )
    return Check("attention", "ok", ", ".join(found) + f" from float64, on {on}")


def _attention_in_float64(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The definition: softmax(q k / sqrt(D)) v for each head."""
    import torch

    scores = torch.einsum("bnad,bsad->bans", q.double(), k.double()) / q.shape[-1] ** 0.5
    return torch.einsum("bans,bsad->bnad", scores.softmax(-1), v.double())


def _fitting_transformer(config: Config) -> str:
    """What the transformer's file is; raises StreamerError when it does not fit."""
    import torch

    from streamer.models.checkpoints import locate, require_stream_model
    from streamer.models.checkpoints.load import check_names
    from streamer.models.transformer import CausalWanTransformer, TransformerConfig

    assert config.model is not None
    section: TransformerSection = config.model.transformer
    paths = [weights_path(name) for name in section.weights]
    found = locate(paths, "transformer", assume_causal=section.assume_causal)
    require_stream_model(found, assume_causal=section.assume_causal)
    with torch.device("meta"):
        model = CausalWanTransformer(TransformerConfig.of(section))
    check_names(found, {name: tuple(t.shape) for name, t in model.state_dict().items()})
    return f"{found.title}, {found.dtypes}, {size_text(found.num_bytes)}"


def _free_memory() -> tuple[str, int]:
    import torch

    if torch.cuda.is_available():
        return "GPU", int(torch.cuda.mem_get_info()[0])
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return "host", int(line.split()[1]) * 1024
    except OSError:
        pass
    return "host", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _encodes(codec: str) -> str:
    """Encode one grey picture; what went wrong, or nothing."""
    import av
    import numpy as np
    from av.video.codeccontext import VideoCodecContext

    try:
        context = av.CodecContext.create(codec, "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = 256, 160, "yuv420p"
        grey = np.full((240, 256), 128, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, format="yuv420p")
        frame.pts = 0
        num_packets = len([*context.encode(frame), *context.encode(None)])
    except (av.FFmpegError, OSError, ValueError) as error:
        return str(error).splitlines()[0] or type(error).__name__
    return "" if num_packets else "made no packet"


def _udp_loopback() -> Check:
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        ):
            here.settimeout(1.0)
            here.bind(("127.0.0.1", 0))
            there.sendto(b"streamer", here.getsockname())
            here.recv(16)
    except OSError as error:
        return Check(
            "udp",
            "fail",
            f"no packet arrives on this machine: {error}",
            "WebRTC needs UDP: allow it",
        )
    return Check("udp", "ok", "packets arrive on this machine")


def _host_and_port(rest: str) -> tuple[str, int]:
    rest = rest.removeprefix("//").split("?")[0]
    host, colon, port = rest.rpartition(":")
    if not colon or not port.isdigit():
        return rest.strip("[]"), STUN_PORT
    return host.strip("[]"), int(port)


def _stun_problem(host: str, port: int, wait_s: float) -> str:
    """Ask a STUN or TURN server for our address (RFC 8489, a Binding request)."""
    from aioice import stun

    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.settimeout(wait_s)
            probe.sendto(bytes(request), address)
            answer = stun.parse_message(probe.recv(2048))
    except TimeoutError:
        return f"no answer within {wait_s:.0f} s"
    except (OSError, ValueError) as error:
        return str(error)
    if answer.transaction_id != request.transaction_id:
        return "answered somebody else's question"
    return ""
