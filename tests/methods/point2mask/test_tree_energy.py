import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree

from methods.point2mask.spanning_tree import spanning_tree, spanning_trees
from methods.point2mask.tree_energy import tree_energy_loss, tree_filter, tree_filter_batch
from methods.point2mask.tree_sweeps import CompiledSweeps, DoublingSweeps


def grid_edges(image):
    """(from, to, weight) of the 4-connected grid, by loops, in float64."""
    _, height, width = image.shape
    values = image.double().numpy()
    found = []
    for row in range(height):
        for col in range(width):
            for down, right in ((0, 1), (1, 0)):
                if row + down < height and col + right < width:
                    squared = ((values[:, row, col] - values[:, row + down, col + right]) ** 2).sum()
                    found.append((row * width + col, (row + down) * width + col + right, squared))
    start, end, weight = zip(*found, strict=True) if found else ((), (), ())
    return np.array(start, dtype=int), np.array(end, dtype=int), np.array(weight, dtype=float)


def scipy_tree(image):
    """(from, to, weight) of SciPy's tree. A zero weight is no edge there, so 1 is added; that does not change the tree."""
    count = image[0].numel()
    start, end, weight = grid_edges(image)
    tree = coo_matrix(minimum_spanning_tree(csr_matrix((weight + 1, (start, end)), shape=(count, count))))
    return tree.row, tree.col, tree.data - 1


def dense_affinity(start, end, weight, count, sigma):
    """(count, count) affinities from path lengths on the tree."""
    graph = csr_matrix((weight, (start, end)), shape=(count, count))  # explicit zeros stay edges for Dijkstra
    return np.exp(-dijkstra(graph, directed=False) / sigma)


def dense_filter(probs, affinity):
    values = probs.double().flatten(1).numpy()
    return torch.from_numpy(values @ affinity / affinity.sum(axis=0)).view(probs.shape)


def links_of(tree):
    """(from, to, weight) of a `SpanningTree`."""
    cells, parents = tree.cells.long(), tree.parents.long()
    return cells[1:].numpy(), cells[parents[1:]].numpy(), tree.squared_distances[1:].double().numpy()


def link_set(start, end, weight):
    return {(min(a, b), max(a, b)) for a, b in zip(start.tolist(), end.tolist(), strict=True)}


def random_image(seed, height, width, channels=3, dtype=torch.float64, levels=None):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(channels, height, width, generator=generator, dtype=dtype)
    return image if levels is None else (image * levels).floor() / levels


def random_probs(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).softmax(dim=-3)


images = st.builds(
    random_image,
    seed=st.integers(0, 2**31),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    levels=st.sampled_from([None, 1, 3]),  # 1: a constant image, 3: many ties and zero weights
)


# --- the tree ---------------------------------------------------------------------------------------------------------


