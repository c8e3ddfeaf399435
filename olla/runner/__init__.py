"""The process boundary: the daemon's handles on its runners, and what both sides say."""
