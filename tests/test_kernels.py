"""Kernels against dense brute force in float64, written from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from allround.device import choose
from allround.kernels import facility_location as facility_location_module
from allround.kernels import k_centre as k_centre_module
from allround.kernels import k_means as k_means_module
from allround.kernels.facility_location import facility_location
from allround.kernels.k_centre import k_centre
from allround.kernels.k_means import draw, first_with_weight, k_means_plus_plus
from allround.kernels.products import LONG, dots, matvec, products, residuals, row_products, squared_norms
from allround.kernels.repeat import repeat


def tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) for array in arrays)


def random_factors(n: int, *widths: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, width)).astype(np.float32) for width in widths]


def kronecker(factors: list[np.ndarray]) -> np.ndarray:
    """The vectors themselves, (n, product of widths), float64."""
    whole = np.ones((len(factors[0]), 1))
    for factor in factors:
        whole = (whole[:, :, None] * factor[:, None, :].astype(np.float64)).reshape(len(whole), -1)
    return whole


def dense_weights(vectors: np.ndarray, chosen: list[int]) -> np.ndarray:
    """k-means++: squared distance to the nearest chosen vector; uniform over the rest where all are 0."""
    distance = ((vectors[:, None] - vectors[chosen]) ** 2).sum(2).min(1)
    distance[chosen] = 0
    left = np.ones(len(vectors))
    left[chosen] = 0
    return distance if distance.sum() > 0 else left


def dense_k_means_plus_plus(vectors: np.ndarray, k: int, rng: np.random.Generator, most: int) -> tuple[list, list]:
    """k-means++ by rejection with `most` candidates a pass, on the vectors themselves: rows and their weights."""
    chosen, scores, rate = [int(np.argmax((vectors**2).sum(1)))], [], 1.0
    while len(chosen) < k:
        size = min(most, math.ceil(1.5 * (k - len(chosen)) / rate))
        places, chances = rng.random((2, size))
        old = dense_weights(vectors, chosen)
        upto, before = np.cumsum(old), len(chosen)
        for place, chance in zip(places, chances, strict=True):
            row = int(np.searchsorted(upto, place * upto[-1], side="right"))
            now = dense_weights(vectors, chosen)[row]
            if chance < now / old[row] and len(chosen) < k:
                chosen.append(row)
                scores.append(now)
        rate = (len(chosen) - before) / size
    return chosen, scores


def dense_k_centre(vectors: np.ndarray, centres: np.ndarray, k: int) -> list[int]:
    centres, chosen = list(centres), []
    if not centres:
        chosen.append(int(np.argmin(((vectors - vectors.mean(0)) ** 2).sum(1))))
        centres.append(vectors[chosen[0]])
    while len(chosen) < k:
        distance = np.min([((vectors - centre) ** 2).sum(1) for centre in centres], axis=0)
        distance[chosen] = -1
        chosen.append(int(np.argmax(distance)))
        centres.append(vectors[chosen[-1]])
    return chosen


def cosines(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return np.maximum(vectors @ vectors.T, 0)


def assert_greedy(similarity: np.ndarray, chosen: list[int], gains: list[float]) -> None:
    """Every pick has the largest of all gains, each computed anew, and that gain is what was reported.

    Not compared pick by pick with another greedy run: two examples that are each other's nearest have equal gains once
    all others are covered, and rounding decides.
    """
    best = np.zeros(len(similarity))
    for i, (row, gain) in enumerate(zip(chosen, gains, strict=True)):
        all_gains = np.maximum(similarity - best, 0).sum(1)
        all_gains[chosen[:i]] = -1
        assert all_gains[row] == pytest.approx(all_gains.max(), rel=1e-5, abs=1e-5)
        assert gain == pytest.approx(all_gains[row], rel=1e-5, abs=1e-5)
        best = np.maximum(best, similarity[row])


# --- products ---------------------------------------------------------------------------------------------------------


def test_residuals_are_the_gradient_in_the_logits_under_the_predicted_label():
    logits = torch.randn(20, 5, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    torch.testing.assert_close(residuals(logits.detach().softmax(1)), logits.grad)


def test_residuals_of_an_example_that_the_model_is_sure_of_still_sum_to_zero():
    q = residuals(torch.tensor([[30.0, 0.0, 0.0]]).softmax(1))  # p rounds to 1
    assert q[0, 0] < 0
    assert q.sum() == 0


def test_products_of_factors_are_those_of_the_vectors():
    factors = random_factors(30, 4, 7)
    vectors = kronecker(factors)
    np.testing.assert_allclose(dots(tensors(*factors), torch.tensor([3])), vectors @ vectors[3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(squared_norms(tensors(*factors)), (vectors**2).sum(1), rtol=1e-12)
    left, right = tensors(*factors), tensors(*(factor[5:9] for factor in factors))
    np.testing.assert_allclose(products(left, right), vectors @ vectors[5:9].T, rtol=1e-5, atol=1e-5)
    same = tensors(*(factor[::-1] for factor in factors))
    np.testing.assert_allclose(row_products(left, same), (vectors * vectors[::-1]).sum(1), rtol=1e-5, atol=1e-5)


# --- k-means++ --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[2, 7, 64])
def candidates(request, monkeypatch) -> int:
    """So many candidates a pass, at most: from a pass or two a pick to many picks a pass."""
    for module in (k_means_module, k_centre_module):
        monkeypatch.setattr(module, "candidates", lambda n: min(n, request.param))
    return request.param


@pytest.mark.parametrize("widths", [(12,), (5, 8)])
@pytest.mark.parametrize("n", [2, 17, 400])
def test_k_means_plus_plus_picks_what_the_dense_form_picks(widths, n, candidates):
    """The whole algorithm against float64 over whole vectors, with the same candidates and chances."""
    factors, k = random_factors(n, *widths, seed=n), min(n, 60)
    rows, distances = k_means_plus_plus(tensors(*factors), k, np.random.default_rng(1))
    expected, weights = dense_k_means_plus_plus(kronecker(factors), k, np.random.default_rng(1), min(n, candidates))
    assert rows.tolist() == expected
    np.testing.assert_allclose(distances[1:], weights, rtol=1e-4)


def test_k_means_plus_plus_draws_by_squared_distance(candidates):
    """Chi-square of the picks 2, 3 and 4 in their order against the dense probabilities: those of one pass, and those
    of several (two candidates)."""
    factors, runs = random_factors(5, 2, 3), 800
    vectors = kronecker(factors)
    rng = np.random.default_rng(2)
    drawn = [tuple(k_means_plus_plus(tensors(*factors), 4, rng)[0].tolist()) for _ in range(runs)]
    first = int(np.argmax((vectors**2).sum(1)))
    expected = {(first,): 1.0}
    for _ in range(3):
        expected = {
            (*chosen, row): probability * weights[row] / weights.sum()
            for chosen, probability in expected.items()
            for weights in [dense_weights(vectors, list(chosen))]
            for row in np.flatnonzero(weights).tolist()
        }
    assert set(drawn) <= set(expected)
    counts = np.array([drawn.count(chosen) for chosen in expected])
    assert chisquare(counts, runs * np.array(list(expected.values()))).pvalue > 1e-4


def test_copies_of_chosen_vectors_are_drawn_last_and_uniformly():
    """4 distinct vectors, the rest copies: the first 4 picks are distinct, what follows is uniform over the rest."""
    copies = [np.concatenate([f, np.repeat(f[:1], 8, axis=0)]) for f in random_factors(4, 10, 300)]  # 4..11 copy row 0
    rng = np.random.default_rng(3)
    fifth = []
    for _ in range(500):
        rows, distances = k_means_plus_plus(tensors(*copies), 12, rng)
        assert sorted(rows.tolist()) == list(range(12))
        kinds = [0 if row >= 4 else row for row in rows.tolist()]
        assert sorted(kinds[:4]) == [0, 1, 2, 3]
        assert (distances[4:] == 0).all()
        fifth.append(rows[4].item())
    used = np.bincount(fifth, minlength=12)
    assert (used[1:4] == 0).all()
    # any of the 9 copies of vector 0 is left with probability 8/9, and each of those left is equally likely
    assert chisquare(used[4:]).pvalue > 1e-4


def test_a_draw_never_falls_on_no_weight():
    """At every edge of the distribution function, in a matrix with holes, padding and weights of all sizes."""
    rng = np.random.default_rng(4)
    values = rng.random(90) ** 20 * (rng.random(90) < 0.3)
    weights = torch.zeros(10, 10, dtype=torch.float64)
    weights.view(-1)[:90] = torch.from_numpy(values)
    upto = np.cumsum(values) / values.sum()
    edges = np.unique(np.concatenate([np.nextafter(upto, 0), upto, np.nextafter(upto, 2), [0, 1 - 2**-53]]))
    places = draw(weights, torch.from_numpy(edges[edges < 1]))
    assert (places < 90).all()
    assert (values[places] > 0).all()


def test_rounding_cannot_make_a_draw_fall_on_no_weight():
    weights = torch.tensor([0.0, 1, 0, 1, 0])
    reached = torch.tensor([[True] * 5, [False, False, True, True, True], [False] * 5])
    assert first_with_weight(reached, weights).tolist() == [1, 3, 3]


# --- k-centre ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centres", [0, 1, 30])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_k_centre_picks_what_the_dense_form_picks(centres, offset, candidates):
    """Also where all features share a large offset, in which float32 loses their differences."""
    vectors, others = random_factors(300, 16)[0] + offset, random_factors(centres, 16, seed=1)[0] + offset
    rows, distances = k_centre(*tensors(vectors, others), 40)
    vectors, others = vectors.astype(np.float64), others.astype(np.float64)
    expected = dense_k_centre(vectors, others, 40)
    assert rows.tolist() == expected
    near = np.concatenate([others, vectors[expected[:-1]]])
    np.testing.assert_allclose(distances[-1], np.sqrt(((near - vectors[expected[-1]]) ** 2).sum(1).min()), rtol=1e-4)


def test_k_centre_with_more_centres_than_fit_a_block_sees_them_all():
    (vectors,), (centres,) = random_factors(80, 3), random_factors(9000, 3, seed=1)
    rows, distances = k_centre(*tensors(vectors, centres), 10)
    assert rows.tolist() == dense_k_centre(vectors.astype(np.float64), centres.astype(np.float64), 10)
    np.testing.assert_allclose(distances[0], np.linalg.norm(centres - vectors[rows[0]], axis=1).min(), rtol=1e-4)


@pytest.mark.parametrize("centres", [0, 3])
@pytest.mark.parametrize("seed", range(4))
def test_k_centre_gives_ties_to_the_lower_row(centres, seed, candidates):
    """Points of a small grid, where nearly all distances tie and many points are copies: the order is greedy's to the
    end, whichever rows a pass looks at."""
    rng = np.random.default_rng(seed)
    vectors, others = rng.integers(0, 4, (90, 3)).astype(np.float32), rng.integers(0, 4, (centres, 3))
    rows = k_centre(*tensors(vectors, others), 90)[0].tolist()
    if not centres:  # which point is nearest to the mean is for rounding to say
        first = rows.pop(0)
        others, vectors = vectors[[first]], np.delete(vectors, first, axis=0)
        rows = [row - (row > first) for row in rows]
    assert rows == dense_k_centre(vectors.astype(np.float64), others.astype(np.float64), len(vectors))


def test_k_centre_repeats_no_index_on_copies(candidates):
    vectors = np.repeat(random_factors(3, 5)[0], 10, axis=0)
    rows, distances = k_centre(*tensors(vectors, vectors[:0]), 30)
    assert sorted(rows.tolist()) == list(range(30))
    assert (distances[1:3] > 0).all()
    assert (distances[3:] == 0).all()
    assert rows[3:].tolist() == sorted(rows[3:].tolist())  # ties go to the lower row


# --- facility location ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(8,), (5, 8)])
@pytest.mark.parametrize("refresh", [1, 7, 64])
def test_lazy_facility_location_is_exactly_greedy(widths, refresh, monkeypatch):
    monkeypatch.setattr(facility_location_module, "REFRESH", refresh)
    factors = random_factors(150, *widths)
    rows, gains = facility_location(tensors(*factors), 100)
    assert len(set(rows.tolist())) == 100
    assert_greedy(cosines(kronecker(factors)), rows.tolist(), gains.tolist())


def test_facility_location_ends_where_more_rows_tie_than_a_step_refreshes():
    vectors = np.repeat(np.eye(3), 100, axis=0)  # 3 x 100 copies, K = 64
    rows, gains = facility_location(tensors(vectors), 300)
    assert rows.tolist() == [0, 100, 200, *(row for row in range(300) if row not in (0, 100, 200))]
    np.testing.assert_allclose(gains, [100] * 3 + [0] * 297)


def test_facility_location_takes_zero_vectors_last():
    vectors = random_factors(20, 4)[0]
    vectors[[2, 9]] = 0
    rows, _ = facility_location(tensors(vectors), 20)
    assert set(rows[-2:].tolist()) == {2, 9}


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_step_runs_as_often_as_asked_or_until_done():
    count = torch.zeros(1)
    repeat(lambda: count.add_(1), (count,), times=7)
    assert count.item() == 7
    repeat(lambda: count.add_(1), (count,), done=lambda: count.item() >= 12)
    assert count.item() == 12


@pytest.mark.parametrize("width", [1, LONG - 1, LONG, 300])
def test_a_matrix_times_a_vector_is_right_and_alike_for_equal_rows(width):
    matrix, vector = tensors(*random_factors(1001, width), random_factors(1, width, seed=1)[0][0])
    matrix[1000] = matrix[3]
    product = matvec(matrix, vector)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), matrix.double() @ vector.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(matvec(matrix[:1], vector), product[:1], rtol=1e-5, atol=1e-4)
    if width >= LONG:
        assert product[1000] == product[3]


@pytest.mark.gpu
def test_a_captured_step_runs_as_often_as_asked_and_its_warm_up_leaves_no_trace():
    device = choose("cuda", exact=True)
    count, trace = torch.zeros(1, device=device, dtype=torch.int64), torch.zeros(100, device=device)

    def step() -> None:
        trace.index_copy_(0, count, count.float())
        count.add_(1)

    repeat(step, (count, trace), times=100)
    assert count.item() == 100
    assert trace.tolist() == list(range(100))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_gpu_picks_what_the_cpu_picks(dtype):
    device = choose("cuda", exact=True)
    residual, features = tensors(*random_factors(3000, 10, 64))
    features = features.to(dtype)
    kernels = {
        "k-means++": lambda q, h: k_means_plus_plus((q, h), 200, np.random.default_rng(5)),
        "k-centre": lambda q, h: k_centre(h, h[:50], 200),
        "facility location": lambda q, h: facility_location((q, h), 100),
    }
    for name, kernel in kernels.items():
        rows, scores = kernel(residual, features)
        there, there_scores = kernel(residual.to(device), features.to(device))
        again = kernel(residual.to(device), features.to(device))[0]
        assert there.tolist() == again.tolist(), f"{name}: two runs on one GPU differ"
        assert (rows[:20] == there[:20].cpu()).all(), name  # later, rounding may decide between equals
        torch.testing.assert_close(scores.sum(), there_scores.sum().cpu(), rtol=1e-2, atol=0)
