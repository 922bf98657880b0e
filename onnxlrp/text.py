"""Text: from sentences to a model's inputs by its tokenizer, and relevance per token back as coloured words."""

from __future__ import annotations

import html
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.text import Text

from .errors import InputError
from .explanation import Explanation, writable
from .run import TYPES, Explainer
from .validity import one_line

__all__ = ["Token", "encode", "figure", "relevance_per_token", "save_html", "to_html", "to_terminal"]

Array = np.ndarray
IDS = ("input_ids", "tokens")  # what exporters call the input of token ids
BESIDE = ("attention_mask", "token_type_ids", "position_ids")  # what a model may want to know of each token beside its id
FAINT = 0.04  # of the largest |r|: weaker tokens are left uncoloured in a terminal


class Token(NamedTuple):
    """One position: the tokenizer's name of it, what it covers of the text, and the white space in front of that.

    special: made by the tokenizer ([CLS], </s>), not by the text. padding: only there to reach the length.
    """

    name: str
    text: str
    space: str = ""
    special: bool = False
    padding: bool = False


def encode(
    tokenizer: str | os.PathLike[str], texts: Sequence[str], explainer: Explainer
) -> tuple[dict[str, Array], list[list[Token]]]:
    """The model's inputs {name: (N,T)} for N texts, and the T tokens of each.

    tokenizer: a tokenizer.json of the `tokenizers` library. T is the model's where that is fixed (longer texts are cut,
    with a warning), else that of the longest text; shorter ones are padded. Raises InputError.
    """
    for i, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"text {i + 1} is empty: there is nothing to explain")
    inputs = {name: explainer.inputs[name] for name in explainer.required}
    ids = _ids_input(inputs)
    batch, length = _sizes(ids, inputs[ids].shape)
    if not texts or batch not in (None, len(texts)):
        raise InputError(f"the model takes {batch or 'at least 1'} text(s) at a time, got {len(texts)}")
    found = _encodings(_tokenizer(tokenizer), tokenizer, texts, length)
    rows = {
        ids: [e.ids for e in found],
        "attention_mask": [e.attention_mask for e in found],
        "token_type_ids": [e.type_ids for e in found],
        "position_ids": [range(len(e.ids)) for e in found],
    }
    if "attention_mask" not in inputs and not np.all(rows["attention_mask"]):
        warnings.warn("the model has no input attention_mask: the padding takes part in its answer", stacklevel=2)
    feed: dict[str, Array] = {name: np.asarray(rows[name], TYPES[inputs[name].type]) for name in inputs}
    return feed, [_tokens(text, e) for text, e in zip(texts, found, strict=True)]


def _ids_input(inputs: Mapping[str, Any]) -> str:
    """The input of token ids: input_ids, tokens, or the only integer input of another name. Raises InputError."""
    integer = [name for name, i in inputs.items() if np.dtype(TYPES.get(i.type, "O")).kind in "iu" and name not in BESIDE]
    named = [name for name in IDS if name in integer]
    if not integer:
        raise InputError(f"the model takes no token ids, so no text: its inputs are {', '.join(inputs)}")
    if not named and len(integer) > 1:
        raise InputError(f"the model has several integer inputs and none is called input_ids: {', '.join(integer)}")
    ids = named[0] if named else integer[0]
    for name in inputs:
        if name not in (ids, *BESIDE):
            raise InputError(f"input '{name}' cannot be filled from text (known are {ids}, {', '.join(BESIDE)}): give an .npz")
    return ids


def _sizes(name: str, shape: Sequence[Any]) -> tuple[int | None, int | None]:
    """(N, T) of the model's ids, None where free."""
    if len(shape) != 2:
        raise InputError(f"input '{name}' has the shape {list(shape)}: token ids of texts are (N, T)")
    n, t = (d if isinstance(d, int) else None for d in shape)
    return n, t


