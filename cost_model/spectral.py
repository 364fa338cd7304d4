"""The spectrum of the random walk that attention takes among its tokens: stationary mass, Laplacians, gaps, mixing.

A walk is a row-stochastic matrix P [N, N] that is only ever multiplied with (a scipy LinearOperator): softmax weights, or exact columns
plus the tiles that stand for the rest. Attention is directed, P is not symmetric, and the source's claim that its two Laplacians share a
real spectrum (Section 8.2) holds for symmetric weights alone. So the symmetric Laplacian is that of the additive reversibilisation
(Chung, Annals of Combinatorics 2005): I - (A + A') / 2 with A = sqrt(pi) P / sqrt(pi), whose eigenvalues lie in [0, 2] for any P.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, log

import numpy as np
from scipy.linalg import subspace_angles
from scipy.sparse import eye_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh, gmres
from scipy.special import entr, rel_entr

from .errors import InputError

Array = np.ndarray

SETTLED = 1e-12
"""Residual of the stationary mass, relative to the right-hand side."""
RESTART, MOST_RESTARTS = 200, 20
CLOSE, CLOSE_LARGEST = 1e-8, 1e-6
"""Relative errors at which Lanczos has found the leading eigenvalues, and a single extreme one. Of eigenvalues the error is smaller."""
LEAST_MASS = 1e-14
"""A token with less stationary mass is one that the walk never comes back to."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of the symmetric Laplacian, ascending: the `clusters` + 1 least `values` with their `vectors` [N, clusters + 1], the
    `largest`, and the stationary mass [N] of the walk."""

    values: Array
    vectors: Array
    largest: float
    stationary: Array

    @property
    def clusters(self) -> int:
        """k."""
        return len(self.values) - 1

    @property
    def gap(self) -> float:
        """lambda_2, zero for a walk that falls apart into two."""
        return float(self.values[1])

    @property
    def cluster_gap(self) -> float:
        """delta_k = lambda_{k+1} - lambda_k (Assumption 8.2)."""
        return float(self.values[-1] - self.values[-2])

    @property
    def quality(self) -> float:
        """The source's cluster quality (Section 11.6.1): delta_k / lambda_N, in [0, 1]; 0 where tokens look at themselves alone."""
        return self.cluster_gap / self.largest if self.largest > 0 else 0.0

    def leading(self, clusters: int) -> Spectrum:
        """The same with fewer clusters asked for."""
        return replace(self, values=self.values[: clusters + 1], vectors=self.vectors[:, : clusters + 1])

    def mixing_bound(self, distance: float) -> float:
        """Steps after which the reversibilised walk, made lazy, is within `distance` of its stationary mass in total variation, wherever it
        started: log(1 / (distance min pi)) / lambda_2 (Theorem 8.5; of the lazy walk, since an undirected one may alternate for ever, and
        a lazy step does half as much). Infinite for a walk that falls apart."""
        return over(2 * log(1 / (distance * float(self.stationary.min()))), self.gap)

    def heat_truncation(self, time: float) -> float:
        """What exp(-time L) loses, in the spectral norm, when only the first k modes are kept: exp(-time lambda_{k+1}) (Theorem 5.6)."""
        return float(np.exp(-time * self.values[-1]))


def over(part: float, gap: float) -> float:
    """part / gap, infinite where there is no gap."""
    return part / gap if gap > 0 else inf


def attention_walk(query: Array, key: Array, causal: bool = False) -> LinearOperator:
    """softmax(query key') for scaled queries and keys, both [N, D], over the keys up to its own for a causal query: the walk of dense
    attention. Holds the N x N weights. Raises InputError where the two differ in shape."""
    if query.shape != key.shape or query.ndim != 2:
        raise InputError(
            f"A walk among tokens needs as many queries as keys, both [N, D], not {list(query.shape)} and {list(key.shape)}."
        )
    logits = query.astype(np.float32) @ key.astype(np.float32).T
    if causal:
        logits[np.triu_indices_from(logits, 1)] = -np.inf
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return aslinearoperator(weights / weights.sum(axis=1, keepdims=True, dtype=np.float64))


def undirected(walk: LinearOperator) -> tuple[LinearOperator, Array]:
    """The walk on the undirected graph of edge weights (P_ij + P_ji) / 2, from a token to what it reads and to what reads it, and its
    stationary mass.

    It is what a causal walk has of a spectrum. That one ends at the first token, so its stationary mass says nothing, and its eigenvalues
    are the weights of tokens on themselves. Here every query gives away one unit, and each token's mass is what it gives and gets.
    """
    ones = np.ones(walk.shape[0])
    degree = 0.5 * (walk.matvec(ones) + walk.rmatvec(ones))[:, None]

    def both(x: Array) -> Array:
        return 0.5 * (walk.matmat(x) + walk.rmatmat(x))

    def product(x: Array) -> Array:
        return both(x.reshape(len(degree), -1)) / degree

    def transposed(x: Array) -> Array:
        return both(x.reshape(len(degree), -1) / degree)

    graph = LinearOperator(walk.shape, matvec=product, matmat=product, rmatvec=transposed, rmatmat=transposed, dtype=np.float64)
    return graph, degree[:, 0] / degree.sum()