@given(images)
@settings(deadline=None, max_examples=50)
def test_the_tree_spans_the_grid_parents_first_with_the_weights_of_the_image(image):
    tree = spanning_tree(image)
    height, width = image.shape[1:]
    count = height * width
    assert tree.size == (height, width) and tree.squared_distances.dtype == image.dtype
    assert tree.cells[0] == 0 and tree.squared_distances[0] == 0
    assert sorted(tree.cells.tolist()) == list(range(count))
    assert tree.parents[0] == 0 and all(parent < place for place, parent in enumerate(tree.parents.tolist()) if place)
    start, end, weight = links_of(tree)
    steps = abs(start // width - end // width) + abs(start % width - end % width)
    assert (steps == 1).all()
    expected = {(a, b): w for a, b, w in zip(*grid_edges(image), strict=True)}
    for a, b, w in zip(start, end, weight, strict=True):
        assert w == pytest.approx(expected[min(a, b), max(a, b)], rel=1e-5, abs=1e-12)
    depths = [0]
    for parent in tree.parents[1:].tolist():
        depths.append(depths[parent] + 1)
    assert tree.depth == max(depths)


@given(images)
@settings(deadline=None, max_examples=50)
def test_the_total_weight_is_that_of_scipy(image):
    total = float(spanning_tree(image).squared_distances.double().sum())
    assert total == pytest.approx(scipy_tree(image)[2].sum(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_links_are_those_of_scipy_on_a_larger_image(dtype):
    image = random_image(3, 40, 57, dtype=dtype)
    assert link_set(*links_of(spanning_tree(image))) == link_set(*scipy_tree(image))


def test_double_precision_images_are_told_apart_below_single_precision():
    # the dearest edge is the one from 1 to 3, by 2e-12; in single precision all are equal and it would come before (2, 3)
    image = torch.tensor([[[0.0, 1.0], [1.0 + 1e-12, 2.0 + 4e-12]]], dtype=torch.float64)
    assert link_set(*links_of(spanning_tree(image))) == {(0, 1), (0, 2), (2, 3)}
    assert link_set(*links_of(spanning_tree(image.float()))) == {(0, 1), (0, 2), (1, 3)}


def test_ties_take_the_first_cell_and_right_before_down():
    tree = spanning_tree(torch.zeros(3, 2, 2))
    assert link_set(*links_of(tree)) == {(0, 1), (0, 2), (1, 3)}
    again = spanning_tree(torch.zeros(3, 2, 2))
    assert torch.equal(tree.cells, again.cells) and torch.equal(tree.parents, again.parents)


def test_a_single_cell_has_a_tree():
    tree = spanning_tree(torch.ones(3, 1, 1))
    assert tree.cells.tolist() == [0] and tree.depth == 0
    probs = random_probs(0, 4, 1, 1)
    torch.testing.assert_close(tree_filter(probs, None, 0.02, tree=tree), probs)


def test_half_precision_and_integer_images_are_read_as_float32():
    image = torch.randint(0, 250, (3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = spanning_tree(image.float()).squared_distances
    for same in (image, image.half(), image.bfloat16()):  # whole numbers up to 256 are exact in all of them
        assert torch.equal(spanning_tree(same).squared_distances, expected)


def test_trees_survive_pickling():
    tree = spanning_tree(random_image(0, 5, 6, dtype=torch.float32))
    copy = pickle.loads(pickle.dumps(tree))
    assert copy.size == tree.size and copy.depth == tree.depth
    for name in ("cells", "parents", "squared_distances"):
        assert torch.equal(getattr(copy, name), getattr(tree, name))


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.full((3, 4, 4), torch.nan), "NaN"),
        (torch.full((3, 4, 4), torch.inf), "infinite"),
        (torch.zeros(4, 4), "shape"),
        (torch.zeros(3, 0, 4), "shape"),
    ],
)
def test_bad_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        spanning_tree(image)


@pytest.mark.parametrize("sizes, message", [([(4, 5)], "sizes"), ([(4, 5), (5, 5)], "fit"), ([(4, 5), (0, 2)], "fit")])
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        spanning_trees(torch.zeros(2, 3, 4, 5), sizes)


# --- the filter -------------------------------------------------------------------------------------------------------


@given(images, st.integers(1, 5), st.sampled_from([0.02, 0.3, 5.0]))
@settings(deadline=None, max_examples=50)
def test_equals_the_dense_matrix_of_its_tree(image, classes, sigma):
    tree = spanning_tree(image)
    probs = random_probs(1, classes, *tree.size)
    affinity = dense_affinity(*links_of(tree), tree.cells.numel(), sigma)
    torch.testing.assert_close(tree_filter(probs, image, sigma), dense_filter(probs, affinity), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (1, 300), (120, 3), (20, 31)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-10)])
