"""Values of every wrong type, and calls with each of them in the place of each argument."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import llamaprobe as lp

WRONG: tuple[Any, ...] = (
    *(3, -1, 0, True, 1 << 70, -(1 << 70), 10**5000, 1.5, float("nan"), float("inf"), 1e300, 1j),
    *(
        None,
        "",
        "a",
        "all",
        "\ud800",
        "x\n",
        b"a",
        [],
        [1, "a"],
        [[1], [1, 2]],
        [None],
        (),
        (1, 2, 3),
    ),
    *(
        {},
        {"a": 1},
        {1},
        object(),
        range(3),
        slice("a", None),
        slice(None, None, 0),
        ...,
        lambda *any: None,
    ),
    *(np.int64(2), np.float32(1.5), np.zeros(2), np.zeros((2, 2)), np.array(3), np.array("a")),
    *(np.arange(3), np.array([True, False]), np.ma.masked_array([1.0, 2.0], [True, False])),
)


def faults_of(call: Callable[..., Any], good: dict[str, Any]) -> list[str]:
    """Where anything but an error of llamaprobe, on one line, comes out of `call`."""
    call(**good)
    faults = []
    for argument in good:
        for wrong in WRONG:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    call(**{**good, argument: wrong})
                except lp.Error as error:
                    assert str(error) and "\n" not in str(error)
                except (Exception, Warning) as error:
                    shown = "huge" if isinstance(wrong, int) and wrong > 1 << 80 else repr(wrong)
                    faults.append(f"{argument}={shown}: {type(error).__name__}: {error}")
    return faults
