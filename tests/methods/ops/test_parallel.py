import os
import threading

import pytest
import torch

from methods.ops.parallel import in_threads, one_thread_each


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order(two_threads):
    assert in_threads(lambda a, b: a - b, range(9), range(10, 19)) == [-10] * 9
    assert in_threads(lambda: 1) == []


def test_unequal_arguments_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        in_threads(lambda a, b: a, [1, 2], [1])


def test_an_error_in_a_thread_is_raised(two_threads):
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda a: 1 // a, [1, 0, 2])


def test_operations_take_one_thread_each_meanwhile_and_images_two(two_threads):
    with one_thread_each():
        assert torch.get_num_threads() == 1
        with one_thread_each():
            assert torch.get_num_threads() == 1
        met = threading.Barrier(2)  # passed only by two calls at the same time
        assert len(set(in_threads(lambda _: met.wait(timeout=60), range(2)))) == 2
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), one_thread_each():
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_gets_threads_of_its_own(two_threads):
    assert in_threads(abs, [-1, -2]) == [1, 2]
    child = os.fork()
    if child == 0:
        os._exit(0 if in_threads(abs, [-3, -4]) == [3, 4] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
