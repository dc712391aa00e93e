"""NIR graphs step by step in plain NumPy, from NIR's equations: nothing of qsearch or torch.

Euler's method with a step dt; what reaches an IF or I in a step is an impulse of area one. Spikes where v ≥ θ.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np


def simulate(graph: Any, inputs: np.ndarray, dt: float = 1e-4, reset: str = "subtract") -> np.ndarray:
    """What reaches the Output in each step, (T, …), of inputs (T, *S)."""
    states: dict[str, Any] = {name: {} for name in graph.nodes}
    last: dict[str, Any] = {}
    (output,) = (name for name, node in graph.nodes.items() if isinstance(node, nir.Output))
    found = []
    for x in np.asarray(inputs, dtype=np.float64):
        now: dict[str, Any] = {}
        for name in ordered(graph):
            node = graph.nodes[name]
            if isinstance(node, nir.Input):
                now[name] = x
                continue
            reached = [now[a] if a in now else last.get(a) for a, b in graph.edges if b == name]
            current = sum(part for part in reached if part is not None)
            now[name] = advance(node, current, states[name], dt, reset)
        found.append(now[output])
        last = now
    return np.stack(found)


def ordered(graph: Any) -> list[str]:
    """Nodes after those they read, but for neurons whose own spikes come back through weights."""
    kinds = (nir.Linear, nir.Affine, nir.Conv2d)
    edges = set(graph.edges)
    back = {(a, b) for a, b in edges if isinstance(graph.nodes[a], kinds) and (b, a) in edges}
    waiting, found = dict.fromkeys(graph.nodes), []
    while waiting:
        ready = [n for n in waiting if not any(b == n and a in waiting and (a, b) not in back for a, b in edges)]
        assert ready
        found += ready[:1]
        del waiting[ready[0]]
    # weights of a recurrence are read a step later: they run behind their neuron
    return found


def advance(node: Any, x: Any, state: dict[str, Any], dt: float, reset: str) -> Any:
    """One step of a node; its state changes."""
    kind = type(node).__name__
    if kind in ("IF", "I"):
        state["v"] = state.get("v", 0) + node.r * x
    elif kind in ("LIF", "LI"):
        v = state.get("v", 0)
        state["v"] = v + dt / node.tau * (node.v_leak - v + node.r * x)
    elif kind in ("CubaLIF", "CubaLI"):
        i, v = state.get("i", 0), state.get("v", 0)
        state["i"] = i + dt / node.tau_syn * (-i + node.w_in * x)
        state["v"] = v + dt / node.tau_mem * (node.v_leak - v + node.r * state["i"])
    else:
        return stateless(node, kind, x)
    if kind in ("I", "LI", "CubaLI"):
        return state["v"]
    spikes = (state["v"] >= node.v_threshold).astype(np.float64)
    state["v"] = state["v"] - spikes * node.v_threshold if reset == "subtract" else state["v"] * (1 - spikes)
    return spikes


def stateless(node: Any, kind: str, x: Any) -> Any:
    """The output of a node without a state."""
    if kind == "Output":
        return x
    if kind in ("Linear", "Affine"):
        return node.weight @ x + (node.bias if kind == "Affine" else 0)
    if kind == "Scale":
        return node.scale * x
    if kind == "Threshold":
        return (x >= node.threshold).astype(np.float64)
    if kind == "Flatten":
        assert int(node.start_dim) == 0
        assert int(node.end_dim) == -1
        return x.reshape(-1)
    if kind in ("SumPool2d", "AvgPool2d"):
        windows = windows_of(x, node.kernel_size, node.stride, node.padding, (1, 1))
        return windows.sum((-2, -1)) if kind == "SumPool2d" else windows.mean((-2, -1))
    return convolution(node, kind, x)


def convolution(node: Any, kind: str, x: Any) -> Any:
    """A convolution, window by window."""
    if kind == "Conv1d":
        as_2d = nir.Conv2d(
            None,
            node.weight[:, :, None, :],
            (1, int(node.stride)),
            (0, int(node.padding)),
            (1, int(node.dilation)),
            node.groups,
            node.bias,
        )
        return convolution(as_2d, "Conv2d", x[:, None, :])[:, 0, :]
    out, inner, *kernel = node.weight.shape
    windows = windows_of(x, kernel, node.stride, node.padding, node.dilation)
    groups = int(node.groups)
    parts = [
        np.einsum(
            "chwij,ocij->ohw", windows[g * inner : (g + 1) * inner], node.weight[g * (out // groups) :][: out // groups]
        )
        for g in range(groups)
    ]
    return np.concatenate(parts) + node.bias[:, None, None]


def windows_of(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """(C, H, W) → (C, H', W', kh, kw)."""
    (ph, pw), (dh, dw), (sh, sw) = padding, dilation, stride
    padded = np.pad(x, ((0, 0), (int(ph), int(ph)), (int(pw), int(pw))))
    reach = (dh * (int(kernel[0]) - 1) + 1, dw * (int(kernel[1]) - 1) + 1)
    found = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
    return found[:, ::sh, ::sw, ::dh, ::dw]
