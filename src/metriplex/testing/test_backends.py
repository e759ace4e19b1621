"""Module into which the pytest plugin puts the contracts of the backends on the command line.

pytest --pyargs metriplex.testing --metriplex-backend NAME
"""
