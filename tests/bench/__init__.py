"""Measurements of the real command. They print figures and assert nothing."""
