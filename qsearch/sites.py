"""Which sites a network has: the search space of its layers.

Every layer gives a pair of sites, of what it keeps and of what it reads. What each of them is goes by the kind of layer:

==========  ==========================================================================================================
conv,       ``.weight``, of role weight, and ``.input``: of role activation; of role spikes where all that reaches it
linear      are spikes, which are 1 bit and not searched
embedding   ``.weight`` only: indices are not quantised
matmul      ``.other`` and ``.input``, both of role activation
neuron      ``.leak``, of role leak, and ``.state``, of role state; a neuron that forgets nothing has a leak of one, which
            is 1 bit and not searched
threshold   itself, of role threshold
==========  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import SpaceError, nearest
from qsearch.layers import Layer
from qsearch.overlay import ALL, FEWEST_BITS, Overlay
from qsearch.space import SPIKE_BITS, Granularity, Role, SearchSpace, Site

STATE_BITS = (4, 6, 8, 10, 12, 16)
"""Choices of the bits of a state, where nothing else is asked for."""

CONSTANT_BITS = (2, 4, 6, 8)
"""Choices of the bits of leaks and of thresholds, where nothing else is asked for."""


def build_space(
    layers: Sequence[Layer],
    *,
    weight_bits: Iterable[int],
    activation_bits: Iterable[int],
    granularity: Granularity = "layer",
    ties: Iterable[Sequence[str]] = (),
    fixed: Mapping[str, int] | None = None,
    overlay: Overlay | None = None,
    state_bits: Iterable[int] = STATE_BITS,
    leak_bits: Iterable[int] = CONSTANT_BITS,
    threshold_bits: Iterable[int] = CONSTANT_BITS,
) -> SearchSpace:
    """The space of a network; see the module for its sites.

    Args:
        layers: the layers of the network, in order.
        weight_bits, activation_bits, state_bits, leak_bits, threshold_bits: allowed bits, by the role of the site.
        granularity: "kernel" gives each kernel of a weight its own bits.
        ties: groups of site names that must agree; a site that is fixed fixes those that it is tied with.
        fixed: site name, layer name, or one of "first", "last", "weights", "activations", "states", "leaks", "thresholds"
            → bits; spikes, and leaks of one, stay at 1. A name that is
            more specific wins: a site over a layer, a layer over a group. An overlay's or a pattern's site is fixed by
            its own name only; the former at P, or at ``ALL``, to keep every weight.
        overlay: gives each layer two more sites, of role "overlay" and "pattern"; not one whose weight is fixed, which
            stays plain. Its weight bits are then those of the kept weights.

    Raises:
        SpaceError: as :class:`SearchSpace`; an unknown name in ``fixed`` or in the layers of the overlay; tied sites that
            are fixed at different bits; weights of fewer than 2 bits, or with bits per kernel, beside an overlay; an
            overlay of no weight, or of one that is named and fixed.
    """
    choices: dict[Role, tuple[int, ...]] = {
        "weight": tuple(sorted(set(weight_bits))),
        "activation": tuple(sorted(set(activation_bits))),
        "state": tuple(sorted(set(state_bits))),
        "leak": tuple(sorted(set(leak_bits))),
        "threshold": tuple(sorted(set(threshold_bits))),
        "spikes": (SPIKE_BITS,),
    }
    sites = [site for layer in layers for site in _sites(layer, choices, granularity)]
    tied, given = tuple(map(tuple, ties)), dict(fixed or {})
    extra = [site for layer in layers for site in _overlay_sites(layer, overlay)]
    if overlay is not None:
        given |= {site.name: ALL for site in extra if site.role == "overlay" and given.get(site.name) == overlay.period}
    pins = _pins(sites, extra, layers, given) | _forced(sites, layers)
    for tie in tied:
        if len(bits := {pins[name] for name in tie if name in pins}) == 1:
            pins.update(dict.fromkeys(tie, *bits))
    if overlay is not None:
        extra = [site for site in extra if f"{site.layer}.weight" not in pins]
        _check_overlays(sites, extra, layers, overlay, pins)
        sites = [site for own in sites for site in (own, *(also for also in extra if _beside(own, also)))]
    return SearchSpace(tuple(sites), tied, pins)


def in_float(layers: Sequence[Layer], assignment: BitAssignment) -> bool:
    """Whether an assignment leaves all that could lose something in float, whatever it says of :func:`idle_sites`."""
    idle = idle_sites(layers)
    return all(bits == FLOAT_BITS for site, bits in assignment.items() if site not in idle)


def idle_sites(layers: Sequence[Layer]) -> frozenset[str]:
    """Sites whose bits alone change nothing: spikes, leaks of one, and patterns of overlays."""
    spikes = {layer.activation_site for layer in layers if layer.reads_spikes}
    leaks = {layer.weight_site for layer in layers if layer.forgets_nothing}
    return frozenset(spikes | leaks | {layer.pattern_site for layer in layers if layer.overlay})


def overlaid(layers: Sequence[Layer], space: SearchSpace, overlay: Overlay | None) -> tuple[Layer, ...]:
    """The layers with the period of the overlay, where the space gives them a site for it."""
    names = {site.layer for site in space.sites if site.role == "overlay"}
    period = 0 if overlay is None else overlay.period
    return tuple(replace(layer, overlay=period if layer.name in names else 0) for layer in layers)


def _sites(layer: Layer, choices: Mapping[Role, tuple[int, ...]], granularity: Granularity) -> list[Site]:
    """The pair of sites of a layer; see the module."""
    if layer.kind == "threshold":
        return [Site(layer.weight_site, layer.name, "threshold", choices["threshold"])]
    if layer.kind == "neuron":
        leak = choices["spikes" if layer.forgets_nothing else "leak"]
        state = Site(layer.activation_site, layer.name, "state", choices["state"])
        return [Site(layer.weight_site, layer.name, "leak", leak), state]
    role: Role = "activation" if layer.events is None else "spikes"
    given = Site(layer.activation_site, layer.name, role, choices[role])
    if layer.kind == "matmul":
        return [Site(layer.weight_site, layer.name, "activation", choices["activation"], operand=1), given]
    kernels = layer.kernels if granularity == "kernel" else 1
    weight = Site(layer.weight_site, layer.name, "weight", choices["weight"], kernels)
    return [weight] if layer.kind == "embedding" else [weight, given]


def _forced(sites: Sequence[Site], layers: Sequence[Layer]) -> dict[str, int]:
    """Sites at one bit whatever is asked for: spikes, and the leaks of neurons that forget nothing."""
    whole = {layer.weight_site for layer in layers if layer.forgets_nothing}
    return {site.name: SPIKE_BITS for site in sites if site.role == "spikes" or site.name in whole}


def _overlay_sites(layer: Layer, overlay: Overlay | None) -> list[Site]:
    """The two sites of a layer's overlay; none of a matrix product, or of a layer that is not to be overlaid."""
    if overlay is None or not layer.weighted or (overlay.layers is not None and layer.name not in overlay.layers):
        return []
    return [
        Site(layer.overlay_site, layer.name, "overlay", overlay.kept_choices),
        Site(layer.pattern_site, layer.name, "pattern", overlay.pattern_choices),
    ]


