"""What the compiler of the request path (mypyc, setup.py) has to know of a class; without it, nothing.

`mypyc_attr(free_list_len=1)`: the memory of the class's newest freed instance is kept for the next one, cleared of all
its attributes by the compiler. For what is made once in every request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

__all__ = ("mypyc_attr",)

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr  # the compiler knows it by this name
else:

    def mypyc_attr(**_options: int) -> Callable[[type], type]:
        """Change nothing: compiled classes have it from the compiler."""
        return lambda made: made
