import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.speed.plain import two_logsumexp_sinkhorn
from methods.ops.transport import sinkhorn, sinkhorn_batch, solve_transport
from methods.ops.transport.problem import checked_problem
from methods.ops.transport.sinkhorn import _until, iterate_padded


def literal_sinkhorn(cost, supply, demand, eps, iterations):
    """The two update lines of the papers, without any rearrangement. The plan as (n, m)."""
    return two_logsumexp_sinkhorn(cost.double(), supply, demand, eps, iterations).plan(cost.double(), eps)


def problem(seed, count, size, kind="uniform", scale=1.0, demands="ones"):
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        cost = rng.random((count, size))
    elif kind == "ties":
        cost = rng.integers(0, 4, (count, size)) / 3
    elif kind == "distances":
        cost = np.linalg.norm(rng.random((1, size, 2)) - rng.random((count, 1, 2)), axis=-1)
    elif kind == "wide":
        cost = 10.0 ** rng.uniform(-6, 0, (count, size))
    else:
        cost = np.full((count, size), 0.3)
    if demands == "ones":
        demand = np.ones(size)
    elif demands == "holes":
        demand = (rng.random(size) < 0.6) * 1.0
        demand[0] = 1
    else:
        demand = rng.random(size) / size + 1e-6
    share = rng.random(count) + 0.05
    if demands == "holes":
        share[1:] *= rng.random(count - 1) < 0.7
    supply = share / share.sum() * demand.sum()
    return torch.from_numpy(cost * scale), torch.from_numpy(supply), torch.from_numpy(demand)


problems = st.builds(
    problem, seed=st.integers(0, 2**32 - 1), count=st.integers(1, 9), size=st.integers(1, 60),
    kind=st.sampled_from(["uniform", "ties", "distances", "wide", "constant"]),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e4]), demands=st.sampled_from(["ones", "holes", "real"]),
)


# --- a given number of iterations --------------------------------------------------------------------------------------


@given(problems, st.integers(1, 30), st.sampled_from([1e-3, 0.05, 2.0]))
@settings(deadline=None, max_examples=60)
def test_every_iteration_equals_the_papers_updates(case, iterations, eps):
    ours = sinkhorn(*case, eps=eps, iterations=iterations)
    # exponents as large as cost / eps lose that many units of rounding
    tolerance = 1e-11 * (1 + float(case[0].max()) / eps)
    np.testing.assert_allclose(
        ours.plan(), literal_sinkhorn(*case, eps, iterations), rtol=tolerance, atol=tolerance * float(case[2].sum())
    )


@given(problems, st.sampled_from([1e-3, 0.05, 2.0]))
@settings(deadline=None, max_examples=40)
def test_labels_and_errors_are_those_of_the_plan(case, eps):
    for dtype in (torch.float32, torch.float64):
        typed = (case[0].to(dtype), *case[1:])
        for transport in (sinkhorn(*typed, eps=eps, iterations=7), solve_transport(*typed, eps=eps)):
            plan = transport.plan()
            assert plan.dtype == dtype and not plan.requires_grad
            mass = plan.sum(0) > 0
            assert torch.equal(transport.labels()[mass], plan.argmax(0)[mass])
            plan = plan.double()
            assert transport.row_error == pytest.approx(float((plan.sum(1) - case[1]).abs().max()), abs=1e-5)
            assert transport.column_error == pytest.approx(float((plan.sum(0) - case[2]).abs().max()), abs=1e-5)


@given(problems)
@settings(deadline=None, max_examples=40)
def test_device_iterations_equal_the_compiled_ones(case):
    """The path of CUDA tensors, run on the CPU."""
    ours = sinkhorn(*case, eps=0.01, iterations=25)
    (other,) = iterate_padded([checked_problem(*case, 0.01)], 0.01, 25)
    np.testing.assert_allclose(other.plan(), ours.plan(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.row_potential, ours.row_potential, rtol=1e-9, atol=1e-9)


def test_device_iterations_stop_at_the_same_count():
    case = problem(3, 4, 200)
    ours = sinkhorn(*case, eps=0.02, iterations=5000, tolerance=1e-4)
    other = _until(checked_problem(*case, 0.02), 0.02, 5000, 1e-4)
    assert other.iterations == ours.iterations
    np.testing.assert_allclose(other.plan(), ours.plan(), atol=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "distances"])
