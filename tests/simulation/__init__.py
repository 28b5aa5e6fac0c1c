"""The deterministic simulator: the real parties over a simulated clock, network, disk and two simulated chains.

A run is a pure function of its seed. `loop` gives virtual time, `world` the boundaries at which a party may die,
`disk`, `evm_chain`, `svm_chain` and `wire` what lies behind those boundaries, `parties` the real code, `invariants`
what must hold, `run` one run, `campaign` many.
"""
