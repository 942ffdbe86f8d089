"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
LEADERBOARD = ROOT / "results" / "leaderboard"
