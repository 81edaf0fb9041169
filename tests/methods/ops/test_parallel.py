import os
import threading

import pytest
import torch

from methods.ops.parallel import _pool, in_threads, one_thread_each, threads_for_calls


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order():
    assert in_threads(lambda a, b: a - b, range(9), range(10, 19)) == [-10] * 9
    assert in_threads(lambda: 1) == []


def test_unequal_arguments_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        in_threads(lambda a, b: a, [1, 2], [1])


def test_an_error_is_raised_when_all_calls_have_ended():
    ended = []

    def call(number):
        if number == 0:
            raise ZeroDivisionError
        threading.Event().wait(0.2)
        ended.append(number)

    with pytest.raises(ZeroDivisionError):
        in_threads(call, range(3))
    assert sorted(ended) == [1, 2]


@pytest.mark.parametrize("first_inside", [True, False])
def test_threads_of_the_pool_compute_with_one_thread_each(first_inside):
    """Wherever the pool was first asked for; two calls meet, so that there are two threads."""
    _pool.cache_clear()
    met = threading.Barrier(2)

    def call(_):
        met.wait(timeout=60)
        return threading.get_ident(), torch.get_num_threads()

    def inside():
        with one_thread_each():
            assert torch.get_num_threads() == 1 and threads_for_calls() == 2
            return in_threads(call, range(2))

    def outside():
        return in_threads(call, range(2))

    for ask in (inside, outside) if first_inside else (outside, inside):
        threads, counts = zip(*ask(), strict=True)
        assert len(set(threads)) == 2 and set(counts) == {1}
    assert torch.get_num_threads() == threads_for_calls() == 2


def test_operations_take_one_thread_until_the_end_also_after_an_error():
    with one_thread_each(), one_thread_each():
        assert torch.get_num_threads() == 1
    with pytest.raises(KeyError), one_thread_each():
        raise KeyError
    assert torch.get_num_threads() == 2


def test_calls_within_a_call_follow_one_another():
    assert in_threads(lambda a: in_threads(abs, [a, -a]), [1, 2]) == [[1, 1], [2, 2]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_gets_threads_of_its_own():
    assert in_threads(abs, [-1, -2]) == [1, 2]
    with one_thread_each():
        child = os.fork()
        if child == 0:
            os._exit(0 if in_threads(abs, [-3, -4]) == [3, 4] and threads_for_calls() == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
