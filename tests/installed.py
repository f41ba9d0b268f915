"""Where children of a test import from: the package that the test itself imports, and the helpers of the tests.

The package need not be the one beside the tests: a wheel is tested from the unpacked sdist, which has no C core.
"""

import os
from pathlib import Path

import llamaprobe

PACKAGE = Path(llamaprobe.__file__).parent
PLACES = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parent)])
