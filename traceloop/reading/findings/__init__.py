"""What is wrong in a run, how bad it is, whose doing it is, and what to do: rules over the statistics.

``verdict.verdict(statistics)`` applies every rule. A rule is a function from a ``scope.Scope`` (one process) to
findings; it reads statistics and changes nothing. Its thresholds stand in ``thresholds``, its page in docs/findings/.
"""
