"""The MLflow view of a root's studies and trained plans. MLflow is imported on use, not with the package."""

from completedp.tracking.run_view import RunView
from completedp.tracking.server import serve
from completedp.tracking.tracker import Tracker, track
from completedp.tracking.view import SyncResult

__all__ = ["RunView", "SyncResult", "Tracker", "serve", "track"]
