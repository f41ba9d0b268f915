"""For test_template: a child with a long reply."""


def answer(request):
    return "x" * (2 << 20)
