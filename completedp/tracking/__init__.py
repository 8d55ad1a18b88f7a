"""The MLflow view of a root's studies. MLflow is imported on use, never with the package."""

from completedp.tracking.server import serve
from completedp.tracking.tracker import Tracker, track
from completedp.tracking.view import Synced

__all__ = ["Synced", "Tracker", "serve", "track"]