def _tokenizer(path: str | os.PathLike[str]) -> Any:
    """The tokenizer in a file. Raises InputError."""
    try:
        import tokenizers
    except ImportError as error:
        raise InputError('reading text needs the tokenizers library: pip install "onnxlrp[text]"') from error
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file; a tokenizer is the tokenizer.json beside a model")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise InputError(f"{file} is not a tokenizer.json: {one_line(error)}") from error


def _encodings(tokenizer: Any, path: str | os.PathLike[str], texts: Sequence[str], length: int | None) -> list[Any]:
    """One encoding per text, all equally long: of the model's length, else as long as the longest."""
    own = tokenizer.padding or {}
    pad = {k: own[k] for k in ("direction", "pad_id", "pad_type_id", "pad_token") if k in own}
    if not pad:
        name = next((n for n in ("[PAD]", "<pad>", "<|pad|>") if tokenizer.token_to_id(n) is not None), "[PAD]")
        pad = {"pad_id": tokenizer.token_to_id(name) or 0, "pad_token": name}
    try:
        if length is not None:
            tokenizer.enable_truncation(length, direction=(tokenizer.truncation or {}).get("direction", "right"))
        tokenizer.enable_padding(length=length, **pad)
        found: list[Any] = tokenizer.encode_batch(list(texts))
    except Exception as error:
        raise InputError(f"{path} cannot encode the text: {one_line(error)}") from error
    for i, e in enumerate(found):
        if not any(mark and not special for mark, special in zip(e.attention_mask, e.special_tokens_mask, strict=True)):
            raise InputError(f"text {i + 1} has no tokens left: {path} drops all of it")
        if e.overflowing:
            warnings.warn(f"text {i + 1} is longer than {len(e.ids)} tokens: the rest is cut off", stacklevel=3)
    return found


def _tokens(text: str, encoding: Any) -> list[Token]:
    """The tokens with what they cover; those of one character's bytes cover it once, the others show their name."""
    out: list[Token] = []
    end = 0
    rows = zip(encoding.tokens, encoding.offsets, encoding.special_tokens_mask, encoding.attention_mask, strict=True)
    for name, (start, stop), special, mark in rows:
        if special or not mark:
            out.append(Token(name, name, " " if out else "", special=True, padding=not mark))
            continue
        covered = text[max(start, end) : stop]
        body = covered.lstrip() or covered  # a token of white space alone shows as that
        space = text[end:start] + covered[: len(covered) - len(body)]
        apart = " " if out and out[-1].special else ""
        out.append(Token(name, body or name, space or apart))
        end = max(end, stop)
    return out


def relevance_per_token(explanation: Explanation, shape: tuple[int, ...]) -> Array:
    """Σ over the embeddings (words, types, ...) of the relevance per token, (N,T), in float64. Raises InputError."""
    if not explanation.tokens:
        raise InputError("relevance reaches no embedding of tokens; explained are " + ", ".join(explanation.relevances))
    total = np.zeros(shape)
    for name, r in explanation.tokens.items():
        if r.shape != shape:
            raise InputError(f"'{name}' has relevance for {r.shape} tokens, the text is {shape}: explain the other embeddings")
        total += r
    return total


def _strengths(tokens: Sequence[Token], r: Array) -> tuple[Array, float]:
    """r / max|r| and max|r| over the tokens of the text itself."""
    own = [abs(v) for t, v in zip(tokens, r, strict=True) if not t.special]
    top = float(max(own, default=0.0))
    return np.clip(r / (top or 1.0), -1, 1), top


