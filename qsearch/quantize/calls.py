"""Functional calls that multiply: what torch was called with, in one form for each kind.

Notation: x an activation, W a weight, P a parameter as it stands in the call, a and b activations.

===========  ==========================================  =====================================================
operation    calls                                       what becomes of them
===========  ==========================================  =====================================================
linear       F.linear(x, W), x @ P, P @ x, addmm         a linear layer with the weight W, Pᵀ or P
conv1d…3d    F.conv1d … F.conv3d                         a convolution
embedding    F.embedding                                 an embedding
matmul       a @ b, bmm, mm of two activations           a matrix product
attention    F.scaled_dot_product_attention              two matrix products
===========  ==========================================  =====================================================

Others that multiply (einsum, say) are known by name only: they stay in float, and are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Finish: TypeAlias = Literal["as it is", "turned", "squeezed"]
"""How a linear layer stands in for a product with a parameter: P @ x = (xᵀ Pᵀ)ᵀ, and x @ p of a vector p has no last extent."""


@dataclass(frozen=True)
class Weighted:
    """A call with a weight, in the layout of the weight of a layer.

    Attributes:
        operation: see the module.
        x: the other operand.
        weight: (c_out, c_in) of a linear layer, (c_out, c_in / g, …) of a convolution, (rows, width) of an embedding.
        bias: (c_out,), one number for all, or what else is added.
        geometry: arguments of the layer beside its extents.
        finish: see :data:`Finish`.
    """

    operation: str
    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    geometry: tuple[tuple[str, Any], ...] = ()
    finish: Finish = "as it is"


@dataclass(frozen=True)
class Product:
    """A product of two tensors, and what is added to it with which factors."""

    a: Tensor
    b: Tensor
    addend: Tensor | None = None
    beta: float = 1
    alpha: float = 1

    def weighted(self, constant: Callable[[Tensor], bool]) -> Weighted | None:
        """The product as a linear layer, where one side is a matrix or a vector that is constant; None where neither is."""
        if self.alpha != 1 or self.beta != 1:
            return None
        if constant(self.b) and self.b.dim() <= 2:
            vector = self.b.dim() == 1
            weight = self.b[None] if vector else self.b.t()
            return Weighted("linear", self.a, weight, self.addend, finish="squeezed" if vector else "as it is")
        if constant(self.a) and self.a.dim() == 2 and self.b.dim() >= 2 and self.addend is None:
            return Weighted("linear", self.b, self.a, finish="turned")
        return None


@dataclass(frozen=True)
class Attention:
    """A call of ``scaled_dot_product_attention``, with its arguments as they are."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Other:
    """A call that multiplies and is not taken apart."""

    name: str
    operands: tuple[Tensor, ...]


Call: TypeAlias = Weighted | Product | Attention | Other


def parse(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """What a call of torch multiplies; None where it is none of those that do."""
    reader = _READERS.get(func)
    if reader is not None:
        return reader(*args, **kwargs)
    if func not in _OTHERS:
        return None
    operands = [value for value in (*args, *kwargs.values()) for value in _tensors(value)]
    return Other(func.__name__, tuple(operands))


def layer(call: Weighted, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer that stands in for a call, with copies of its weight and bias."""
    rest = dict(call.geometry)
    made: nn.Module
    if call.operation == "embedding":
        made = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    elif call.operation == "linear":
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    else:
        kind: type[Any] = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}[call.operation]
        channels = (weight.shape[1] * rest["groups"], weight.shape[0])
        made = kind(*channels, tuple(weight.shape[2:]), bias=bias is not None, device="meta", **rest)
    made.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().expand(weight.shape[0]).clone(), requires_grad=False)
    return made.eval()


def run(made: nn.Module, call: Weighted) -> Tensor:
    """A call by the layer that stands in for it."""
    if call.finish == "turned":
        turned: Tensor = made(call.x.transpose(-2, -1)).transpose(-2, -1)
        return turned
    found: Tensor = made(call.x)
    return found.squeeze(-1) if call.finish == "squeezed" else found


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:  # noqa: A002  # torch's name
    if weight.dim() == 1:
        return Weighted("linear", input, weight[None], bias, finish="squeezed")
    return Weighted("linear", input, weight, bias)


def _convolution(rank: int) -> Callable[..., Call]:
    def read(
        input: Tensor,  # noqa: A002  # torch's name
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Call:
        extents = (("stride", stride), ("padding", padding), ("dilation", dilation))
        spread = [(key, value if isinstance(value, str) else _spread(value, rank)) for key, value in extents]
        return Weighted(f"conv{rank}d", input, weight, bias, (*spread, ("groups", groups)))

    return read


def _embedding(
    input: Tensor,  # noqa: A002  # torch's name
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *_: Any,
    **__: Any,
) -> Call:
    if max_norm is not None:  # writes into its weight as it goes
        return Other("embedding", (input, weight))
    return Weighted("embedding", input, weight)


def _product(*operands: Tensor, out: Tensor | None = None, **named: Tensor) -> Call:
    a, b = (*operands, *named.values())
    return Product(a, b) if out is None else Other("matmul", (a, b))


def _sum(*operands: Tensor, beta: float = 1, alpha: float = 1, out: Tensor | None = None, **named: Tensor) -> Call:
    addend, a, b = (*operands, *named.values())
    return Product(a, b, addend, beta, alpha) if out is None else Other("addmm", (addend, a, b))


def _turned_product(b: Tensor, a: Tensor) -> Call:
    """``b.__rmatmul__(a)`` is a @ b."""
    return Product(a, b)


def _attention(*args: Any, **kwargs: Any) -> Call:
    return Attention(args, kwargs)


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    """One number per extent, of which torch takes one for all."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * rank if len(numbers) == 1 else numbers


def _tensors(value: Any) -> list[Tensor]:
    parts = value if isinstance(value, list | tuple) else [value]
    return [part for part in parts if isinstance(part, Tensor)]


_READERS: Mapping[Any, Callable[..., Call]] = {
    functional.linear: _linear,
    functional.conv1d: _convolution(1),
    functional.conv2d: _convolution(2),
    functional.conv3d: _convolution(3),
    functional.embedding: _embedding,
    **dict.fromkeys(
        (torch.matmul, torch.mm, torch.bmm, torch.mv, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.mv), _product
    ),
    Tensor.__rmatmul__: _turned_product,
    **dict.fromkeys((torch.addmm, Tensor.addmm), _sum),
    functional.scaled_dot_product_attention: _attention,
}
"""torch's functions and methods; ``a @ b`` is the method ``matmul``."""

_OTHERS = frozenset(
    (
        torch.einsum,
        torch.tensordot,
        torch.baddbmm,
        Tensor.baddbmm,
        Tensor.baddbmm_,
        torch.addbmm,
        Tensor.addbmm,
        Tensor.addbmm_,
        Tensor.addmm_,
        torch.addmv,
        torch.addmv_,
        Tensor.addmv,
        Tensor.addmv_,
        torch.addr,
        Tensor.addr,
        Tensor.addr_,
        torch.inner,
        Tensor.inner,
        torch.outer,
        Tensor.outer,
        torch.ger,
        Tensor.ger,
        torch.dot,
        Tensor.dot,
        torch.vdot,
        Tensor.vdot,
        torch.cdist,
        torch.chain_matmul,
        torch.linalg.multi_dot,
        torch.linalg.matmul,
        torch.linalg.vecdot,
        functional.bilinear,
        functional.embedding_bag,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
        functional.multi_head_attention_forward,
    )
)
