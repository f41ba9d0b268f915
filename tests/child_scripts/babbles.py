"""For test_template: a child that writes what is not a reply."""

import os


def answer(request):
    os.write(1, b"[1]")
    os._exit(0)
