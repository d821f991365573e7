"""Names shared by all rooms.

Shapes: N nodes, U users, I items, E training edges, D dims, T text dims, B batch, P ranks.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

NodeId: TypeAlias = int  # global id: users in [0, U), items in [U, U + I)
Rank: TypeAlias = int
Row: TypeAlias = int  # position of a node in the table, after the partition's permutation

IntArray: TypeAlias = NDArray[np.int64]
Int32Array: TypeAlias = NDArray[np.int32]
IndexArray: TypeAlias = IntArray | Int32Array
FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

Say: TypeAlias = Callable[[str], None]
"""Takes one line at a time of what is done, for whoever watches."""
