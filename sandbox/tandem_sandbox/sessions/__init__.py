"""Sessions: Jupyter kernels that wait in containers for cells."""
