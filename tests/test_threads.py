import threading

import pytest

from xconsensus.threads import ahead


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
