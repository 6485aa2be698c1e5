"""Work on the machines of a cluster, which Ray places and starts again."""
