"""Log-determinant (determinantal point process), maximised greedily: rows that span the most volume together.

    f(S) = log det(s_SS + r I),   s(i, j) = cos(x_i, x_j)                           Chen, Zhang & Zhou 2018 (NeurIPS)

A pick adds log(r + |x_j|^2 - |e_j|^2), e_j the row of j in the incremental Cholesky factor. The rows e grow with every
pick (n x k numbers). They need not be kept: |x_j|^2 - |e_j|^2 = x_j . P x_j with a d x d matrix P, which starts as I,
and a pick i takes w w^T from it, w = P x_i / sqrt(r + x_i . P x_i). Only for vectors of several factors, whose d is the
product of the factors' and may be larger than all that is picked, the rows are kept instead.

Conditioned on a set X, f(S | X) = f(S u X) - f(X), P starts as I - X^T (X X^T + r I)^-1 X; cross-similarities between
S and X may be scaled first, as submodular information measures do (Iyer et al. 2021, ALT). submodlib does both on the
CPU, over an n x n matrix.
"""

from __future__ import annotations

import math

import torch

from allround.kernels.greedy import greedy
from allround.kernels.products import BLOCK, dots, matvec, squared_norms, unit
from allround.kernels.set_functions import similarities, tie_break

Sets = tuple[tuple[tuple[torch.Tensor, ...], float], ...]  # of (factors of its examples, scale of their similarities)


