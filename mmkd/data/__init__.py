"""Data of many peers: whose samples are whose, and which all can see."""
