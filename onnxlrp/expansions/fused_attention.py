"""The attention operators that onnxruntime's optimiser and model builder write (domain com.microsoft), in standard ones.

Ranks are asked for before anything is written: a node whose ranks are not known waits until the others are written out.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..errors import UnsupportedOp
from . import attention as attn
from .microsoft import DOMAIN, plus
from .writer import Writer, expansion

__all__: list[str] = []


def refused(w: Writer, why: str) -> UnsupportedOp:
    """The error for a variant that is not written out."""
    return UnsupportedOp(f"node '{w.node.name}' ({w.node.op}): {why}; bring the model as it was before onnxruntime fused it")


def known(w: Writer, *inputs: gs.Tensor | None) -> None:
    """Raises UnsupportedOp where a rank is not known."""
    for x in inputs:
        if x is not None:
            w.rank(x)


def without(w: Writer, *inputs: int) -> None:
    """Raises UnsupportedOp where one of these inputs is given."""
    for i in (i for i in inputs if w.input(i) is not None):
        raise refused(w, f"its input {i} '{w.need(i).name}' is not supported")


# ------------------------------------------------------------------------------------------------------------------ masks


def kept(w: Writer, mask: gs.Tensor, q: gs.Tensor, k: gs.Tensor, past: gs.Tensor | None, batch: int | str | None) -> gs.Tensor:
    """Which keys a mask keeps: (B) how many, (2B) ends and then starts, (B,T), (B,S,T), (B,1,most,most).

    To broadcast to (B,H,S,T).
    """
    rank = w.rank(mask)
    if rank == 1:
        return between(w, mask, q, k, batch)
    if rank == 4:
        first = w.ints(0) if past is None else attn.length(w, past, -2)
        ends = [w("Add", first, attn.length(w, q, 2)), attn.length(w, k, 2)]
        mask = w("Slice", mask, w("Concat", first, w.ints(0), axis=0), w("Concat", *ends, axis=0), w.ints(2, 3))
    else:
        mask = w("Unsqueeze", mask, w.ints(1, 2) if rank == 2 else w.ints(1))
    return w("Greater", mask, 0, dtype=bool)


def between(w: Writer, mask: gs.Tensor, q: gs.Tensor, k: gs.Tensor, batch: int | str | None) -> gs.Tensor:
    """start ≤ j < end of each row; a mask of length B has only ends. Of another length it fails when it runs."""
    many, j = attn.dim(mask, 0), w("Cast", attn.count(w, attn.length(w, k, 2)), dtype=np.int32, to=6)
    if isinstance(many, int) and isinstance(batch, int) and many not in (batch, 2 * batch):
        raise refused(w, f"its mask '{mask.name}' of length {many} for {batch} rows is not supported")
    if many is not None and many == batch:
        return w("Less", j, w("Reshape", mask, w.ints(-1, 1, 1, 1)), dtype=bool)
    rows = attn.length(w, q, 0)
    parts = w("Min", w("Div", attn.length(w, mask, 0), rows), 2)
    mask = w("Reshape", mask, w("Concat", parts, rows, w.ints(1, 1, 1), axis=0))
    zeros = w("Mul", w("Slice", mask, w.ints(0), w.ints(1)), 0)
    ends, starts = (w("Gather", w("Concat", mask, zeros, axis=0), w.constant(i, np.int64), axis=0) for i in (0, 1))
    return w("And", w("Less", j, ends, dtype=bool), w("GreaterOrEqual", j, starts, dtype=bool), dtype=bool)


def filtered(w: Writer, keeps: gs.Tensor | None, bias: gs.Tensor | None) -> gs.Tensor | None:
    """What is added to the scores: the bias, and mask_filter_value where a key is not kept."""
    if keeps is None:
        return bias
    fill = float(w.attr("mask_filter_value", -10000.0))
    mask = w("Where", keeps, w.constant(0), w.constant(fill), dtype=np.float32)
    return mask if bias is None else w("Add", bias, mask)


def attended(
    w: Writer,
    q: gs.Tensor,
    k: gs.Tensor,
    past: gs.Tensor | None,
    keeps: gs.Tensor | None,
    bias: gs.Tensor | None,
    head: int | None,
    crossed: bool = False,
) -> attn.Scores:
    """Scores with a mask that only lowers them; causal where `unidirectional` says so.

    crossed: keys may be more or fewer than queries. The last query sees all of them then: the runtime's loop ends before it.
    """
    first = None if past is None else attn.length(w, past, -2)
    near = attn.visible(w, q, k, first, bool(w.attr("unidirectional", 0)))
    if near is not None and crossed:
        many = attn.length(w, q, 2)
        last = w("Equal", w("Unsqueeze", attn.count(w, many), w.ints(-1)), w("Sub", many, 1), dtype=bool)
        near = w("Or", near, last, dtype=bool)
    scale = attn.scale_of(w, q, head, w.attr("scale"))
    return attn.scores(w, q, k, scale, bias=filtered(w, keeps, bias), seen=near, sees_any=True)


# -------------------------------------------------------------------------------------------------------------- operators


@expansion("Attention", DOMAIN)
def attention(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """softmax(q kᵀ·scale + mask) v of q, k, v = x·weights + bias side by side; the past is (2,B,H,P,d)."""
    x, weights, mask, past = w.need(0), w.need(1), w.input(3), w.input(4)
    known(w, x, weights, mask)
    without(w, 6)
    n, given, total = int(w.attr("num_heads")), w.attr("qkv_hidden_sizes"), attn.size(weights, 1)
    if w.attr("do_rotary", 0) or w.attr("past_present_share_buffer", 0) or not (given or total):
        raise refused(w, "do_rotary, a shared buffer and weights of unknown size are not supported")
    sizes = [int(s) for s in given or [(total or 0) // 3] * 3]
    joint = w("MatMul", x, weights)
    w.made[-1].name = w.node.name
    parts = w.outputs("Split", plus(w, joint, w.input(2)), w.ints(*sizes), dtypes=(None,) * 3, axis=-1)
    q, k, v = (attn.heads(w, t, n, s // n, x) for t, s in zip(parts, sizes, strict=True))
    if past is not None:
        k, v = (attn.cached(w, w("Gather", past, w.constant(i, np.int64), axis=0), t) for i, t in enumerate((k, v)))
    keeps = None if mask is None else kept(w, mask, q, k, past, attn.dim(x, 0))
    s = attended(w, q, k, past, keeps, w.input(5), sizes[0] // n)
    y = attn.merged(w, attn.weighted(w, s, v), sizes[2])
    return y, w("Concat", *(w("Unsqueeze", t, w.ints(0)) for t in (k, v)), axis=0)


@expansion("MultiHeadAttention", DOMAIN)
def multi_head_attention(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """softmax(q kᵀ·scale + mask) v of q, k, v that lie apart, in one (B,S,H,3,d), or with k and v in one (B,L,H,2,d).

    bias: of q, k and v side by side. Keys and values of rank 4 are laid out as those of the past, (B,H,L,d).
    """
    query, key, value, bias, mask = (w.input(i) for i in range(5))
    known(w, query, key, value, bias, mask)
    without(w, 8, 9)
    n, past, query = int(w.attr("num_heads")), w.input(6), w.need(0)
    if len(query.shape) == 5:
        (q, k, v), widths = unstacked(w, query, 3), [attn.times(attn.size(query, 4), n)] * 3
    elif len(w.need(1).shape) == 5:
        (k, v), q, widths = unstacked(w, w.need(1), 2), query, [attn.size(query, 2)] * 3
    else:
        q, k, v = query, w.need(1), w.need(2)
        widths = [attn.times(attn.size(t, 3), n) if len(t.shape) == 4 else attn.size(t, 2) for t in (q, k, v)]
    if bias is not None:
        widths = [s or attn.per_head(attn.size(bias, 0), 3) for s in widths]
        if None in widths:
            raise refused(w, "the sizes of its query and value are not known")
        parts = w.outputs("Split", bias, w.ints(*(s or 0 for s in widths)), dtypes=(None,) * 3, axis=0)
        q, k, v = (w("Add", t, part) for t, part in zip((q, k, v), parts, strict=True))
    laid_out, rows = value is not None and len(value.shape) == 4, query if key is None else key
    q, k, v = (
        t if laid_out and like is rows else attn.heads(w, t, n, attn.per_head(s, n), like)
        for t, s, like in zip((q, k, v), widths, (query, rows, rows), strict=True)
    )
    k, v = attn.cached(w, past, k), attn.cached(w, w.input(7), v)
    keeps = None if mask is None else kept(w, mask, q, k, past, attn.dim(query, 0))
    crossed = rows is not query and (laid_out or attn.dim(rows, 1) is None or attn.dim(rows, 1) != attn.dim(query, 1))
    s = attended(w, q, k, past, keeps, w.input(5), attn.per_head(widths[0], n), crossed)
    return attn.merged(w, attn.weighted(w, s, v), widths[2]), k, v, s.masked


def unstacked(w: Writer, x: gs.Tensor, parts: int) -> list[gs.Tensor]:
    """(B,S,H,parts,d) as so many (B,S,H·d)."""
    return [w("Reshape", w("Gather", x, w.constant(i, np.int64), axis=3), w.ints(0, 0, -1)) for i in range(parts)]


@expansion("GroupQueryAttention", DOMAIN)
def group_query_attention(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """Causal attention with kv_num_heads keys for num_heads queries, rotations, and a cache (B,H,max,d) that new keys enter.

    seqlens_k (B): how many keys a row has, less one; total_sequence_length: the most of any row.
    """
    query, key, value, past = w.need(0), w.input(1), w.input(2), w.input(3)
    known(w, query)
    without(w, 12, 13, 14, 15)
    if w.attr("sliding_window_cache", 0) or any(w.attr(f"{x}_quant_type", "NONE") != "NONE" for x in "kv"):
        raise refused(w, "a quantized cache and one that slides are not supported")
    n, kv = int(w.attr("num_heads")), int(w.attr("kv_num_heads"))
    head = attn.per_head(attn.size(query, 2), n if key is not None else n + 2 * kv)
    like = query, key or query, value or query
    if key is None:
        if head is None:
            raise refused(w, "the size of its packed query is not known")
        sizes = w.ints(n * head, kv * head, kv * head)
        query, key, value = w.outputs("Split", query, sizes, dtypes=(None,) * 3, axis=-1)
    parts = (query, n), (key, kv), (value or w.need(2), kv)
    q, k, v = (attn.heads(w, t, m, head, rows) for (t, m), rows in zip(parts, like, strict=True))
    total = w("Reshape", w("Cast", w.need(6), dtype=np.int64, to=7), w.ints(1))
    have = w("Add", w("Reshape", w("Cast", w.need(5), dtype=np.int64, to=7), w.ints(-1, 1, 1, 1)), 1)
    first = None if past is None else begin(w, q, have, total)
    if w.attr("do_rotary", 0):
        q, k = with_rotations(w, q, k, first, total, head)
    if past is not None and first is not None:
        k, v = (entered(w, t, new, first, total) for t, new in ((past, k), (w.need(4), v)))
    present = k, v
    if past is not None:
        k, v = (w("Slice", t, w.ints(0), total, w.ints(2)) for t in (k, v))
    left = max(int(w.attr("local_window_size", -1)), 0) - 1
    near = attn.visible(w, q, k, first, bool(w.attr("causal", 1)), left)
    seen = attn.both(w, near, w("Less", attn.count(w, attn.length(w, k, 2)), have, dtype=bool))
    scale, softcap = attn.scale_of(w, q, head, w.attr("scale")), float(w.attr("softcap", 0.0))
    many = attn.repeated(w, k, q, kv, n), attn.repeated(w, v, q, kv, n)
    s = attn.scores(w, q, many[0], scale, softcap=softcap, bias=w.input(10), seen=seen, sees_any=left < 0, sink=sink(w, n))
    return attn.merged(w, attn.weighted(w, s, many[1]), attn.times(head, n)), *present, None


def begin(w: Writer, q: gs.Tensor, have: gs.Tensor, total: gs.Tensor) -> gs.Tensor:
    """Position of a row's first query, (B,1,1,1): 0 in a first prompt, which is as long as the longest row."""
    zero, new = w.constant(0, np.int64), attn.length(w, q, 2)
    return w("Where", w("Equal", total, new, dtype=bool), zero, w("Sub", have, new), dtype=np.int64)


