"""Where the pytest plugin puts the contracts of the backends that are named on the command line.

pytest --pyargs metriplex.testing --metriplex-backend NAME
"""
