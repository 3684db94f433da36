"""Files that are made from the RLJob types: the CRD and the reference page."""
