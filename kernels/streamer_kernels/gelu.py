"""linear_gelu: a linear map and the tanh form of GELU.  Contract and reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x weight^T + bias) with the tanh approximation.

    x: [..., E].  weight: [O, E].  bias: [O].  result: [..., O].
    Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias) with the tanh approximation, for products that come without a bias.

    x, result: [..., O].  bias: [O].
    """
    return F.gelu(x + bias, approximate="tanh")


def linear_gelu_epilogue(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`linear_gelu` in one launch of cuBLASLt, which adds the bias and takes the GELU by itself.

    On a CUDA device only: elsewhere PyTorch takes the exact GELU here.  No gradient.
    Raises RuntimeError on another device or when a gradient is wanted.
    """
    if x.device.type != "cuda":
        raise RuntimeError(f"the epilogue is cuBLASLt's, x is on {x.device}; use linear_gelu")
    if torch.is_grad_enabled() and any(each.requires_grad for each in (x, weight, bias)):
        raise RuntimeError(
            "linear_gelu_epilogue has no backward pass; run it under torch.no_grad() or use "
            "linear_gelu"
        )
    rows = x.reshape(-1, x.shape[-1])
    out = torch._addmm_activation(bias, rows, weight.t(), use_gelu=True)
    return out.view(*x.shape[:-1], weight.shape[0])
