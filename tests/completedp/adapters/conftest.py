import sys
from pathlib import Path

# The models that the tests share are a plain module beside them.
sys.path.insert(0, str(Path(__file__).parent))