def test_single_precision_labels_agree(kind):
    cost, supply, demand = problem(0, 8, 20000, kind, scale=10.0)
    cost = cost.float()
    single, double = sinkhorn(cost, supply, demand), sinkhorn(cost.double(), supply, demand)
    assert (single.labels() == double.labels()).double().mean() >= 0.9999
    (device,) = iterate_padded([checked_problem(cost, supply, demand, 1e-3)], 1e-3, 80)
    assert (device.labels() == double.labels()).double().mean() >= 0.9999
    np.testing.assert_allclose(single.plan().double().sum(1), supply, rtol=1e-4)


def test_a_starved_supplier_recovers_in_the_log_domain():
    """Every other weight of the second row underflows, in the first sweep by thousands of powers of two."""
    cost = torch.zeros(2, 700, dtype=torch.float64)
    cost[1] = torch.linspace(50, 60, 700)
    supply, demand = torch.tensor([400, 300]), torch.ones(700)
    expected = literal_sinkhorn(cost, supply, demand, 1e-3, 3)
    for dtype, atol in ((torch.float64, 1e-8), (torch.float32, 0.5)):
        transport = sinkhorn(cost.to(dtype), supply, demand, iterations=3)
        np.testing.assert_allclose(transport.plan(), expected, atol=atol)
        np.testing.assert_allclose(transport.plan().double().sum(1), supply, rtol=1e-2 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_potentials_that_drift_far_keep_their_digits(dtype, bits):
    """Costs of hundreds of eps, supplies and demands over many orders: weights are kept, dropped and taken up again."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(6, 600, generator=generator, dtype=torch.float64) * 0.4
    supply, demand = (10 ** torch.empty(n, dtype=torch.float64).uniform_(-4, 4, generator=generator) for n in (6, 600))
    supply *= demand.sum() / supply.sum()
    found = sinkhorn(cost.to(dtype), supply, demand, eps=1e-3, iterations=40)
    u = torch.zeros(6, dtype=torch.float64)
    kernel = -cost / 1e-3
    for _ in range(40):
        v = (demand + 1e-8).log() - torch.logsumexp(kernel + u[:, None], dim=0)
        u = (supply + 1e-8).log() - torch.logsumexp(kernel + v, dim=1)
    assert float((u.max() - u.min()) / np.log(2)) > 40  # bits: the base has moved several times
    np.testing.assert_allclose(found.row_potential / 1e-3, u, atol=bits * float(u.abs().max()))


def test_tolerance_stops_at_the_first_iteration_that_meets_it():
    case = problem(1, 5, 300)
    stopped = sinkhorn(*case, eps=0.01, iterations=5000, tolerance=1e-3)
    assert stopped.converged and 1 < stopped.iterations < 5000
    assert stopped.column_error <= 1e-3
    plan = sinkhorn(*case, eps=0.01, iterations=stopped.iterations)
    np.testing.assert_allclose(stopped.plan(), plan.plan(), atol=1e-10)
    assert sinkhorn(*case, eps=0.01, iterations=stopped.iterations - 1).column_error > 1e-3
    capped = sinkhorn(*case, eps=0.01, iterations=3, tolerance=1e-3)
    assert capped.iterations == 3 and capped.converged is False
    assert plan.converged is None


@given(st.lists(problems, min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_a_batch_equals_its_images_one_by_one(cases):
    together = sinkhorn_batch(*zip(*cases, strict=True), eps=0.01, iterations=12)
    padded = iterate_padded([checked_problem(*case, 0.01) for case in cases], 0.01, 12)
    for case, one, other in zip(cases, together, padded, strict=True):
        alone = sinkhorn(*case, eps=0.01, iterations=12)
        assert torch.equal(one.plan(), alone.plan())
        np.testing.assert_allclose(other.plan(), alone.plan(), rtol=1e-6, atol=1e-8)


def test_an_empty_batch_is_empty():
    assert sinkhorn_batch([], [], []) == []


@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
def test_offsets_of_rows_and_columns_leave_the_plan(solve):
    cost, supply, demand = problem(5, 6, 80)
    limits = {"iterations": 5000} if solve is sinkhorn else {"tolerance": 1e-9}
    plan = solve(cost, supply, demand, eps=0.05, **limits).plan()
    for offset in (torch.linspace(0, 5, 80), torch.arange(6)[:, None]):
        np.testing.assert_allclose(solve(cost + offset, supply, demand, eps=0.05, **limits).plan(), plan, atol=1e-6)


def test_column_offsets_leave_every_iteration():
    cost, supply, demand = problem(5, 6, 80)
    plan = sinkhorn(cost, supply, demand, iterations=9).plan()
    shifted = sinkhorn(cost + torch.linspace(0, 5, 80), supply, demand, iterations=9)
    np.testing.assert_allclose(shifted.plan(), plan, atol=1e-9)


# --- convergence ---------------------------------------------------------------------------------------------------------


@given(problems, st.sampled_from([1e-3, 0.02, 1.0]))
@settings(deadline=None, max_examples=80)
def test_converged_marginals(case, eps):
    cost, supply, demand = case
    transport = solve_transport(cost, supply, demand, eps=eps)
    plan = transport.plan()
    assert transport.converged
    assert float((plan.sum(1) - supply).abs().sum()) <= 1.01e-6 * float(supply.sum()) + 1e-12
    np.testing.assert_allclose(plan.sum(0), demand, rtol=1e-6, atol=1e-12)
    assert not plan[supply == 0].any() and not plan[:, demand == 0].any()


@given(problems.filter(lambda case: float(case[0].max()) <= 1 and case[0].shape[0] > 1))
@settings(deadline=None, max_examples=25)
def test_converged_plan_equals_pot(case):
    cost, supply, demand = case
    rows, columns = supply > 0, demand > 0
    mass, eps = float(supply.sum()), 0.2
    pot = ot.sinkhorn(
        supply[rows].numpy() / mass, demand[columns].numpy() / mass, cost[rows][:, columns].numpy(), reg=eps,
        method="sinkhorn_log", numItermax=20000, stopThr=1e-12, warn=False,
    )
    plan = solve_transport(cost, supply, demand, eps=eps, tolerance=1e-10).plan()
    np.testing.assert_allclose(plan[rows][:, columns] / mass, pot, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["uniform", "ties", "distances"])
def test_small_eps_approaches_the_linear_programme(kind, seed):
    cost, supply, demand = problem(seed, 7, 90, kind)
    transport = solve_transport(cost, supply, demand, eps=1e-4, tolerance=1e-9)
    exact = ot.emd(supply.numpy(), demand.numpy(), cost.numpy())
    ours = float((transport.plan() * cost).sum())
    # an entropic plan costs at most eps times its entropy more
    assert -1e-7 <= ours - float((exact * cost.numpy()).sum()) <= 1e-4 * 90 * np.log(7)
    if kind != "ties":
        assert (transport.labels().numpy() == exact.argmax(0)).mean() >= 0.93


@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
def test_the_converged_plan_is_the_fixed_point_of_sinkhorn(solve):
    cost, supply, demand = problem(8, 5, 120)
    limits = {"iterations": 4000} if solve is sinkhorn else {"tolerance": 1e-12}
    transport = solve(cost, supply, demand, eps=0.05, **limits)
    expected = literal_sinkhorn(cost, supply, demand, 0.05, 4000)
    np.testing.assert_allclose(transport.plan(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "count, size, kind, scale",
    [(20, 20000, "distances", 10.0), (64, 3000, "uniform", 1.0), (5, 9000, "ties", 1e4), (2, 11, "uniform", 1e4)],
)
def test_converged_at_size(count, size, kind, scale):
    """From 8192 columns on the start comes from a sample of them."""
    cost, supply, demand = problem(4, count, size, kind, scale)
    transport = solve_transport(cost.float(), supply, demand)
    assert transport.converged
    assert transport.row_error <= 1e-4 * float(supply.max())
    assert transport.column_error <= 1e-5


def test_one_supplier_and_one_consumer():
    for solve in (sinkhorn, solve_transport):
        transport = solve(torch.rand(1, 30), torch.tensor([30]), torch.ones(30))
        np.testing.assert_allclose(transport.plan(), np.ones((1, 30)), rtol=2e-4)
        transport = solve(torch.rand(3, 1), torch.tensor([1, 2, 3]), torch.tensor([6]))
        np.testing.assert_allclose(transport.plan()[:, 0], [1, 2, 3], rtol=2e-4)


def test_nothing_to_transport_falls_to_the_nearest_supplier():
    cost = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    transport = solve_transport(cost, torch.zeros(3), torch.zeros(20))
    assert not transport.plan().any() and transport.converged
    assert torch.equal(transport.labels(), cost.argmin(0))
    transport = sinkhorn(cost, torch.zeros(3), torch.zeros(20))
    assert transport.plan().max() < 1e-6 and transport.labels().shape == (20,)


def test_suppliers_without_supply_label_nothing():
    cost, supply, demand = problem(2, 4, 50)
    supply = torch.tensor([20, 0, 30, 0])
    assert set(solve_transport(cost, supply, demand).labels().tolist()) == {0, 2}


def test_a_solver_that_runs_out_of_sweeps_says_so():
    cost, supply, demand = problem(6, 9, 200)
    with pytest.warns(RuntimeWarning, match="misplaced"):
        transport = solve_transport(cost, supply, demand, max_iterations=2)
    assert transport.converged is False
    assert transport.row_error > 1e-6 * float(supply.sum()) / 9
    assert transport.column_error < 1e-9


# --- arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"cost": torch.full((2, 3), float("nan"))}, "NaN or infinite"),
        ({"cost": torch.full((2, 3), float("inf"))}, "NaN or infinite"),
        ({"cost": torch.zeros(0, 3)}, "at least 1"),
        ({"cost": torch.zeros(2, 0)}, "at least 1"),
        ({"cost": torch.zeros(6)}, "shape"),
        ({"supply": torch.tensor([4.0, -1.0])}, "supply must be finite and non-negative"),
        ({"supply": torch.tensor([float("nan"), 1.0])}, "supply must be finite"),
        ({"supply": torch.ones(3)}, "supply must have shape"),
        ({"demand": torch.tensor([4.0, -1.0, 0.0])}, "demand must be finite and non-negative"),
        ({"demand": torch.ones(1, 3)}, "demand must have shape"),
        ({"supply": torch.tensor([1.0, 2.1])}, "supply 3.0999.* and total demand 3 differ"),
        ({"supply": torch.zeros(2)}, "supply 0 and total demand 3 differ"),
        ({"eps": 0.0}, "eps"),
        ({"eps": float("nan")}, "eps"),
    ],
)
def test_bad_arguments(solve, change, message):
    arguments = {"cost": torch.zeros(2, 3), "supply": torch.tensor([1.0, 2.0]), "demand": torch.ones(3)} | change
    with pytest.raises(ValueError, match=message):
        solve(**arguments)


def test_bad_limits():
    case = (torch.zeros(2, 3), torch.tensor([1, 2]), torch.ones(3))
    with pytest.raises(ValueError, match="at least one iteration"):
        sinkhorn(*case, iterations=0)
    with pytest.raises(ValueError, match="tolerance"):
        sinkhorn(*case, tolerance=-1.0)
    with pytest.raises(ValueError, match="tolerance"):
        solve_transport(*case, tolerance=0.0)
    with pytest.raises(ValueError, match="at least one iteration"):
        solve_transport(*case, max_iterations=0)
    with pytest.raises(ValueError, match="1 costs, 2 supplies"):
        sinkhorn_batch([case[0]], [case[1]] * 2, [case[2]])


@pytest.mark.parametrize("solve", [sinkhorn, solve_transport])
def test_no_gradient_and_any_real_type(solve):
    cost = torch.rand(3, 12, requires_grad=True)
    transport = solve(cost, torch.tensor([3, 4, 5]), torch.ones(12, dtype=torch.bool))
    assert not transport.plan().requires_grad and not transport.row_potential.requires_grad
    assert transport.plan().dtype == torch.float32
    assert solve(cost.bfloat16(), torch.tensor([3, 4, 5]), torch.ones(12)).plan().dtype == torch.float32
    strided = torch.rand(12, 3).T
    assert torch.equal(
        solve(strided, torch.tensor([3, 4, 5]), torch.ones(12)).plan(),
        solve(strided.contiguous(), torch.tensor([3, 4, 5]), torch.ones(12)).plan(),
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    cases = [problem(seed, count, size, "distances", scale=10.0) for seed, count, size in ((0, 5, 900), (1, 9, 400))]
    on_device = [[tensor.cuda() for tensor in case] for case in cases]
    for device_plan, case in zip(sinkhorn_batch(*zip(*on_device, strict=True)), cases, strict=True):
        ours = sinkhorn(*case)
        assert device_plan.plan().is_cuda
        np.testing.assert_allclose(device_plan.plan().cpu(), ours.plan(), rtol=1e-6, atol=1e-8)
        assert torch.equal(device_plan.labels().cpu(), ours.labels())
    for device_case, case in zip(on_device, cases, strict=True):
        for options in ({"tolerance": 1e-2, "iterations": 500}, {}):
            solve = sinkhorn if options else solve_transport
            device_plan, ours = solve(*device_case, **options), solve(*case, **options)
            assert device_plan.iterations == ours.iterations
            np.testing.assert_allclose(device_plan.plan().cpu(), ours.plan(), rtol=1e-6, atol=1e-8)
