"""The numeric checks of Point2Mask that concern optimal transport. Each test carries the number of its check."""

import numpy as np
import ot
import pytest
import torch

from methods.ops.transport import sinkhorn, solve_transport

ROWS = [[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.45, 0.3, 0.25, 0.1, 0.0]]


def rows(dtype=torch.float64):
    return torch.tensor(ROWS, dtype=dtype)


def random_cost(seed):
    return torch.from_numpy(np.random.default_rng(seed).random((4, 400)))


# --- check 1: marginals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, relative", [(torch.float64, 1e-12), (torch.float32, 6e-5)])
@pytest.mark.parametrize("supply", [(4, 2), (5, 1)])
def test_check_1_row_sums_equal_the_supply_after_the_last_update(dtype, relative, supply):
    plan = sinkhorn(rows(dtype), torch.tensor(supply), torch.ones(6)).plan()
    np.testing.assert_allclose(plan.double().sum(1), np.array(supply) + 1e-8, rtol=relative)


def test_check_1_column_sums_reach_the_demand_and_pot_agrees():
    cost, supply, demand = random_cost(0), torch.full((4,), 100.0), torch.ones(400)
    ours = sinkhorn(cost, supply, demand, eps=0.05, iterations=2000)
    pot = ot.sinkhorn(
        supply.double().numpy(), np.ones(400), cost.numpy(), reg=0.05, method="sinkhorn_log", numItermax=5000, stopThr=1e-12
    )
    assert ours.column_error < 1e-7
    np.testing.assert_allclose(ours.plan(), pot, atol=1e-7)


# --- checks 2 and 3: golden plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_check_2_counts_of_the_nearest_supplier_give_one_hot_columns(dtype):
    transport = sinkhorn(rows(dtype), torch.tensor([3, 3]), torch.ones(6))
    np.testing.assert_allclose(transport.plan(), [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], atol=1e-6)
    assert transport.labels().tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-6), (torch.float32, 6e-5)])
def test_check_3_eighty_iterations(dtype, atol):
    transport = sinkhorn(rows(dtype), torch.tensor([4, 2]), torch.ones(6))
    plan = [[1.051093] * 3 + [0.846720, 0, 0], [0, 0, 0, 0.177211, 0.911395, 0.911395]]
    np.testing.assert_allclose(transport.plan(), plan, atol=atol)
    np.testing.assert_allclose(transport.plan().sum(0), [1.051093] * 3 + [1.023931] + [0.911395] * 2, atol=atol)
    assert transport.labels().tolist() == [0, 0, 0, 0, 1, 1]
    assert transport.iterations == 80


@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-6), (torch.float32, 6e-5)])
def test_check_3_is_stuck_far_from_convergence(dtype, atol):
    transport = sinkhorn(rows(dtype), torch.tensor([5, 1]), torch.ones(6))
    np.testing.assert_allclose(transport.plan(), [[1.25] * 4 + [0, 0], [0] * 4 + [0.5] * 2], atol=atol)
    assert transport.labels().tolist() == [0, 0, 0, 0, 1, 1]
    assert transport.column_error == pytest.approx(0.5, abs=atol)


@pytest.mark.parametrize("supply, labels", [((4, 2), [0, 0, 0, 0, 1, 1]), ((5, 1), [0, 0, 0, 0, 0, 1])])
def test_check_3_converged(supply, labels):
    many = sinkhorn(rows(), torch.tensor(supply), torch.ones(6), iterations=20000)
    converged = solve_transport(rows(), torch.tensor(supply), torch.ones(6))
    for transport in (many, converged):
        assert transport.labels().tolist() == labels
        assert transport.column_error < 5e-5
    one_hot = np.stack([np.equal(labels, 0), np.equal(labels, 1)])
    np.testing.assert_allclose(converged.plan(), one_hot, atol=1e-5)


# --- checks 4 to 8, 16 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
def test_check_4_tied_pixels_are_shared(solve):
    cost = torch.tensor([[0, 0.1, 0.2, 0.2, 0.3], [0.3, 0.2, 0.2, 0.2, 0]], dtype=torch.float64)
    plan = solve(cost, torch.tensor([3, 2]), torch.ones(5)).plan()
    np.testing.assert_allclose(plan, [[1, 1, 0.5, 0.5, 0], [0, 0, 0.5, 0.5, 1]], atol=1e-6)


@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
def test_check_5_a_stuff_pixel_gets_nothing(solve):
    demand = torch.tensor([1, 1, 0, 1, 1, 1])
    plan = solve(rows(), torch.tensor([3, 2]), demand).plan()
    assert plan[:, 2].max() < 1e-7
    np.testing.assert_allclose(plan.sum(), 5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
def test_check_6_labels_are_minimum_cost_with_offsets(solve, seed):
    transport = solve(random_cost(seed), torch.tensor([40, 160, 30, 170]), torch.ones(400))
    offset_cost = random_cost(seed) - transport.row_potential[:, None]
    assert torch.equal(transport.plan().argmax(0), offset_cost.argmin(0))
    assert torch.equal(transport.labels(), offset_cost.argmin(0))


@pytest.mark.parametrize("seed", range(3))
def test_check_7_nearest_counts_give_the_nearest_supplier(seed):
    cost = random_cost(seed)
    nearest = cost.argmin(0)
    supply = torch.bincount(nearest, minlength=4)
    labels = solve_transport(cost, supply, torch.ones(400)).labels()
    assert (labels == nearest).double().mean() >= 0.995
    lowest = cost.topk(2, dim=0, largest=False).values
    clear = lowest[1] - lowest[0] > 0.02
    assert torch.equal(labels[clear], nearest[clear])


@pytest.mark.parametrize("iterations, expected", [(40, 0.082329), (80, 0.057315), (1000, 0.002645)])
def test_check_8_column_error_of_an_equal_division(iterations, expected):
    transport = sinkhorn(random_cost(0), torch.full((4,), 100), torch.ones(400), iterations=iterations)
    assert transport.column_error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("iterations, low, high", [(40, 0.025, 0.25), (80, 0.021, 0.20), (1000, 6e-5, 1e-2)])
def test_check_8_column_errors_over_draws(iterations, low, high):
    errors = [
        sinkhorn(random_cost(seed), torch.full((4,), 100), torch.ones(400), iterations=iterations).column_error
        for seed in range(20)
    ]
    assert low * 0.97 < min(errors) and max(errors) < high * 1.03


@pytest.mark.parametrize("factor", [7.0, 1e-4, 1e4])
@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
def test_check_16_scaling_cost_and_eps_leaves_the_plan(solve, factor):
    supply, demand = torch.tensor([4, 2]), torch.ones(6)
    plan = solve(rows(), supply, demand, eps=1e-2).plan()
    np.testing.assert_allclose(solve(rows() * factor, supply, demand, eps=1e-2 * factor).plan(), plan, atol=1e-6)
