"""Calls in another thread, and interrupts while they are awaited."""

import itertools
import sys
import time
from functools import partial

import pytest

from skipae import worker as module
from skipae.worker import Worker


def interrupted(function, instruction):
    """Call a function, with an interrupt before an instruction of the module; return whether it got that far."""
    count, before = 0, sys.gettrace()

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        if count == instruction:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_calls_return_and_raise_in_order():
    found: list[int] = []
    with Worker("test") as worker:
        calls = [worker.submit(partial(found.append, k)) for k in range(5)]
        failing = worker.submit(partial(int, "no number"))
        assert [call.result() for call in calls] == [None] * 5
        with pytest.raises(ValueError, match="no number"):
            failing.result()
        slow = worker.submit(partial(time.sleep, 0.3))
        assert not slow.wait(0) and not slow.wait(0.01)
        after = worker.submit(partial(found.append, 5))
    assert slow.wait(0) and after.wait(0) and found == [0, 1, 2, 3, 4, 5]


def test_an_interrupt_at_any_instruction_leaves_no_lock_closed():
    with Worker("test") as worker:
        for instruction in itertools.count(1):
            call = worker.submit(partial(time.sleep, 0.002))
            reached = interrupted(call.result, instruction)
            assert call.wait(20) and call.result() is None, f"the call never ends, instruction {instruction}"
            reached |= interrupted(lambda: worker.submit(int).result(), instruction)
            assert worker.submit(int).wait(20), f"the worker never ends, instruction {instruction}"
            if not reached:
                break
    assert instruction > 40