def test_equals_the_dense_matrix_of_the_scipy_tree(size, dtype, tolerance):
    image = random_image(2, *size, dtype=dtype)
    probs = random_probs(3, 5, *size, dtype=dtype)
    affinity = dense_affinity(*scipy_tree(image), size[0] * size[1], 0.1)
    filtered = tree_filter(probs, image, 0.1)
    assert filtered.dtype == dtype
    torch.testing.assert_close(filtered.double(), dense_filter(probs, affinity), rtol=tolerance, atol=tolerance)


@given(images, st.sampled_from([1e-12, 0.02, 1e6]))
@settings(deadline=None, max_examples=40)
def test_constants_stay_and_probabilities_stay_probabilities(image, sigma):
    size = image.shape[1:]
    torch.testing.assert_close(tree_filter(torch.full((2, *size), 0.3), image, sigma), torch.full((2, *size), 0.3))
    filtered = tree_filter(random_probs(0, 4, *size, dtype=torch.float32), image, sigma)
    torch.testing.assert_close(filtered.sum(dim=0), torch.ones(*size))
    assert filtered.min() >= 0


def test_a_constant_image_gives_the_mean_and_a_tiny_sigma_nothing():
    probs = random_probs(0, 3, 6, 7)
    mean = probs.mean(dim=(1, 2), keepdim=True).expand_as(probs)
    torch.testing.assert_close(tree_filter(probs, torch.zeros(3, 6, 7), 0.02), mean)
    torch.testing.assert_close(tree_filter(probs, random_image(0, 6, 7), 1e-300), probs)


def test_the_filter_does_not_cross_a_strong_edge():
    image = torch.zeros(1, 5, 8)
    image[:, :, 4:] = 3.0
    probs = torch.zeros(1, 5, 8)
    probs[:, :, 4:] = 1.0
    torch.testing.assert_close(tree_filter(probs, image, 0.02), probs)


def test_gradient_by_finite_differences():
    image = random_image(5, 4, 5)
    probs = random_probs(6, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: tree_filter(p, image, 0.1), (probs,))


def test_gradient_is_the_transposed_dense_matrix():
    image, probs = random_image(5, 7, 6), random_probs(6, 3, 7, 6).requires_grad_()
    affinity = dense_affinity(*scipy_tree(image), 42, 0.1)
    upstream = torch.randn(3, 7, 6, dtype=torch.float64)
    tree_filter(probs, image, 0.1).backward(upstream)
    expected = upstream.flatten(1).numpy() @ (affinity / affinity.sum(axis=0)).T
    torch.testing.assert_close(probs.grad, torch.from_numpy(expected).view(3, 7, 6))


