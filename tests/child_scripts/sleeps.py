"""For test_template: a child that never answers."""

import time


def answer(request):
    for _ in range(1000):
        time.sleep(0.1)
