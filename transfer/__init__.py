"""Carry a recipe to a scale and measure the result: `plan`, `export`, `speedup` and `transfer_check`.

Importing the package is light: every function imports what it needs when it is called.
"""

from transfer.api import export as export
from transfer.api import plan as plan
from transfer.api import speedup as speedup
from transfer.api import transfer_check as transfer_check
