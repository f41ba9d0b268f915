"""For test_template: a child that ends itself."""

import os


def answer(request):
    os._exit(3)
