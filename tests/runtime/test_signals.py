import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from mmrlhf_jax.runtime.signals import INTERRUPTED, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_a_request(number, capfd):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) is before
    assert "once more stops at once" in capfd.readouterr().err


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_second_signal_ends_the_process():
    code = """
        import os, signal
        from mmrlhf_jax.runtime.signals import StopRequest
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            print(stop.requested, flush=True)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                print("still here", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "True\n")


def test_outside_the_main_thread_it_is_passive():
    before = signal.getsignal(signal.SIGTERM)
    requested = []

    def work():
        with StopRequest() as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_exit_status_is_that_of_a_temporary_failure():
    assert INTERRUPTED == os.EX_TEMPFAIL
