"""The words all parts of Tandem share: RLJob types, phases, coordination, weight manifests, metric names."""