def entered(w: Writer, past: gs.Tensor, new: gs.Tensor, first: gs.Tensor, total: gs.Tensor) -> gs.Tensor:
    """The cache, grown to `total` places if it has fewer, with the new keys or values from `first` on and zeros behind."""
    more = w("Max", w("Sub", total, attn.length(w, past, 2)), 0)
    old = w("Pad", past, w("Concat", w.ints(*[0] * 6), more, w.ints(0), axis=0))
    before = w("Less", w("Unsqueeze", attn.count(w, attn.length(w, old, 2)), w.ints(1)), first, dtype=bool)
    old = w("Where", before, old, w.constant(0), dtype=new.dtype)
    at = w("Add", w("Unsqueeze", attn.count(w, attn.length(w, new, 2)), w.ints(1)), first)
    return w("ScatterElements", old, w("Expand", at, w("Shape", new, dtype=np.int64)), new, axis=2)


def with_rotations(
    w: Writer, q: gs.Tensor, k: gs.Tensor, first: gs.Tensor | None, total: gs.Tensor, head: int | None
) -> tuple[gs.Tensor, gs.Tensor]:
    """Queries and keys turned by the angles of their places: from `first` on, or position_ids.

    Of these a first prompt, which is as long as the longest row, takes the first one for all rows and counts on from it.
    """
    cos, sin, given = w.need(7), w.need(8), w.input(9)
    new, half = attn.length(w, q, 2), attn.size(cos, 1)
    if half is None:
        raise refused(w, f"the size of its table '{cos.name}' is not known")
    at = w("Unsqueeze", attn.count(w, new), w.ints(0))
    if given is not None:
        at = w("Add", at, w("Slice", given, w.ints(0, 0), w.ints(1, 1), w.ints(0, 1)))
        at = at if first is None else w("Where", w("Equal", total, new, dtype=bool), at, given, dtype=np.int64)
    elif first is not None:
        at = w("Add", at, w("Reshape", first, w.ints(-1, 1)))
    cos, sin = (w("Unsqueeze", w("Gather", t, at, axis=0), w.ints(1)) for t in (cos, sin))
    interleaved = bool(w.attr("rotary_interleaved", 0))
    turned = [attn.rotated(w, t, cos, sin, 2 * half, head, interleaved) for t in (q, k)]
    return turned[0], turned[1]


