"""What the operator knows of a job: from the watches of Kubernetes, and from etcd."""