def log_determinant(
    factors: tuple[torch.Tensor, ...],
    k: int,
    *,
    regularisation: float = 1.0,
    given: Sets = (),
    against: Sets | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of the greedy algorithm for f(S | given), or for f(S | given) - f(S | against), and their gains.

    factors: (n, d_f) each; see allround.kernels.products. Zero rows stay zero.
    given, against: sets that S is conditioned on, each with the factor that its similarities to S are scaled by. Where
        scales would make the joint kernel indefinite (above 1, or unequal), similarities are cut to what keeps it
        semidefinite, so that every gain is finite.
    Returns rows (k,) int64, all distinct, and gains (k,) float64; where unit vectors tie in f itself, as all do at
    first, by tie_break. Memory O(n d + d^2) and O(n d + d^2) a pick; for vectors of two factors, (d,) and (c,), with s
    examples in the sets: O(n (d + c) + (c d)^2) and O(n c d + (c d)^2) a pick if c d <= s + k, else O(n (d + c + s +
    k)) both.
    """
    factors = unit(*factors)
    starts, width = [given] if against is None else [given, against], math.prod(factor.shape[1] for factor in factors)
    picked = [k + sum(len(others[0]) for others, _ in sets) for sets in starts]
    ways = [_matrix if len(factors) == 1 or width <= count else _rows for count in picked]
    terms = [way(factors, k, regularisation, sets) for way, sets in zip(ways, starts, strict=True)]
    left = torch.stack([rest for rest, _, _ in terms])  # (1 or 2, n) what of |x_j|^2 the sets and S leave unexplained
    state = [left, *(tensor for _, _, tensors in terms for tensor in tensors)]
    gains = torch.empty_like(left[0])
    preference = tie_break(factors) if against is None and not given else 0.0

    def refresh() -> None:
        logs = left.add(regularisation).log_()
        gains.copy_(logs[0] + preference if against is None else logs[0] - logs[1])

    def update(row: torch.Tensor) -> None:
        for rest, (_, explain, _) in zip(left, terms, strict=True):
            size = rest.index_select(0, row).add_(regularisation).sqrt_()  # (1,)
            rest.sub_(explain(row, size).double().square_()).clamp_(min=0)  # rounding may leave less than nothing
        refresh()

    refresh()
    return greedy(gains, update, k, state)


def _matrix(factors: tuple[torch.Tensor, ...], k: int, regularisation: float, sets: Sets) -> tuple:
    """|x_j|^2 - |e_j|^2 of every row (n,); a function that gives e_j of a pick (n,); the tensors that it changes."""
    matrix = _conditioned(factors, regularisation, sets).float()  # (d, d), d the product of the factors'
    rest = squared_norms(factors).round_()  # 1, and 0 of zero rows: equal lengths must tie
    if sets:
        step = max(1, BLOCK // len(matrix))
        for start in range(0, len(rest), step):
            block = _whole(tuple(factor[start : start + step] for factor in factors))
            rest[start : start + step] = (block @ matrix).mul_(block).sum(1)
        rest.clamp_(min=0)

    def explain(row: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        new = torch.mv(matrix, _whole(tuple(factor.index_select(0, row) for factor in factors))[0]).div_(size)  # (d,)
        matrix.addr_(new, new, alpha=-1)
        if len(factors) == 1:
            return matvec(factors[0], new)
        return (factors[0] @ new.view(factors[0].shape[1], -1)).mul_(factors[1]).sum(1)

    return rest, explain, (matrix,)


def _whole(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The vectors themselves, (b, d_1 d_2) of two factors."""
    if len(factors) == 1:
        return factors[0]
    return (factors[0][:, :, None] * factors[1][:, None, :]).flatten(1)


def _conditioned(factors: tuple[torch.Tensor, ...], regularisation: float, sets: Sets) -> torch.Tensor:
    """I - X^T D (X X^T + r I)^-1 D X, (d, d) float64, D the scales, by way of X^T X: sets may be larger than d."""
    d = math.prod(factor.shape[1] for factor in factors)
    identity = torch.eye(d, dtype=torch.float64, device=factors[0].device)
    if not sets:
        return identity
    plain, once, twice = torch.zeros(3, *identity.shape, dtype=torch.float64, device=identity.device)
    for others, scale in sets:
        vectors = _whole(unit(*others)).double()
        gram = vectors.T @ vectors
        plain, once, twice = plain + gram, once + scale * gram, twice + scale**2 * gram
    explained = (twice - once @ torch.linalg.solve(plain + regularisation * identity, once)) / regularisation
    if _definite(sets):
        return identity - explained
    values, directions = torch.linalg.eigh(identity - explained)
    return directions * values.clamp(min=0) @ directions.T


def _rows(factors: tuple[torch.Tensor, ...], k: int, regularisation: float, sets: Sets) -> tuple:
    """As _matrix, with the Cholesky rows kept."""
    n, device = len(factors[0]), factors[0].device
    members = [torch.cat(parts) for parts in zip(*(unit(*others) for others, _ in sets), strict=True)]  # (s, d_f) each
    s = len(members[0]) if sets else 0
    known = torch.zeros(s + k, n, device=device)  # the rows e_j, as columns: a pick adds one number to each
    count = torch.full((1,), s, dtype=torch.int64, device=device)
    rest = squared_norms(factors).round_()  # (n,)
    if sets:
        scales = torch.cat([torch.full((len(others[0]),), scale, dtype=torch.float64) for others, scale in sets])
        whiten = _whitener(members, regularisation, scales.to(device), _definite(sets)).float()
        for start in range(0, n, max(1, BLOCK // s)):
            here = slice(start, start + max(1, BLOCK // s))
            known[:s, here] = whiten @ similarities([factor[here] for factor in factors], members).T
            rest[here] -= known[:s, here].double().square_().sum(0)
        rest.clamp_(min=0)

    def explain(row: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        new = (dots(factors, row) - torch.mv(known.T, known.index_select(1, row)[:, 0])) / size  # (n,)
        known.index_copy_(0, count, new[None].float())
        count.add_(1)
        return new

    return rest, explain, (known, count)


def _whitener(members: list, regularisation: float, scales: torch.Tensor, definite: bool) -> torch.Tensor:
    """The (s, s) matrix Z = C^-1 D, C C^T = X X^T + r I, that turns products with the members X into their e_j."""
    gram = similarities(members, members).double()
    cholesky = torch.linalg.cholesky(gram + regularisation * torch.eye(len(gram), device=gram.device))
    whiten = torch.linalg.solve_triangular(cholesky, torch.diag(scales), upper=False)
    if definite:
        return whiten
    values, directions = torch.linalg.eigh(whiten @ gram @ whiten.T)  # |Z X|^2 by direction: at most 1
    return directions * values.clamp(min=1).rsqrt() @ directions.T @ whiten


def _definite(sets: Sets) -> bool:
    """Whether scaling by these leaves the joint kernel positive semidefinite, whatever the vectors."""
    scales = {scale for _, scale in sets}
    return len(scales) == 1 and max(scales) <= 1
