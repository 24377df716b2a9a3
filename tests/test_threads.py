import threading

import pytest
import torch

from xconsensus.threads import ahead, at_once


def test_results_come_in_order() -> None:
    assert list(ahead(lambda n: n**2, range(5))) == [n**2 for n in range(5)]
    assert list(ahead(str, [])) == []


def test_an_error_in_the_thread_is_raised() -> None:
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


def test_at_once_keeps_the_order_and_gives_torch_its_threads_back() -> None:
    before = torch.get_num_threads()
    seen = []

    def square(item: int) -> int:
        seen.append(torch.get_num_threads())
        return item * item

    assert at_once(square, range(20)) == [item * item for item in range(20)]
    assert seen == [1] * 20
    with pytest.raises(ZeroDivisionError):
        at_once(lambda item: 1 // item, [1, 0, 2])
    assert torch.get_num_threads() == before
