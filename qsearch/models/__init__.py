"""Networks that workloads need and no library gives."""
