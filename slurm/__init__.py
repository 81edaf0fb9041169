"""SLURM: a launcher on submitit, profiles of clusters, and a real one-machine cluster for tests (``local_cluster.sh``)."""
