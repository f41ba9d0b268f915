"""For test_template: a child that dies."""

import os
import signal


def answer(request):
    os.kill(os.getpid(), signal.SIGSEGV)
