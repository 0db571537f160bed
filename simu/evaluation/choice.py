"""How near a generation is to each of several answers: what choice_accuracy compares (simu/metrics/choice.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from simu.store.hub import check_model
from simu.store.packages import in_package
from simu.types import UserError

Similarities = Callable[[list[str], list[tuple[str, ...]]], list[list[float]]]
"""Generations [n] and each one's candidate answers, the right one first → similarities, candidate by candidate."""
WITHOUT = "choose evaluator.choice_scorer=rouge_l, likelihood or none"


KEY = "evaluator.embedding_model"


def encoder_place(model: str) -> str:
    """Folder or hub id of an encoder; of `package:DISTRIBUTION/FOLDER` the folder. Raises UserError for no such one."""
    try:
        return in_package(model, KEY)
    except UserError as error:
        raise UserError(f"{error}; or {WITHOUT}") from error


def check_embedding(model: str) -> None:
    """Raises UserError where sentence-transformers is not installed or the encoder is out of reach."""
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            "evaluator.choice_scorer=embedding: sentence-transformers is not installed; install the extra "
            f"'embedding', or {WITHOUT}"
        ) from error
    place = encoder_place(model)
    try:
        check_model(place, KEY)
    except UserError as error:
        raise UserError(f"{error}; or {WITHOUT}") from error


def embedding_similarities(model: str, device: torch.device) -> Similarities:
    """Cosine of sentence embeddings by the encoder `model`: a hub id, a folder, or one of an installed package.

    The encoder is loaded here, before anything is generated. Raises UserError as `check_embedding` does, and where the
    encoder cannot be loaded.
    """
    check_embedding(model)
    from sentence_transformers import SentenceTransformer

    try:
        place = encoder_place(model)
        encoder = SentenceTransformer(place, device=str(device), model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:240]
        raise UserError(f"{KEY}={model}: cannot be loaded ({why}); {WITHOUT}") from error

    def similarities(generated: list[str], candidates: list[tuple[str, ...]]) -> list[list[float]]:
        texts = list(dict.fromkeys([*generated, *(c for options in candidates for c in options)]))
        if not texts:  # no row has another answer to choose
            return []
        vectors = np.asarray(encoder.encode(texts, show_progress_bar=False), dtype=np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        at = dict(zip(texts, vectors, strict=True))
        return [[float(at[g] @ at[c]) for c in options] for g, options in zip(generated, candidates, strict=True)]

    return similarities
