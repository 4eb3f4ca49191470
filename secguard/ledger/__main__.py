"""`python -m secguard.ledger ROOT`: integrate the journal of a log beside its busy writer; says nothing."""

import contextlib
import os
import sys
from pathlib import Path

from secguard.core.errors import SecguardError
from secguard.ledger.integrate import catch_up

if __name__ == "__main__":
    os.nice(10)  # the writer's acknowledgements come first
    with contextlib.suppress(SecguardError):  # the writer meets the same trouble, and tells it
        catch_up(Path(sys.argv[1]))
