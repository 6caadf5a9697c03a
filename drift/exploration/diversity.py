"""How different the replies of one policy to one prompt are: distinct-n, self-BLEU, mean pairwise distance of embeddings."""

from collections.abc import Sequence
from typing import Any

from drift.data.requests import words

ORDER = 4  # of BLEU


def lowered(text: str) -> list[str]:
    return [word.lower() for word in words(text)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct-n: the share of different n-grams among all n-grams of the replies (arXiv 1510.03055); 0 without any."""
    tokens = [lowered(text) for text in texts]
    grams = [tuple(row[i : i + n]) for row in tokens for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU-4 of each reply with all other replies as references (arXiv 1802.01886), from 0 to 1; high: they repeat one
    another. n-grams without a match are smoothed (NLTK's method 1)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    tokens = [lowered(text) for text in texts]
    smooth, shares = SmoothingFunction().method1, (1 / ORDER,) * ORDER
    scores: list[Any] = [
        sentence_bleu(tokens[:i] + tokens[i + 1 :], row, weights=shares, smoothing_function=smooth) if row else 0.0
        for i, row in enumerate(tokens)
    ]
    return float(sum(scores)) / len(scores)


def distance(vectors: Any) -> float:
    """The mean cosine distance, 1 - cosine, of all pairs of different replies. `vectors`: (n, d), of length 1."""
    n = len(vectors)
    return float(1 - ((vectors @ vectors.T).sum() - (vectors * vectors).sum()) / (n * (n - 1)))
