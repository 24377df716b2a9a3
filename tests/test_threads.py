import threading

import pytest
import torch

from xconsensus.threads import ahead, in_threads


def test_results_come_in_order_whatever_the_threads() -> None:
    before = torch.get_num_threads()
    assert list(in_threads(lambda n: n**2, range(9))) == [n**2 for n in range(9)]
    assert torch.get_num_threads() == before
    assert list(ahead(lambda n: n**2, range(5))) == [n**2 for n in range(5)]
    assert list(ahead(str, [])) == []


def test_threads_of_torch_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda n: 1 // n, range(3)))
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda n: 1 // n, [1, 0]))


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def make(number: int) -> int:
        made[number].set()
        return number

    for number in ahead(make, range(3)):
        if number + 1 < len(made):
            assert made[number + 1].wait(10)
