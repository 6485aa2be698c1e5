"""Which teacher helps whom: influence, and how it is drawn."""
