import io

from mmrlhf_jax.runtime.progress import Progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(total, seconds, *, initial=0, metrics=None):
    """The lines of a loop whose every step takes `seconds`."""
    clock, stream = Clock(), io.StringIO()
    with Progress(total, "sft", initial=initial, stream=stream, clock=clock) as progress:
        for step in range(initial + 1, total + 1):
            clock.now += seconds
            progress.update(step, metrics)
    return stream.getvalue().splitlines()


def test_a_fast_loop_prints_every_tenth():
    lines = run(1000, 0.001)
    assert [line.split()[1] for line in lines] == [f"{step}/1000" for step in range(100, 1001, 100)]


def test_a_slow_loop_prints_every_ten_seconds():
    lines = run(100, 4.0)
    assert [line.split()[1] for line in lines[:3]] == ["3/100", "6/100", "9/100"]
    assert lines[-1].startswith("sft  100/100  100%")


def test_rate_and_time_left():
    lines = run(100, 0.25, metrics={"loss": 2.3123456, "a": 1, "b": 2, "c": 3})
    # 4 steps a second; the first step, which compiles, is left out of the rate
    assert lines[0] == "sft  10/100  10%  4.0 it/s  eta 22s  loss 2.312  a 1  b 2"
    assert run(10, 20.0)[1] == "sft  2/10  20%  0.05 it/s  eta 160s"


def test_a_resumed_loop_counts_its_own_steps():
    lines = run(100, 1.0, initial=90)
    assert lines[0] == "sft  100/100  100%  1.0 it/s  eta 0s"
    assert len(lines) == 1


def test_slow_first_step_does_not_count():
    clock, stream = Clock(), io.StringIO()
    with Progress(10, "rl", stream=stream, clock=clock) as progress:
        clock.now = 60.0  # compilation
        progress.update(1, {"objective/kl": 0.5})
        clock.now = 62.0
        progress.update(2)
    assert stream.getvalue() == "rl  1/10  10%  objective/kl 0.5\nrl  2/10  20%  0.5 it/s  eta 16s\n"


def test_a_terminal_gets_a_bar():
    stream, clock = Terminal(), Clock()
    with Progress(4, "sft", stream=stream, clock=clock) as progress:
        for step in (1, 2):
            clock.now += 1
            progress.update(step, {"loss": 2.5})
    assert "sft" in stream.getvalue()
    assert "2/4  50%  1.0 it/s  eta 2s  loss 2.5" in stream.getvalue()


def test_nothing_to_do():
    assert run(0, 1.0) == []
