"""What a sparse attention keeps of the dense one's spectrum, in numbers (Sections 8 to 10 of the source)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import eye_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from .spectral import (
    Spectrum,
    davis_kahan,
    effective_rank,
    eigengap_clusters,
    excess_free_energy,
    mixing_steps,
    norm,
    over,
    reversible,
    sin_theta,
    spectrum,
    undirected,
)

Array = np.ndarray

DISTANCE = 0.25
"""Total variation at which a walk counts as mixed, as is usual."""
SAMPLED_ROWS = 64
STARTS, MOST_STEPS = 8, 100
CLEAR, MODERATE = 0.3, 0.1
"""Qualities above which the source expects clusters to be clear, and moderate (Section 11.6.1)."""
SHORT = 1500
"""Tokens below which the source advises dense attention (Figure 4)."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """`edges` are the weights that the sparse walk computes, of the `pairs` of dense attention. `turn` is |sin Theta|_F of the leading k
    eigenvectors, at most `turn_bound`; `turn_shown` and `turn_shown_bound` are those of as many as the largest gap shows. `error` is an
    interval that holds the least epsilon for which the sparse graph is an epsilon-spectral sparsifier of the dense one (Definition 9.1).
    `free_energy` is the excess in nats a query. Of dense and sparse, `ranks` are the effective ranks of the weights, and `steps` those
    that the lazy walk takes until it is mixed from each of `STARTS` tokens, None if `MOST_STEPS` are not enough."""

    dense: Spectrum
    sparse: Spectrum
    edges: int
    pairs: int
    turn: float
    turn_bound: float
    turn_shown: float
    turn_shown_bound: float
    error: tuple[float, float]
    free_energy: float
    ranks: tuple[float, float]
    steps: tuple[int | None, int | None]

    @property
    def density(self) -> float:
        """Share of the weights that the sparse walk computes; the source bounds its Rademacher complexity by that share of the dense
        one's (Theorem 10.1)."""
        return self.edges / self.pairs

    @property
    def least_edges(self) -> float:
        """N / epsilon^2, the order of edges that any graph with that error needs (Theorem 10.2, without its constant)."""
        return over(len(self.dense.stationary), self.error[1] ** 2)

    def as_dict(self) -> dict[str, object]:
        """The same as plain numbers; `dense` and `sparse` with eigenvalues, gap, quality at k, the clusters that the largest gap
        below shows, and their mixing [steps] with its bound; "shown" has what is known at that number of dense clusters."""
        return {
            "tokens": len(self.dense.stationary),
            "clusters": self.dense.clusters,
            **{
                name: {
                    "eigenvalues": [float(value) for value in found.values],
                    "largest": found.largest,
                    "gap": found.gap,
                    "quality": found.quality,
                    "clusters_shown": eigengap_clusters(found),
                    "mixing_steps": steps,
                    "mixing_steps_at_most": found.mixing_bound(DISTANCE),
                    "heat_lost_at_time_1": found.heat_truncation(1.0),
                    "effective_rank": rank,
                }
                for name, found, rank, steps in zip(
                    ("dense", "sparse"), (self.dense, self.sparse), self.ranks, self.steps, strict=True
                )
            },
            "edges": self.edges,
            "pairs": self.pairs,
            "density": self.density,
            "sin_theta": self.turn,
            "sin_theta_at_most": self.turn_bound,
            "shown": {
                "clusters": eigengap_clusters(self.dense),
                "quality": self.dense.leading(eigengap_clusters(self.dense)).quality,
                "sin_theta": self.turn_shown,
                "sin_theta_at_most": self.turn_shown_bound,
            },
            "sparsifier_error": list(self.error),
            "least_edges": self.least_edges,
            "excess_free_energy_nats": self.free_energy,
        }


def evidence(dense: LinearOperator, sparse: LinearOperator, edges: int, clusters: int, *, causal: bool = False) -> Evidence:
    """Both spectra and what lies between them, for two walks among the same tokens. Of `causal` ones, spectra, mixing and sparsifier error
    are those of the `undirected` graphs of their weights; rows, ranks and edges are of the weights themselves.

    Raises InputError as `spectrum` does.
    """
    size = dense.shape[0]
    (first, mass), (second, mass_after) = (undirected(walk) if causal else (walk, None) for walk in (dense, sparse))
    before, after = spectrum(first, clusters, mass), spectrum(second, clusters, mass_after)
    change = reversible(first, before.stationary) - reversible(second, after.stationary)
    perturbation, clusters_shown = norm(change), eigengap_clusters(before)
    shown = before.leading(clusters_shown)
    rows = np.linspace(0, size - 1, min(SAMPLED_ROWS, size)).astype(int)
    starts = np.linspace(0, size - 1, min(STARTS, size)).astype(int)
    stay = aslinearoperator(eye_array(size))
    return Evidence(
        dense=before,
        sparse=after,
        edges=edges,
        pairs=size * (size + 1) // 2 if causal else size**2,
        turn=sin_theta(before, after),
        turn_bound=davis_kahan(before, perturbation),
        turn_shown=sin_theta(shown, after.leading(clusters_shown)),
        turn_shown_bound=davis_kahan(shown, perturbation),
        error=sparsifier_error(first, second, before, after),
        free_energy=excess_free_energy(rows_of(dense, rows), rows_of(sparse, rows)),
        ranks=(effective_rank(dense), effective_rank(sparse)),
        steps=(
            mixing_steps(0.5 * (first + stay), before.stationary, DISTANCE, starts, MOST_STEPS),
            mixing_steps(0.5 * (second + stay), after.stationary, DISTANCE, starts, MOST_STEPS),
        ),
    )


def rows_of(walk: LinearOperator, rows: Array) -> Array:
    """Those rows of P, [len(rows), N]."""
    placed = np.zeros((walk.shape[0], len(rows)))
    placed[rows, np.arange(len(rows))] = 1.0
    return walk.rmatmat(placed).T


def sparsifier_error(dense: LinearOperator, sparse: LinearOperator, before: Spectrum, after: Spectrum) -> tuple[float, float]:
    """An interval around the least epsilon with (1 - epsilon) G <= G' <= (1 + epsilon) G, for the Laplacians G of the graphs of edge
    weights (pi_i P_ij + pi_j P_ji) / 2, of which the constant vector is a zero of both.

    From below by the leading eigenvectors of G, from above by the norm of the change, scaled by the degrees of G, over lambda_2.
    """
    root = np.sqrt(before.stationary)[:, None]

    def graph(walk: LinearOperator, mass: Array, x: Array) -> Array:
        degree = mass[:, None]
        return degree * x - 0.5 * (degree * walk.matmat(x) + walk.rmatmat(degree * x))

    def change(x: Array) -> Array:
        scaled = x.reshape(len(root), -1) / root
        return (graph(sparse, after.stationary, scaled) - graph(dense, before.stationary, scaled)) / root

    difference = LinearOperator(dense.shape, matvec=change, matmat=change, rmatvec=change, rmatmat=change, dtype=np.float64)
    leading, values = before.vectors[:, 1:], before.values[1:]
    changes = np.abs(np.einsum("nk,nk->k", leading, difference.matmat(leading)))[values > 0] / values[values > 0]
    return float(changes.max(initial=0.0)), over(norm(difference), before.gap)


def printed_advice(quality: float, tokens: int) -> str:
    """What the source's decision tree (Figure 4) says: "dense", "hybrid" or "sparse". Shown beside the measured error, which decides."""
    if tokens < SHORT or quality < MODERATE:
        return "dense"
    return "sparse" if quality > CLEAR else "hybrid"