def stationary(walk: LinearOperator) -> Array:
    """pi with pi P = pi and sum one: the solution of pi (I - P) + (sum of pi) u = u for u = 1 / N, by GMRES, to which clusters that hardly
    meet are a few small eigenvalues, where power iteration would take a step for each of their meetings.

    Raises InputError for a walk that does not come back to every token, as that of causal attention, which ends at the first.
    """
    size = walk.shape[0]
    uniform = np.full(size, 1.0 / size)
    system = LinearOperator(walk.shape, matvec=lambda x: x - walk.rmatvec(x) + uniform * x.sum(), dtype=np.float64)
    mass, failed = gmres(system, uniform, rtol=SETTLED, restart=min(size, RESTART), maxiter=MOST_RESTARTS)
    if failed or mass.min() < LEAST_MASS:
        raise InputError(
            "The attention walk never comes back to some tokens (a causal walk ends at the first), or too seldom to be told, so it has no "
            "symmetric Laplacian; `undirected` gives it one."
        )
    return mass / mass.sum()


def reversible(walk: LinearOperator, mass: Array) -> LinearOperator:
    """S = (A + A') / 2 with A = sqrt(pi) P / sqrt(pi): the symmetric Laplacian is I - S. Its leading eigenvector is sqrt(pi), for 1."""
    root = np.sqrt(mass)[:, None]

    def product(x: Array) -> Array:
        x = x.reshape(len(mass), -1)
        return 0.5 * (root * walk.matmat(x / root) + walk.rmatmat(root * x) / root)

    return LinearOperator(walk.shape, matvec=product, matmat=product, rmatvec=product, rmatmat=product, dtype=np.float64)


def spectrum(walk: LinearOperator, clusters: int, mass: Array | None = None) -> Spectrum:
    """The `clusters` + 1 least eigenvalues of the symmetric Laplacian and its largest, by Lanczos, from a fixed start. `mass` is the
    stationary mass where it is known.

    Raises InputError for clusters outside 1 .. N - 2 or a walk without stationary mass on every token.
    """
    size = walk.shape[0]
    if not 1 <= clusters <= size - 2:
        raise InputError(f"A walk among {size} tokens has 1 to {size - 2} clusters, not {clusters}.")
    mass = stationary(walk) if mass is None else mass
    operator, one = reversible(walk, mass), aslinearoperator(eye_array(size))
    start = np.sqrt(mass) + 1e-3 * np.random.default_rng(0).standard_normal(size)
    # Lanczos stops at an error relative to the eigenvalue it looks for. Both ends are looked for at 1 and beyond: many tokens that look
    # alike have so many eigenvalues of S within 1e-5 of nothing that the least of them took 9 s to find, against 0.4 s now (N = 1024).
    values, vectors = eigsh(one + operator, k=clusters + 1, which="LA", v0=start, ncv=min(size, 3 * clusters + 20), tol=CLOSE)
    (largest,) = eigsh(2 * one - operator, k=1, which="LA", v0=start, return_eigenvectors=False, tol=CLOSE_LARGEST)
    order = np.argsort(-values)
    return Spectrum(np.maximum(2 - values[order], 0.0), vectors[:, order], float(largest - 1), mass)


def eigengap_clusters(found: Spectrum) -> int:
    """The k in 2 .. `found.clusters` of the largest gap lambda_{k+1} - lambda_k: how many clusters the spectrum itself shows. One where
    no more were asked for."""
    gaps = np.diff(found.values)[1:]
    return 2 + int(np.argmax(gaps)) if len(gaps) else 1


def sin_theta(first: Spectrum, second: Spectrum) -> float:
    """|sin Theta|_F between the spans of the first k eigenvectors (Theorem 9.3), k those that `first` has clusters: 0 for equal spans and
    sqrt(k) for orthogonal ones."""
    k = first.clusters
    return float(np.linalg.norm(np.sin(subspace_angles(first.vectors[:, :k], second.vectors[:, :k]))))


def norm(operator: LinearOperator) -> float:
    """The spectral norm of a symmetric operator."""
    start = np.random.default_rng(0).standard_normal(operator.shape[0])
    if not operator.matvec(start).any():
        return 0.0
    return float(np.abs(eigsh(operator, k=1, which="LM", v0=start, return_eigenvectors=False, tol=CLOSE_LARGEST))[0])


def davis_kahan(first: Spectrum, perturbation: float) -> float:
    """What |sin Theta|_F is at most when the symmetric Laplacian of `first` is changed by an operator of that spectral norm:
    2 sqrt(k) |E| / delta_k (Yu, Wang, Samworth, Biometrika 2015). The source's Theorem 9.3 lacks the 2, which only a gap between the two
    spectra saves. Infinite without a gap."""
    return over(2 * first.clusters**0.5 * perturbation, first.cluster_gap)


def mixing_steps(walk: LinearOperator, mass: Array, distance: float, starts: Array, most: int = 1000) -> int | None:
    """Steps of the walk itself until it is within `distance` of `mass` in total variation from each of the tokens `starts`; None if
    `most` are not enough."""
    placed = np.zeros((walk.shape[0], len(starts)))
    placed[starts, np.arange(len(starts))] = 1.0
    for step in range(1, most + 1):
        placed = walk.rmatmat(placed)
        if np.abs(placed - mass[:, None]).sum(axis=0).max() / 2 <= distance:
            return step
    return None


def effective_rank(walk: LinearOperator) -> float:
    """exp of the entropy of the singular values, taken as shares of their sum (Lemma 8.2): 1 for rank one, N for a rotation.

    From all of them, N^3 work: random quadrature, which needs products alone, misses the rank of attention by 3 to 50 %.
    """
    values = np.linalg.svd(walk.matmat(np.eye(walk.shape[0])), compute_uv=False)
    return float(np.exp(entr(values / values.sum()).sum()))


def excess_free_energy(dense: Array, sparse: Array) -> float:
    """Mean over queries of beta (F(sparse) - F(dense)) [nats], from rows of both walks [queries, N]. Dense softmax has the least free
    energy (Proposition 8.4); any other row exceeds it by its Kullback-Leibler divergence from it."""
    return float(rel_entr(sparse, dense).sum(axis=1).mean())
