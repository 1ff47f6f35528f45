"""The chaos suite: a cluster of real processes, faults at random moments, and a verdict.

`workload` says what is asked for and what must come out, `app` executes it, `ledger` is what it
leaves behind, `driver` asks for it, `cluster` is the processes, `faults` what is done to them,
`evidence` what is known afterwards, `verdict` what must hold, `run` all of it together.
"""
