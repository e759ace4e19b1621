"""Adapters to training libraries, one module per library; each imports only its own library."""
