"""Images: root file systems that containers share read-only."""
