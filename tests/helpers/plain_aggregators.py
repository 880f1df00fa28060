"""SALAD and BoQ of one picture, in numpy and loops, by the names of their published weights."""

from __future__ import annotations

import numpy as np
import torch


def unit_rows(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return x / np.sqrt((x**2).sum(axis, keepdims=True))


def weights_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def plain_transport(scores: np.ndarray, bin_score: float | np.ndarray) -> np.ndarray:
    """Sinkhorn on the masses themselves, of one picture."""
    clusters, patches = scores.shape
    kernel = np.exp(np.vstack([scores, np.broadcast_to(bin_score, patches)]))
    rows = np.array([1.0] * clusters + [patches - clusters])
    v = np.ones(patches)
    for _ in range(3):
        u = rows / (kernel @ v)
        v = 1 / (kernel.T @ u)
    return u[:, None] * kernel * v


def plain_salad(w: dict, tokens: np.ndarray, attention: np.ndarray | None = None) -> np.ndarray:
    """One picture, (channels, 1 + patches); with FoL's (patches,) attention in place of the bin's own score."""

    def layers(name: str, x: np.ndarray, last: int) -> np.ndarray:
        hidden = np.maximum(x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"], 0)
        return hidden @ w[f"{name}.{last}.weight"].T + w[f"{name}.{last}.bias"]

    token, patches = tokens.T[0], tokens.T[1:]
    bin_score = w["dust_bin"] if attention is None else 1 - attention * (attention >= 0.01)
    shares = plain_transport(layers("score", patches, 3).T, bin_score)
    features = layers("cluster_features", patches, 3)
    sums = np.zeros((features.shape[1], len(shares) - 1))
    for cluster in range(sums.shape[1]):
        for patch in range(len(patches)):
            sums[:, cluster] += shares[cluster, patch] * features[patch]
    whole = np.concatenate([unit_rows(layers("token_features", token, 2)), unit_rows(sums, 0).ravel()])
    return unit_rows(whole)


def plain_attention(q: np.ndarray, x: np.ndarray, w: dict, name: str, heads: int) -> np.ndarray:
    size = q.shape[1]
    asked, keys, values = (
        part @ w[f"{name}.in_proj_weight"][i * size : (i + 1) * size].T
        + w[f"{name}.in_proj_bias"][i * size : (i + 1) * size]
        for i, part in enumerate((q, x, x))
    )
    out = np.zeros_like(q)
    for head in range(heads):
        at = slice(head * size // heads, (head + 1) * size // heads)
        scores = np.exp(asked[:, at] @ keys[:, at].T / np.sqrt(size // heads))
        out[:, at] = scores / scores.sum(1, keepdims=True) @ values[:, at]
    return out @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def plain_norm(x: np.ndarray, w: dict, name: str) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def plain_boq(w: dict, features: np.ndarray, heads: int) -> np.ndarray:
    """One picture, (channels, rows, columns)."""
    _, rows, columns = features.shape
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1)))
    places = np.stack(
        [
            np.einsum("ocij,cij->o", w["proj_c.weight"], padded[:, r : r + 3, c : c + 3]) + w["proj_c.bias"]
            for r in range(rows)
            for c in range(columns)
        ]
    )
    places, answers = plain_norm(places, w, "norm_input"), []
    for block in (f"boqs.{i}" for i in range(2)):
        name = f"{block}.encoder"
        places = plain_norm(
            places + plain_attention(places, places, w, f"{name}.self_attn", heads), w, f"{name}.norm1"
        )
        hidden = np.maximum(places @ w[f"{name}.linear1.weight"].T + w[f"{name}.linear1.bias"], 0)
        places = plain_norm(
            places + hidden @ w[f"{name}.linear2.weight"].T + w[f"{name}.linear2.bias"], w, f"{name}.norm2"
        )
        q = w[f"{block}.queries"][0]
        q = plain_norm(q + plain_attention(q, q, w, f"{block}.self_attn", heads), w, f"{block}.norm_q")
        answers.append(
            plain_norm(plain_attention(q, places, w, f"{block}.cross_attn", heads), w, f"{block}.norm_out")
        )
    return (np.concatenate(answers).T @ w["fc.weight"].T + w["fc.bias"]).ravel()
