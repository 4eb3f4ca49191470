"""Floor 7: opens a site's folder and hands its parts out, configured."""

from secguard.workspace.config import Config, load_config
from secguard.workspace.site import create_site
from secguard.workspace.workspace import Workspace

__all__ = ["Config", "Workspace", "create_site", "load_config"]