def to_terminal(tokens: Sequence[Token], relevance: Array, numbers: bool = False) -> Text:
    """One text, its tokens on red (for) or blue (against), as strong as |r| / max|r|; special ones dim, padding left out.

    numbers: write each token's relevance behind it, for terminals without colours.
    """
    line = Text()
    for token, r, s in zip(tokens, relevance, _strengths(tokens, relevance)[0], strict=True):
        if token.padding:
            continue
        fade = round(255 * (1 - abs(s)))
        colour = f"#ff{fade:02x}{fade:02x}" if s > 0 else f"#{fade:02x}{fade:02x}ff"
        fore = "white" if s < -0.6 else "black"
        line.append(token.space)
        line.append(token.text, style="dim" if token.special else f"{fore} on {colour}" if abs(s) > FAINT else "")
        if numbers:
            line.append(f"({r:+.3g})")
    return line


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #fff; --ink: #1a1a1a; --quiet: #666; --for: 215, 40, 40; --against: 50, 90, 225; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #161618; --ink: #f0f0f0; --quiet: #a0a0a0; --for: 235, 70, 70; --against: 85, 125, 255; }}
}}
body {{ background: var(--page); color: var(--ink); font: 1rem/1.9 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ font-size: 1.2rem; }}
figure {{ margin: 0 0 1.5rem; }}
figcaption, .legend {{ color: var(--quiet); font-size: .85rem; line-height: 1.5; }}
.text {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }}
.text span {{ border-radius: .2em; padding: .1em 0; }}
.for {{ background: rgba(var(--for), calc(.75 * var(--s))); }}
.against {{ background: rgba(var(--against), calc(.75 * var(--s))); }}
.special {{ color: var(--quiet); font-size: .8em; }}
.bar {{ display: inline-block; width: 9rem; height: .8em; border-radius: .2em; vertical-align: -.05em;
  background: linear-gradient(to right, rgba(var(--against), .75), transparent, rgba(var(--for), .75)); }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="legend">−max <span class="bar" role="img" aria-label="from blue, most negative, over none to red, most positive">
</span> +max, the largest |relevance| of a token in each text: blue tokens speak against the explained value, red ones for it.
Special tokens are grey, padding is left out. Hover over a token for its number.</p>
{figures}
</body>
</html>
"""


def to_html(
    tokens: Sequence[Sequence[Token]],
    relevances: Sequence[Array] | Array,
    captions: Sequence[str] = (),
    title: str = "Relevance per token",
) -> str:
    """One page that needs nothing else: every text with its tokens on red or blue, a number on each, light and dark.

    relevances: per text, one number a token. captions: per text, what is explained.
    """
    notes = list(captions) or [""] * len(tokens)
    figures = [figure(row, r, note) for row, r, note in zip(tokens, relevances, notes, strict=True)]
    return PAGE.format(title=html.escape(title), figures="\n".join(figures))


def figure(tokens: Sequence[Token], relevance: Array, caption: str) -> str:
    """One text; its label reads the numbers out, for whom colours say nothing."""
    strengths, top = _strengths(tokens, relevance)
    spans, spoken = [], []
    for token, r, s in zip(tokens, relevance, strengths, strict=True):
        if token.padding:
            continue
        kind = "special" if token.special else "for" if s > 0 else "against"
        style = "" if token.special else f' style="--s:{abs(s):.3f}"'
        number = html.escape(f"{token.name}: {r:+.4g}")
        spans.append(f'{html.escape(token.space)}<span class="{kind}"{style} title="{number}">{html.escape(token.text)}</span>')
        spoken.append(html.escape(f"{token.text} {r:+.3g}"))
    own = sum(r for t, r in zip(tokens, relevance, strict=True) if not t.special)
    rest = float(np.sum(relevance)) - own
    sums = f"Σ relevance {own:+.4g} on the text, {rest:+.4g} on special tokens and padding; max {top:.4g}"
    label = f"relevance per token: {', '.join(spoken)}"
    note = html.escape(f"{caption}. {sums}" if caption else sums)
    line = f'<p class="text" role="img" aria-label="{label}">{"".join(spans)}</p>'
    return f"<figure>\n{line}\n<figcaption>{note}</figcaption>\n</figure>"


def save_html(path: str | os.PathLike[str], page: str) -> None:
    """Write a page, complete or not at all. Raises InputError."""
    target = Path(path)
    writable(target)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            file = Path(folder) / target.name
            file.write_text(page, encoding="utf-8")
            os.replace(file, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
