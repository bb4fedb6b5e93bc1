"""What is wrong in a run, how bad it is, which code causes it, and what to do: rules that read the statistics.

``verdict.verdict(statistics)`` applies every rule. A rule is a function that takes a ``scope.Scope`` (one process) and
yields findings; it changes nothing. Its thresholds are in ``thresholds``, its page is in docs/findings/.
"""
