"""The walk among tokens that spectral attention takes, for evidence beside that of dense attention."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from scipy.special import softmax

from .causal import causal_weights
from .causal_prepare import CausalPrepared
from .prepare import SparsePrepared
from .reference import NEVER, held, layout, sorted_by_leaf, taken


def operator_walk(query: torch.Tensor, key: torch.Tensor, prepared: SparsePrepared, head: int) -> tuple[LinearOperator, int]:
    """(P [N, N], edges) of one head of `query` [N, D] and `key` [N, D]: exact weights, and the weight of every other tile spread evenly
    over its keys. Edges are the weights that are computed, one for each exact key and each tile that stands for its own.

    The first-order term moves values inside a tile and no weight between tiles, and is left out.
    """
    codebooks = prepared.query_codebook[head], prepared.key_codebook[head // (prepared.heads // prepared.kv_heads)]
    books = [torch.from_numpy(each)[None] for each in codebooks]
    queries, keys = query[None, None].float(), key[None, None].float()
    plan = layout(
        queries, keys, keys, *books,
        scale=prepared.scale, tile=prepared.tile, budget=prepared.budgets[head], key_tile=prepared.key_tile,
    )  # fmt: skip
    length, size = len(query), plan.keys.rows.shape[3]
    empty = taken(~held(plan.keys), plan.chosen)[0, 0].mT
    near = (plan.queries.rows @ taken(plan.keys.rows, plan.chosen).mT)[0, 0].masked_fill(empty, -torch.inf)
    far = (plan.queries.rows @ plan.keys.means[:, :, None].mT + plan.mass[..., None, :])[0, 0]
    logits = torch.cat([near, far], dim=-1).double().flatten(0, 1)[:length].numpy()
    weights, exact = softmax(logits, axis=1), near.shape[-1]

    order = plan.order[0, 0].numpy()
    into = sorted_by_leaf(keys, books[1])[0, 0].numpy()
    rows, columns = np.nonzero(np.isfinite(logits[:, :exact]))
    places = (plan.chosen[0, 0][..., None] * size + torch.arange(size)).flatten(1).numpy()
    kept = csr_array(
        (weights[rows, columns], (order[rows], into[places[rows // prepared.tile, columns]])), shape=(length, length)
    )
    summaries = np.empty((length, far.shape[-1]))
    summaries[order] = weights[:, exact:]
    tile_of = np.arange(length) // size
    shares = 1.0 / plan.keys.counts[0, 0].numpy()[tile_of]
    members = csr_array((shares, (tile_of, into)), shape=(far.shape[-1], length))
    edges = len(rows) + int((logits[:, exact:] > NEVER / 2).sum())
    return aslinearoperator(kept) + aslinearoperator(summaries) @ aslinearoperator(members), edges


def causal_walk(query: torch.Tensor, key: torch.Tensor, prepared: CausalPrepared, head: int) -> tuple[LinearOperator, int]:
    """The same of one head of causal attention: exact weights, those of its own tile among them, and the weight of every other tile spread
    evenly over its keys. Raises ValueError for a head that stays dense."""
    budget, layout, length = prepared.budgets[head], prepared.layout, len(query)
    if budget is None:
        raise ValueError(f"Head {head} stays dense; `attention_walk` is its walk.")
    found = causal_weights(query[None, None], key[None, None], scale=prepared.scale, budget=budget, layout=layout)
    own, near, far, chosen, members = (x[0, 0].numpy() for x in found[:5])
    size = layout.query_tile
    columns = np.concatenate([np.arange(len(own) * size).reshape(-1, size), members[chosen].reshape(len(own), -1)], axis=1)
    weights = np.concatenate([own, near], axis=2).astype(np.float64)
    block, row, place = np.nonzero(weights)
    padded = len(own) * size
    kept = csr_array((weights[block, row, place], (block * size + row, columns[block, place])), shape=(padded, padded))
    tiles = np.repeat(np.arange(len(members)), layout.key_tile)
    spread = csr_array((np.full(len(tiles), 1.0 / layout.key_tile), (tiles, members.ravel())), shape=(len(members), padded))
    usable = layout.usable(length).sum(-1).numpy()
    exact = np.minimum(budget, usable)
    rows = np.minimum(size, length - size * np.arange(len(own)))
    edges = int((rows * (rows + 1) // 2 + rows * (exact * layout.key_tile + usable - exact)).sum())
    summaries = far.reshape(padded, -1)[:length].astype(np.float64)
    return aslinearoperator(kept[:length, :length]) + aslinearoperator(summaries) @ aslinearoperator(spread[:, :length]), edges
