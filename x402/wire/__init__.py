"""What crosses the network: shapes and limits. v1 is translated at this door and exists nowhere else."""
