"""Adapters to training libraries, one module each; importing one brings nothing else along."""