def sink(w: Writer, n: int) -> gs.Tensor | None:
    """A score per head that takes its part of the softmax and has no value: head_sink, or 0 where smooth_softmax says so."""
    given = w.input(11)
    if given is not None:
        return w("Reshape", given, w.ints(1, n, 1, 1))
    return w.constant(np.zeros((1, n, 1, 1))) if int(w.attr("smooth_softmax", 0)) == 1 else None


@expansion("RotaryEmbedding", DOMAIN)
def rotary_embedding(w: Writer) -> gs.Tensor:
    """Features turned by the angles of their position: position_ids (B,S), or the position of the first, of shape (1)."""
    x, places, cos, sin = w.need(0), w.need(1), w.need(2), w.need(3)
    known(w, x, places, cos)
    if w.attr("is_packed_batching", 0) or float(w.attr("scale", 1.0)) != 1:
        raise refused(w, "is_packed_batching and scale are not supported")
    if len(places.shape) == 1:
        places = w("Unsqueeze", w("Add", attn.count(w, attn.length(w, x, -2)), places), w.ints(0))
    half, part, n = attn.size(cos, 1), int(w.attr("rotary_embedding_dim", 0)), int(w.attr("num_heads", 0))
    if len(x.shape) == 3 and not n:
        if half is None or attn.size(x, 2) is None:
            raise refused(w, "the number of its heads is not known")
        n = (attn.size(x, 2) or 0) // (2 * half)
    cos, sin = (w("Gather", t, places, axis=0) for t in (cos, sin))
    return attn.turned(w, x, cos, sin, n, part)


@expansion("EmbedLayerNormalization", DOMAIN)
def embed_layer_normalization(w: Writer) -> tuple[gs.Tensor | None, ...]:
    """LayerNormalization of word + position + segment embeddings; how many keys the mask keeps; the sum."""
    ids, segments, mask, places = w.need(0), w.input(1), w.input(7), w.input(8)
    table = w.need(3)
    if places is None:
        at = attn.count(w, attn.length(w, ids, 1))
        position = w("Gather", table, at, axis=0)
    else:
        position = w("Gather", table, places, axis=0)
    total = w("Add", w("Gather", w.need(2), ids, axis=0), position)
    if segments is not None:
        total = w("Add", total, w("Gather", w.need(4), segments, axis=0))
    y = w("LayerNormalization", total, w.need(5), w.need(6), axis=-1, epsilon=float(w.attr("epsilon", 1e-12)))
    w.made[-1].name = w.node.name
    if mask is None:
        many = w("Expand", w.constant(0, np.int32), attn.length(w, ids, 0))
    else:
        ones = w("Cast", w("Equal", mask, 1, dtype=bool), dtype=np.int32, to=6)
        many = w("ReduceSum", ones, w.ints(1), keepdims=0)
    return y, many, total
