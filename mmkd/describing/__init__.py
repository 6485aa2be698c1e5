"""A description of data before anything trains on them: who owns what, and what students will see."""
