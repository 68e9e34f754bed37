"""Random moments at which a process is ended: by the clock, or by what happens to files."""

import time

from files import Events


def end_at_random(start, folder, number, random, length):
    """Start a process, and send it a signal at a random moment, unless it is at its end before.

    Args:
        start: gives the process, which has `poll()`, `send(signal)` and `wait()`.
        folder: whose files tell how far it is.
        number: of the signal.
        random: draws the moment.
        length: of the process when it is let alone: in seconds, and in events of files.

    Returns:
        The process, which has ended, and how the moment was chosen.
    """
    seconds, count = length
    moment = random.choice(("by the clock", "by a file"))
    with Events(folder) as events:
        process = start()
        if moment == "by the clock":
            time.sleep(random.uniform(0, seconds))
        else:
            wanted, latest = random.randint(1, count), time.monotonic() + 1.5 * seconds
            while events.count < wanted and process.poll() is None and time.monotonic() < latest:
                events.wait(wanted, 0.02)
            time.sleep(random.choice((0, 0, random.uniform(0, 0.003))))
        process.send(number)
        process.wait()
    return process, moment


def let_alone(start, folder):
    """Run a process to its end; the process, and its length as `end_at_random` takes it."""
    with Events(folder) as events:
        begun, process = time.monotonic(), start()
        while process.poll() is None:
            events.wait(events.count + 1, 0.05)
        return process, (time.monotonic() - begun, events.count)