def test_non_contiguous_tensors_give_the_same():
    image, probs = random_image(0, 9, 7), random_probs(1, 4, 9, 7)
    expected = tree_filter(probs, image, 0.1)
    strided = probs.permute(1, 2, 0).contiguous().permute(2, 0, 1).requires_grad_()
    result = tree_filter(strided, image.flip(1).contiguous().flip(1).permute(0, 2, 1).contiguous().permute(0, 2, 1), 0.1)
    assert torch.equal(result, expected)
    result[:, ::2].square().sum().backward()  # a strided gradient
    plain = probs.clone().requires_grad_()
    tree_filter(plain, image, 0.1)[:, ::2].square().sum().backward()
    assert torch.equal(strided.grad, plain.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_filtered_in_float32_also_under_autocast(dtype):
    image, probs = random_image(0, 9, 7), random_probs(1, 4, 9, 7, dtype=torch.float32).to(dtype).requires_grad_()
    expected = tree_filter(probs.detach().float(), image, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = tree_filter(probs, image, 0.1)
    assert torch.equal(result, expected)
    result.sum().backward()
    assert probs.grad.dtype == dtype and probs.grad.isfinite().all()


def test_bad_input_is_refused():
    image, probs = torch.rand(3, 4, 5), random_probs(0, 2, 4, 5)
    tree = spanning_tree(image)
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma"):
            tree_filter(probs, image, sigma)
    with pytest.raises(ValueError, match="different grids"):
        tree_filter(probs, torch.rand(3, 5, 4), 0.02)
    with pytest.raises(ValueError, match="shape"):
        tree_filter(probs[None], image, 0.02)
    with pytest.raises(ValueError, match="neither"):
        tree_filter(probs, None, 0.02)
    with pytest.raises(ValueError, match="spanning tree has"):
        tree_filter(probs[:, :3], None, 0.02, tree=tree)
    with pytest.raises(ValueError, match="NaN"):
        tree_filter(probs, image / 0 * 0, 0.02)
    with pytest.raises(ValueError, match="float tensors"):
        tree_filter(torch.zeros(2, 4, 5, dtype=torch.int64), image, 0.02)
    with pytest.raises(ValueError, match="1 spanning trees for 2"):
        tree_filter_batch(probs[None].expand(2, -1, -1, -1), [tree], 0.02)
    with pytest.raises(ValueError, match="more than the grid"):
        tree_filter_batch(probs[None, :, :3], [tree], 0.02)


# --- batches ----------------------------------------------------------------------------------------------------------

SIZES = [(6, 9), (8, 7), (8, 9), (1, 1)]


def padded_batch(dtype=torch.float64):
    images = torch.stack([random_image(i, 8, 9, dtype=dtype) for i in range(len(SIZES))])
    return images, random_probs(9, len(SIZES), 4, 8, 9, dtype=dtype)


def test_padding_has_no_influence():
    images, probs = padded_batch()
    for image, (h, w) in zip(images, SIZES, strict=True):
        image[:, h:], image[:, :, w:] = torch.nan, torch.nan
    probs = probs.requires_grad_()
    filtered = tree_filter_batch(probs, spanning_trees(images, SIZES), 0.1)
    upstream = torch.randn(filtered.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(filtered, probs, upstream)
    for i, (h, w) in enumerate(SIZES):
        cropped = probs[i, :, :h, :w].detach().requires_grad_()
        alone = tree_filter(cropped, images[i, :, :h, :w], 0.1)
        torch.testing.assert_close(filtered[i, :, :h, :w], alone)
        alone.backward(upstream[i, :, :h, :w])
        torch.testing.assert_close(gradient[i, :, :h, :w], cropped.grad)
        outside = torch.ones(8, 9, dtype=torch.bool)
        outside[:h, :w] = False
        assert (filtered[i][:, outside] == 0).all() and (gradient[i][:, outside] == 0).all()


def test_threads_do_not_change_the_result():
    images, probs = padded_batch(torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(tree_filter_batch(probs, spanning_trees(images, SIZES), 0.1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_tensor_operations_for_other_devices_equal_the_compiled_sweeps(sigma, transposed):
    images, probs = padded_batch()
    trees = spanning_trees(images, SIZES)
    compiled, doubling = (make(trees, sigma, probs)(probs, transposed) for make in (CompiledSweeps, DoublingSweeps))
    torch.testing.assert_close(doubling, compiled, rtol=1e-10, atol=1e-13)


def test_the_tensor_operations_reach_through_deep_trees():
    image = 0.01 * torch.rand(3, 1, 777, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs, trees = random_probs(0, 1, 2, 1, 777), [spanning_tree(image)]
    assert trees[0].depth == 776
    affinity = dense_affinity(*links_of(trees[0]), 777, 1.0)
    torch.testing.assert_close(DoublingSweeps(trees, 1.0, probs)(probs)[0], dense_filter(probs[0], affinity))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_the_cpu():
    images, probs = padded_batch(torch.float32)
    trees = spanning_trees(images, SIZES)
    on_cpu, on_gpu = probs.clone().requires_grad_(), probs.cuda().requires_grad_()
    pairs = ((on_cpu, trees), (on_gpu, spanning_trees(images.cuda(), SIZES)))
    losses = [tree_energy_loss(p, t, None, 0.1) for p, t in pairs]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1].cpu(), losses[0])
    torch.testing.assert_close(on_gpu.grad.cpu(), on_cpu.grad, rtol=1e-4, atol=1e-7)
    moved = [tree.to("cuda") for tree in trees]
    torch.testing.assert_close(tree_filter_batch(on_gpu, moved, 0.1).cpu(), tree_filter_batch(on_cpu, trees, 0.1))


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sum_over", ["all", "unlabelled"])
@pytest.mark.parametrize("divide_by", ["all", "unlabelled"])
def test_which_cells_are_summed_and_counted(sum_over, divide_by):
    images, probs = padded_batch()
    labelled = torch.rand(len(SIZES), 8, 9, generator=torch.Generator().manual_seed(1)) < 0.3
    total, count = 0.0, 0
    for i, (h, w) in enumerate(SIZES):
        cropped = probs[i, :, :h, :w]
        change = (cropped - tree_filter(cropped, images[i, :, :h, :w], 0.1)).abs().sum(dim=0)
        free = ~labelled[i, :h, :w]
        total += float((change if sum_over == "all" else change[free]).sum())
        count += h * w if divide_by == "all" else int(free.sum())
    trees = spanning_trees(images, SIZES)
    loss = tree_energy_loss(probs, trees, labelled, 0.1, sum_over=sum_over, divide_by=divide_by)
    assert loss.item() == pytest.approx(total / count, rel=1e-6)
    if sum_over == divide_by == "all":
        assert torch.equal(tree_energy_loss(probs, trees, None, 0.1), loss)


def test_the_gradient_of_the_loss_by_finite_differences():
    images, probs = padded_batch()
    trees = spanning_trees(images[:2, :, :4, :4], [(3, 4), (4, 3)])
    probs = probs[:2, :, :4, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: tree_energy_loss(p, trees, None, 0.5), (probs,))


def test_padded_probabilities_of_any_value_do_not_reach_the_gradient():
    images, probs = padded_batch()
    trees = spanning_trees(images, SIZES)
    expected = tree_energy_loss(probs, trees, None, 0.1)
    for row, (h, w) in zip(probs, SIZES, strict=True):
        row[:, h:], row[:, :, w:] = torch.nan, torch.nan
    probs.requires_grad_()
    loss = tree_energy_loss(probs, trees, None, 0.1)
    loss.backward()
    assert torch.equal(loss, expected) and probs.grad.isfinite().all()


def test_a_batch_without_unlabelled_cells_is_divided_by_one():
    images, probs = padded_batch()
    trees, labelled = spanning_trees(images, SIZES), torch.ones(len(SIZES), 8, 9, dtype=torch.bool)
    assert tree_energy_loss(probs, trees, labelled, 0.1, sum_over="unlabelled", divide_by="unlabelled") == 0
    cells = sum(h * w for h, w in SIZES)
    by_one = tree_energy_loss(probs, trees, labelled, 0.1, divide_by="unlabelled")
    assert by_one.item() == pytest.approx(cells * tree_energy_loss(probs, trees, None, 0.1).item(), rel=1e-6)


def test_bad_options_of_the_loss_are_refused():
    images, probs = padded_batch()
    trees = spanning_trees(images, SIZES)
    with pytest.raises(ValueError, match="sum_over 'labelled'"):
        tree_energy_loss(probs, trees, sum_over="labelled")
    with pytest.raises(ValueError, match="needs the mask"):
        tree_energy_loss(probs, trees, divide_by="unlabelled")
    with pytest.raises(ValueError, match="must be bool"):
        tree_energy_loss(probs, trees, torch.zeros(4, 8, 9), divide_by="unlabelled")
    with pytest.raises(ValueError, match="must be bool"):
        tree_energy_loss(probs, trees, torch.zeros(4, 9, 8, dtype=torch.bool), divide_by="unlabelled")
