"""The leaderboard as a folder of static pages: no network, no scripts from elsewhere, opened from the file system."""

from bench.report.site.build import Built, build

__all__ = ["Built", "build"]