def _beside(own: Site, also: Site) -> bool:
    """Whether a site of an overlay belongs to a weight."""
    return own.role == "weight" and own.layer == also.layer


def _check_overlays(
    sites: Sequence[Site], extra: Sequence[Site], layers: Sequence[Layer], overlay: Overlay, pins: Mapping[str, int]
) -> None:
    """Raise unless there are weights to overlay, all of them can be, and what is named is there."""
    _check_named(layers, overlay, pins)
    there = {site.name: site.choices for site in (*sites, *extra)}
    for name, value in pins.items():
        if name not in there:
            raise SpaceError(f"{name!r} belongs to a layer whose weight is fixed, and which stays plain", got=value)
    for site in extra:
        if site.name in pins and pins[site.name] not in site.choices:
            allowed = [
                overlay.period if choice == ALL and site.role == "overlay" else choice for choice in site.choices
            ]
            raise SpaceError(f"site {site.name!r} must be fixed at one of {allowed}", got=pins[site.name])
    if not extra:
        raise SpaceError(
            "an overlay needs a weight to apply to", got="none that is not fixed", fix="or leave space.overlay out"
        )
    for site in sites:
        one = site.kernels == 1
        if any(_beside(site, also) for also in extra) and not (one and site.choices[0] >= FEWEST_BITS):
            raise SpaceError(
                f"a weight that may be overlaid needs one bitwidth per layer, of at least {FEWEST_BITS}",
                got=f"{site.choices[0]} bits at {site.name!r}" if one else "granularity: kernel",
                fix="fixed weights stay plain" if one else "take granularity: layer",
            )


def _check_named(layers: Sequence[Layer], overlay: Overlay, pins: Mapping[str, int]) -> None:
    """Raise unless the layers that an overlay names are there, and have weights that are not fixed."""
    by_name = {layer.name: layer for layer in layers}
    weights = [name for name, layer in by_name.items() if layer.weighted]
    for name in overlay.layers or ():
        if name not in by_name:
            raise SpaceError(f"unknown layer {name!r} in the layers of the overlay", fix=nearest(name, weights))
        if name not in weights:
            raise SpaceError("layers of the overlay must have a weight", got=f"{name!r}, of kind {by_name[name].kind}")
        if (site := by_name[name].weight_site) in pins:
            raise SpaceError(
                f"layer {name!r} of the overlay must not have its weight fixed",
                got=pins[site],
                fix="fixed weights stay plain: leave it out of one of the two",
            )


def _pins(
    sites: Sequence[Site], extra: Sequence[Site], layers: Sequence[Layer], fixed: dict[str, int]
) -> dict[str, int]:
    """Resolve the names allowed in ``fixed`` to site names, the least specific first; ``extra`` ones by name alone."""
    main = [layer.name for layer in layers if layer.kind not in ("neuron", "threshold")]
    groups: dict[str, list[str]] = {
        "weights": [site.name for site in sites if site.role == "weight"],
        "activations": [site.name for site in sites if site.role == "activation"],
        "states": [site.name for site in sites if site.role == "state"],
        "leaks": [site.name for site in sites if site.role == "leak"],
        "thresholds": [site.name for site in sites if site.role == "threshold"],
        "first": [site.name for site in sites if main and site.layer == main[0]],
        "last": [site.name for site in sites if main and site.layer == main[-1]],
    }
    by_layer = {layer.name: [site.name for site in sites if site.layer == layer.name] for layer in layers}
    by_site = {site.name: [site.name] for site in (*sites, *extra)}
    known = {**groups, **by_layer, **by_site}
    pins: dict[str, int] = {}
    for scope in (groups, by_layer, by_site):
        for name in scope:
            if name in fixed:
                pins.update(dict.fromkeys(scope[name], fixed[name]))
    for name in fixed:
        if name not in known:
            raise SpaceError(f"unknown name {name!r} in fixed", fix=nearest(name, known))
    return pins
