"""What scales a recipe and measures the scaling: `plan`, `export`, `speedup` and `transfer_check`.

Importing the package is light: every function imports what it needs when it is called.
"""

from transfer.api import export as export
from transfer.api import plan as plan
