"""The walk among tokens that spectral attention takes, for evidence beside that of dense attention."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from scipy.special import softmax

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
