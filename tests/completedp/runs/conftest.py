"""Makes `toy_tasks` importable here as it is in a worker."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
