import sys
from pathlib import Path

# The tests share the models of a plain module, `external_models`.
sys.path.insert(0, str(Path(__file__).parent))
