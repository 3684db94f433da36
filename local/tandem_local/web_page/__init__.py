"""Opening the page of a job: of one that runs here, that ran here, or that runs on a cluster."""
